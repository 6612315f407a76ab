"""Ports for processes that tests start, which nobody else takes before they listen.

A port that is merely free now may be gone a moment later: to a process of another test that runs beside this one, or to
a client, whose end of a connection gets one of the kernel's range (32768 and above). So these are of a range of their
own, below that of NodePorts, and given out in turn; each process of pytest begins at another place.
"""

import os
import socket
from contextlib import ExitStack
from itertools import count

_FIRST, _PAIRS = 10_000, 10_000
_APART = 1_601
"""Pairs between the beginnings of two processes whose numbers follow each other."""

_turn = count(os.getpid() * _APART)


def free_port() -> int:
    """Return a port that is free at all addresses, as is the next one."""
    for _ in range(_PAIRS):
        port = _FIRST + 2 * (next(_turn) % _PAIRS)
        with ExitStack() as stack:
            try:
                for each in (port, port + 1):
                    stack.enter_context(socket.socket()).bind(("", each))
            except OSError:
                continue
            return port
    raise AssertionError("no two free ports in a row")
