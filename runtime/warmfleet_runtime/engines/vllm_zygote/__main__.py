"""`python -m warmfleet_runtime.engines.vllm_zygote`: imports vLLM, then forks an engine for each request on its link.

announce what the imports came to
for each line of PID 1:  fork, fork again, answer with the leader's pid
in the leader:           leave the zygote behind, check the model's folder, become vLLM
"""

import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from warmfleet_runtime import processes
from warmfleet_runtime.engines.vllm_zygote import child, private, protocol
from warmfleet_runtime.engines.vllm_zygote.environment import CACHE_VARIABLE, FOR_IMPORTS, Constants, recorded, too_late
from warmfleet_runtime.engines.vllm_zygote.protocol import Announcement, Answer

_DEVICES = {"/dev/nvidia-uvm", "/dev/kfd"}
"""What CUDA and ROCm open first; libraries that only look GPUs up do not."""


class NotForkableError(Exception):
    """This process must not be forked; the message says why."""


def run(load: Callable[[], private.Vllm]) -> None:
    """End with PID 1's end of the link, or go on as an engine; `load` does the imports."""
    processes.die_with_parent()
    with socket.socket(fileno=protocol.DESCRIPTOR) as link:
        began = time.monotonic() - processes.seconds_since_start()
        own = {name: value for name, value in os.environ.items() if name not in FOR_IMPORTS}
        try:
            with recorded() as read:
                vllm = load()
            constants = Constants(Path(own[CACHE_VARIABLE]))
            check_forkable()
        except (private.MismatchError, NotForkableError) as error:
            link.sendall(protocol.encode(Announcement(problem=str(error))))
            sys.exit(os.EX_CONFIG)
        gc.collect()
        gc.freeze()  # what is here now is never looked at again, so that its pages stay shared
        gc.enable()
        link.sendall(protocol.encode(Announcement(import_milliseconds=round(1000 * (time.monotonic() - began)))))
        try:
            serve(link, own, read)
            return
        except child.Leader as leader:
            fork = leader.fork
    child.settle(fork, constants)
    command = child.check_folder(fork)
    vllm.serve(command, forks=fork.environment.get(private.METHOD) != private.SPAWN)


def check_forkable() -> None:
    """Make sure that a copy of this process would be whole.

    Raises:
        NotForkableError: it has threads, which a copy would lack, or a device, which a copy can't use.
    """
    threads = [path.joinpath("comm").read_text().strip() for path in Path("/proc/self/task").iterdir()]
    if len(threads) > 1:
        raise NotForkableError(f"importing vLLM left {len(threads)} threads ({', '.join(threads)}); one can be forked")
    if opened := _DEVICES & {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}:
        raise NotForkableError(f"importing vLLM opened {', '.join(opened)}; a copy of this process could not use it")


def serve(link: socket.socket, own: dict[str, str], read: set[str]) -> None:
    """Answer each request until PID 1 closes the link.

    Raises:
        child.Leader: in an engine's new leader.
    """
    for line in lines(link):
        if (answer := respond(line, own, read, partial(_tell, link))) is not None:
            link.sendall(protocol.encode(answer))


def respond(line: bytes | None, own: dict[str, str], read: set[str], tell: Callable[[int], None]) -> Answer | None:
    """Fork an engine for one line, None being one over `protocol.MAX_LINE_BYTES`; return what `tell` did not say."""
    if line is None:
        return Answer(error=f"a request of more than {protocol.MAX_LINE_BYTES} bytes")
    try:
        fork = protocol.decode_fork(line)
    except msgspec.MsgspecError as error:
        return Answer(error=f"unreadable request: {error}")
    if late := too_late(own, fork.environment, read):
        return Answer(error=f"vLLM is imported already, too late for {', '.join(late)}")
    try:
        child.fork_leader(fork, tell)
    except child.ForkFailedError as error:
        return Answer(error=str(error))
    return None


def _tell(link: socket.socket, pid: int) -> None:
    link.sendall(protocol.encode(Answer(pid=pid)))


def lines(link: socket.socket) -> Iterator[bytes | None]:
    """Yield each line; None for one that is too long, whose rest is skipped."""
    kept, skips = bytearray(), False
    while data := link.recv(65536):
        kept += data
        while (end := kept.find(b"\n")) >= 0:
            line = bytes(kept[:end])
            del kept[: end + 1]
            if not skips:
                yield line
            skips = False
        if len(kept) > protocol.MAX_LINE_BYTES:
            kept.clear()
            if not skips:
                yield None
            skips = True


if __name__ == "__main__":
    run(private.load)
