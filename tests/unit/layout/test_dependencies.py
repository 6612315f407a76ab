"""Every dependency is pinned, and its reason is written down."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIREMENTS = [
    *PROJECT["project"]["dependencies"],
    *(each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra),
    *(each for group in PROJECT["dependency-groups"].values() for each in group),
    *PROJECT["build-system"]["requires"],
]
REASONS = (ROOT / "docs" / "design" / "dependencies.md").read_text()


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_a_dependency_is_pinned_and_explained(requirement: str) -> None:
    package, _, version = requirement.partition("==")
    name = package.partition("[")[0]
    assert version, f"{requirement} is not pinned"
    assert f"| {name} |" in REASONS, f"docs/design/dependencies.md does not say why {name} is needed"


def test_no_reason_outlives_its_dependency() -> None:
    python_part = REASONS.split("## Outside Python")[0]
    explained = set(re.findall(r"^\| ([a-z][a-z0-9-]*) \|", python_part, re.MULTILINE))
    assert explained == {re.split(r"\[|==", requirement)[0] for requirement in REQUIREMENTS}
