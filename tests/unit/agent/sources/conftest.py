from collections.abc import Mapping
from pathlib import Path

import pytest

from support.sources.model import write_model
from support.sources.registry import registry_program


@pytest.fixture(scope="session")
def registry_binary() -> Path:
    return registry_program()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


@pytest.fixture
def wanted(root: Path) -> Mapping[str, bytes]:
    return write_model(root)
