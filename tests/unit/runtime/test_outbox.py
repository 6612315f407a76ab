"""What a runner offers of what its engines compiled, and what an engine begins with."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from support.runner_process import vllm
from warmfleet_api import artifacts, names
from warmfleet_api.runner_status import StageTime
from warmfleet_api.vocabulary import Stage
from warmfleet_runtime import processes
from warmfleet_runtime.compile_cache import pack
from warmfleet_runtime.engines import launch_vllm
from warmfleet_runtime.machine.state import Engine, Limits, Phase, new_engine
from warmfleet_runtime.outbox import LOOK_SECONDS, Outbox

ASSIGNED = vllm("m", Path("/weights/m-1"))
NAME = artifacts.cache_name(ASSIGNED.engine)
KERNEL = "inductor/fb/cfb.main.so"
END_SECONDS = 20.0


def ready(*stages: Stage) -> Engine:
    made = new_engine(ASSIGNED, Limits(weights_root="/weights"))
    return replace(made, phase=Phase.READY, stages=tuple(StageTime(name=each, milliseconds=61_000) for each in stages))


def compiled(cache: Path, name: str = NAME) -> Path:
    """Leave what an engine leaves."""
    file = cache / name / KERNEL
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\x7fELF")
    return cache / name


def entry(weights: Path, name: str = NAME, content: bytes = b"") -> Path:
    """Show an entry as the node's agent does."""
    folder = weights / f"{name}-0123"
    folder.mkdir(parents=True)
    (folder / artifacts.PACK_FILE).write_bytes(content)
    (folder / names.MANIFEST_FILE).write_text("{}")
    return folder


def packed(outbox: Outbox, engine: Engine) -> bool:
    """Have the outbox pack what it wants to, and return whether that was anything."""
    outbox.keep([engine])
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        try:
            found, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if found:
            return outbox.exited(processes.Exit(found, os.waitstatus_to_exitcode(status)))
        time.sleep(0.02)
    raise AssertionError("the packing did not end")


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "cache", tmp_path / "weights")


def test_what_an_engine_compiled_is_offered_until_the_store_shows_it(tmp_path: Path, outbox: Outbox) -> None:
    compiled(tmp_path / "cache")
    engine = ready(Stage.ENGINE_FORKED, Stage.COMPILED)
    assert packed(outbox, engine)
    assert outbox.keep([engine]) is True
    assert [(offer.name, offer.milliseconds) for offer in outbox.offers] == [(NAME, 61_000)]
    pack_file = tmp_path / "cache" / artifacts.OUTBOX / f"{NAME}.pack"
    assert pack_file.is_file()
    entry(tmp_path / "weights")
    time.sleep(LOOK_SECONDS)
    assert outbox.keep([engine]) is True
    assert outbox.offers == ()
    assert not pack_file.exists()
    assert not packed(outbox, engine), "what was handed on is not packed again"


@pytest.mark.parametrize(
    "engine",
    [
        replace(ready(Stage.COMPILED), phase=Phase.STARTING),
        ready(Stage.ENGINE_FORKED),
        replace(ready(Stage.COMPILED), entries=()),
    ],
    ids=["not Ready", "nothing compiled", "nothing read from a store"],
)
def test_nothing_else_is_packed(tmp_path: Path, outbox: Outbox, engine: Engine) -> None:
    compiled(tmp_path / "cache")
    assert not packed(outbox, engine)


def test_what_the_store_shows_already_is_not_packed(tmp_path: Path, outbox: Outbox) -> None:
    compiled(tmp_path / "cache")
    entry(tmp_path / "weights")
    assert not packed(outbox, ready(Stage.COMPILED))


def test_a_packing_that_fails_offers_nothing(outbox: Outbox) -> None:
    assert packed(outbox, ready(Stage.COMPILED)), "an engine that left nothing"
    assert outbox.offers == ()


# What an engine begins with -------------------------------------------------------------------------------------------


def begins(tmp_path: Path, *, shown: bool = True) -> None:
    cache = tmp_path / "cache" / NAME
    launch_vllm.take_compile_cache(cache, str(tmp_path / "weights" / NAME) if shown else "")


def shown_pack(tmp_path: Path) -> bytes:
    pack(compiled(tmp_path / "other"), tmp_path / "a.pack", NAME)
    return (tmp_path / "a.pack").read_bytes()


def test_an_engine_begins_with_what_the_store_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry(tmp_path / "weights", content=shown_pack(tmp_path))
    begins(tmp_path)
    assert (tmp_path / "cache" / NAME / KERNEL).read_bytes() == b"\x7fELF"
    assert capsys.readouterr().out == f"{launch_vllm.COMPILE_CACHE_LINE}1\n"


def test_an_engine_that_has_a_cache_of_its_own_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry(tmp_path / "weights", content=shown_pack(tmp_path))
    own = tmp_path / "cache" / NAME
    own.mkdir(parents=True)
    begins(tmp_path)
    assert list(own.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_what_can_not_be_used_is_named_and_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry(tmp_path / "weights", content=shown_pack(tmp_path)[:-1])
    begins(tmp_path)
    assert list((tmp_path / "cache").glob("*")) == []
    assert f"compiling anew: {NAME}-0123 can't be used" in capsys.readouterr().out


def test_after_failed_starts_nothing_compiled_before_is_used(tmp_path: Path) -> None:
    entry(tmp_path / "weights", content=shown_pack(tmp_path))
    begins(tmp_path)
    begins(tmp_path, shown=False)
    assert not (tmp_path / "cache" / NAME).exists()
