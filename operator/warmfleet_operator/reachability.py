"""Whether a machine still takes connections: asked when a pod misses a heartbeat, as its silence alone may mean little.

A process that is busy for seconds says nothing meanwhile, but its kernel goes on taking connections for it. A machine
without power takes none. So two connections that get no answer at all tell sooner than a long silence, and more surely.
A refusal is an answer.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import time

TRIES = 2
TRY_SECONDS = 0.25
_MOST = 512
"""Connections at a time: a zone that is lost is not to take all file descriptors."""
_slots = asyncio.Semaphore(_MOST)


async def is_there(host: str, port: int) -> bool:
    """Whether an address answers at all, if only by a refusal; takes at most half a second, and longer in a crowd."""
    async with _slots:
        for _ in range(TRIES):
            if await _answers(host, port):
                return True
    return False


async def _answers(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    begun = time.monotonic()
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        try:
            async with asyncio.timeout(TRY_SECONDS):
                await asyncio.get_running_loop().sock_connect(probe, (host, port))
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            # Where this process itself was slow, its kernel may have had the answer in time.
            return _has_answer(probe) or time.monotonic() - begun > 2 * TRY_SECONDS
        except OSError:
            return False
    return True


def _has_answer(probe: socket.socket) -> bool:
    """Whether the kernel knows of an answer that this process has not looked at yet."""
    try:
        probe.getpeername()
    except OSError:
        return probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    return True
