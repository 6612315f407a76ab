"""A front in this process for every test that asks for one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.front import Front, running_front


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_front(tmp_path) as front:
        yield front
