"""From a copy of the zygote to the leader of an engine."""

import contextlib
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from warmfleet_runtime.engines import launch_vllm
from warmfleet_runtime.engines.vllm_zygote.environment import CACHE_VARIABLE, Constants
from warmfleet_runtime.engines.vllm_zygote.protocol import Fork
from warmfleet_runtime.processes import die_with_parent, let_front_go_first

_FAILED = b"!"
"""Starts what the process in between writes instead of a pid."""


class ForkFailedError(Exception):
    """The kernel made no process."""


class Leader(Exception):  # noqa: N818  # no error: it unwinds the zygote's stack in the copy
    """Raised in the copy that is to become the engine `fork`; nothing of the zygote's own code runs after it."""

    def __init__(self, fork: Fork) -> None:
        super().__init__("this process is an engine")
        self.fork = fork


def fork_leader(fork: Fork, tell: Callable[[int], None]) -> None:
    """Fork an engine's leader, which leads its own session; its parent is whoever inherits orphans.

    It goes on only after `tell` returned its pid to somebody: an engine that nobody knows of must not be.

    Raises:
        ForkFailedError: in the zygote, when there is no leader.
        Leader: in the leader.
    """
    said, say = os.pipe()
    wait, go = os.pipe()
    try:
        between = os.fork()
    except OSError as error:
        for descriptor in (said, say, wait, go):
            os.close(descriptor)
        raise ForkFailedError(f"fork: {error.strerror}") from error
    if between == 0:
        _fork_again(say)
        # Only the leader gets here.
        os.close(go)
        if not os.read(wait, 1):
            os._exit(1)
        raise Leader(fork)
    os.close(say)
    os.close(wait)
    os.waitpid(between, 0)
    with os.fdopen(said, "rb") as reader, os.fdopen(go, "wb", buffering=0) as starter:
        told = reader.read()
        if not told or told.startswith(_FAILED):
            reason = told.removeprefix(_FAILED).decode(errors="replace") or "it ended before it had a process group"
            raise ForkFailedError(f"second fork: {reason}")
        tell(int(told))
        with contextlib.suppress(BrokenPipeError):  # killed already
            starter.write(b"!")


def _fork_again(say: int) -> None:
    """Return in the leader; the process in between ends here, so that whoever inherits orphans inherits the leader."""
    try:
        if os.fork():
            os._exit(0)
    except OSError as error:
        os.write(say, _FAILED + str(error.strerror).encode())
        os._exit(1)
    try:
        os.setsid()
        os.write(say, str(os.getpid()).encode())
        os.close(say)
    except BaseException:
        os._exit(1)


def settle(fork: Fork, constants: Constants) -> None:
    """Leave behind what belongs to the zygote: its parent, descriptors, output, environment and chance."""
    die_with_parent()
    let_front_go_first()
    log = os.open(fork.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.environ.clear()
    os.environ.update(fork.environment)
    if folder := fork.environment.get(CACHE_VARIABLE):
        constants.move(Path(folder))
    # Python's own generator is seeded anew in each copy; these two are not.
    multiprocessing.current_process().authkey = os.urandom(32)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def check_folder(fork: Fork) -> list[str]:
    """Do what `launch_vllm` does before vLLM, and return vLLM's own arguments.

    Raises:
        SystemExit: the model's folder is refused; the log says why.
    """
    return launch_vllm.check(list(fork.arguments))
