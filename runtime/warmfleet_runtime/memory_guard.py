"""Ends the engine that outgrew its memory before the kernel ends the whole container, as it may on cgroup v2."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from warmfleet_runtime.memory import ControlGroup

FULL = 0.92
"""Of the limit: what is left is for what an engine takes until it is dead."""


@dataclass(frozen=True, slots=True)
class Share:
    """One engine's part of the memory."""

    id: str
    held_bytes: int
    budget_bytes: int
    """What the assignment reserves for it in its state. 0: not known, all it holds is over it."""


@dataclass(frozen=True, slots=True)
class Victim:
    """The engine that has to end."""

    id: str
    message: str


def choose(limit_bytes: int, used_bytes: int, shares: Sequence[Share]) -> Victim | None:
    """Return the engine most over its budget if the memory is nearly full, with the reason in words.

    Where none is over its budget the one nearest to it goes: without it the kernel would end them all.
    """
    if used_bytes < FULL * limit_bytes:
        return None
    holders = [share for share in shares if share.held_bytes > 0]
    if not holders:
        return None
    worst = max(holders, key=lambda share: (share.held_bytes - share.budget_bytes, share.id))
    percent = 100 * used_bytes // limit_bytes
    runner = f"with the runner's memory at {percent} % of its limit of {limit_bytes} bytes"
    if worst.held_bytes > worst.budget_bytes:
        what = f"it outgrew its memory budget of {worst.budget_bytes} bytes: it held {worst.held_bytes} bytes {runner}"
    else:
        what = f"it held {worst.held_bytes} bytes {runner}, which its processes beside the engines need a part of"
    return Victim(worst.id, f"{what}; raise resources.memory")


class MemoryGuard:
    """Watches the container's memory, or without a limit of its own the sum of its engines."""

    def __init__(self, limit_bytes: int, group: ControlGroup | None) -> None:
        # A larger limit is that of something the runner is only a part of.
        self._group = group if group and limit_bytes and group.limit_bytes <= limit_bytes else None
        self._limit_bytes = self._group.limit_bytes if self._group else limit_bytes

    def look(self, known: Sequence[Share], measure: Callable[[], Sequence[Share]]) -> Victim | None:
        """Return the engine to end, if any. `known` is cheap and may be old; `measure` is neither."""
        if not self._limit_bytes or self._used_bytes(known) < FULL * self._limit_bytes:
            return None
        shares = measure()
        return choose(self._limit_bytes, self._used_bytes(shares), shares)

    def _used_bytes(self, shares: Sequence[Share]) -> int:
        if self._group is None:
            return sum(share.held_bytes for share in shares)
        # Most looks end here: a file of one line.
        used = self._group.used_bytes()
        return used if used < FULL * self._limit_bytes else self._group.held_bytes()
