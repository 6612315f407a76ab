"""The layout that the tools rest on; what breaks when it is not kept stands at each test."""

import operator
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling import build

ROOT = Path(__file__).parents[3]
SOURCE_ROOTS = (ROOT / "operator", ROOT / "runtime")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAX_LINES = 500


def packages() -> list[Path]:
    """Return the import packages of the product."""
    return sorted(path.parent for root in SOURCE_ROOTS for path in root.glob("*/__init__.py"))


def test_the_standard_librarys_operator_is_the_one_that_is_imported() -> None:
    assert operator.__file__ is not None
    assert Path(operator.__file__).is_relative_to(Path(sys.base_prefix))


@pytest.mark.parametrize("root", SOURCE_ROOTS, ids=lambda root: root.name)
def test_a_source_root_is_no_package(root: Path) -> None:
    """`operator/__init__.py` would shadow Python's own `operator` and end every import."""
    assert not list(root.glob("*.py"))


@pytest.mark.parametrize("root", SOURCE_ROOTS, ids=lambda root: root.name)
def test_tests_are_only_in_tests(root: Path) -> None:
    """pytest would put the source root on its path, with the same end."""
    assert not [path for pattern in ("test_*.py", "*_test.py", "conftest.py") for path in root.rglob(pattern)]


def test_test_folders_are_no_packages() -> None:
    """With --import-mode=importlib modules of the same name live in peace only outside packages."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_package_is_shipped_checked_and_typed() -> None:
    shipped = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [str(path.relative_to(ROOT)) for path in packages()] == sorted(shipped)
    assert sorted(path.name for path in packages()) == sorted(PYPROJECT["tool"]["importlinter"]["root_packages"])
    assert all((path / "py.typed").exists() for path in packages())


def test_the_wheel_holds_the_packages_at_its_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        files = {Path(name) for name in wheel.namelist()}
    tops = {path.parts[0] for path in files if not path.parts[0].endswith(".dist-info")}
    assert tops == {path.name for path in packages()}
    assert Path("warmfleet_api/vllm_arguments.json") in files
    assert Path("warmfleet_api/py.typed") in files


def test_modules_stay_readable_in_one_sitting() -> None:
    folders = (*SOURCE_ROOTS, ROOT / "hack", ROOT / "tests")
    modules = [path for folder in folders for path in folder.rglob("*.py") if not path.is_relative_to(ROOT / ".venv")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}
