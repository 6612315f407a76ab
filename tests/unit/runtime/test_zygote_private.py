"""What is known of vLLM, without vLLM: names that do not hold are named, and nothing else is tried."""

import json
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest

from warmfleet_runtime.engines.vllm_zygote import private
from warmfleet_runtime.engines.vllm_zygote.environment import Constants, recorded, too_late


def module(name: str, monkeypatch: pytest.MonkeyPatch, **members: object) -> ModuleType:
    """Return a module that can be imported during the test."""
    made = ModuleType(name)
    vars(made).update(members)
    monkeypatch.setitem(sys.modules, name, made)
    return made


def test_the_names_were_read_in_the_release_the_image_holds() -> None:
    table = json.loads(resources.files("warmfleet_api").joinpath("vllm_arguments.json").read_text())
    assert table["version"] == private.VERSION


def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    private.check_version(module("vllm", monkeypatch, __version__=private.VERSION))
    with pytest.raises(private.MismatchError, match=r"vLLM 0\.33\.0 is installed; engines are forked with"):
        private.check_version(module("vllm", monkeypatch, __version__="0.33.0"))


def test_names_that_are_missing_or_take_other_parameters_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def reshaped(arguments: object, more: object) -> None: ...

    def context() -> None: ...

    names = {"made_up:reshaped": ("args",), "made_up:gone": (), "made_up:same": ("arguments", "more")}
    module("made_up", monkeypatch, reshaped=reshaped, same=reshaped)
    module("holder", monkeypatch, get_mp_context=context)
    module("stranger", monkeypatch, get_mp_context=reshaped)
    monkeypatch.setattr(private, "_PARAMETERS", names)
    monkeypatch.setattr(private, "_CONTEXT_HOLDERS", ("holder", "stranger"))
    assert private.unmet() == [
        "made_up:reshaped takes (arguments, more) instead of (args)",
        "made_up:gone is missing (module 'made_up' has no attribute 'gone')",
        "stranger has no get_mp_context of vLLM's own",
    ]


def test_a_function_is_run_in_a_copy_that_changes_nothing_here() -> None:
    seen: list[int] = []

    def look() -> int:
        seen.append(1)
        return len(seen)

    assert (private.run_in_copy(look), seen) == (1, [])


def test_a_function_that_fails_in_a_copy_fails_here(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("no such class")

    with pytest.raises(RuntimeError, match="ended without a result"):
        private.run_in_copy(fail)
    assert "no such class" in capfd.readouterr().err


def test_only_variables_that_somebody_asked_for_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in ("ASKED", "GOT", "CHECKED", "COPIED"):
        monkeypatch.setenv(name, "1")
    with recorded() as read:
        assert (
            os.environ["ASKED"] and os.environ.get("GOT") and os.getenv("MISSING") is None and "CHECKED" in os.environ
        )
        assert dict(os.environ.items())["COPIED"] and os.environ.copy()["COPIED"]
    os.environ.get("LATER")
    assert read & {"ASKED", "GOT", "MISSING", "CHECKED", "COPIED", "LATER"} == {"ASKED", "GOT", "MISSING", "CHECKED"}


@pytest.mark.parametrize(
    ("wanted", "late"),
    [
        ({}, []),
        ({"VLLM_ASKED": "2"}, ["VLLM_ASKED"]),
        ({"VLLM_LAZY": "2"}, []),
        ({"XDG_CACHE_HOME": "/other", "CUDA_VISIBLE_DEVICES": "1"}, []),
        ({"OMP_NUM_THREADS": "4", "LD_PRELOAD": "x.so", "PYTHONHASHSEED": "0"}, None),
    ],
)
def test_a_variable_is_too_late_if_its_value_was_used_up(wanted: dict[str, str], late: list[str] | None) -> None:
    own = {"VLLM_ASKED": "1", "VLLM_LAZY": "1", "XDG_CACHE_HOME": "/own"}
    read = {"VLLM_ASKED", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES"}
    assert too_late(own, {**own, **wanted}, read) == (sorted(wanted) if late is None else late)


def test_a_variable_that_was_asked_for_must_not_be_missing_either() -> None:
    assert too_late({"VLLM_ASKED": "1"}, {}, {"VLLM_ASKED"}) == ["VLLM_ASKED"]


def test_constants_below_the_folder_are_moved_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    library = module(
        "library", monkeypatch, HOME="/cache/z/library", PATH=Path("/cache/z/p"), OTHER="/cache/zz/library", NUMBER=3
    )
    constants = Constants(Path("/cache/z"))
    constants.move(Path("/cache/engine"))
    assert (vars(library)["HOME"], vars(library)["PATH"]) == ("/cache/engine/library", Path("/cache/engine/p"))
    assert (vars(library)["OTHER"], vars(library)["NUMBER"]) == ("/cache/zz/library", 3)
