"""Answers about objects that never change: worked out once, and given again while the same objects are asked about.

Specs, pods, assignments and status lines are immutable, and a mirror gives the same object until a new version comes.
So what follows from them alone needs no second look. It is a matter of time only: a round without it decides the same.
"""

from collections.abc import Callable, Hashable
from operator import is_
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")
MOST = 65_536
"""Answers kept; beyond that all are forgotten, which costs one slow round."""


_all: list[Callable[[], None]] = []


def forget() -> None:
    """Keep no answer of anything, as in a process that has just begun: for who measures or tests that."""
    for clear in _all:
        clear()


def until_forgotten(known: dict[Key, Value]) -> dict[Key, Value]:
    """Let `forget` empty what is kept by other means than a `Remembered`; return it."""
    _all.append(known.clear)
    return known


class Remembered(Generic[Value]):
    """Answers by key, each good for exactly the objects it was worked out from."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[tuple[object, ...], Value]] = until_forgotten({})

    def get(self, key: Hashable, *parts: object) -> Value | None:
        """Return the answer if it was worked out from these very objects."""
        known = self._known.get(key)
        if known is None:
            return None
        former, value = known
        if len(parts) == 1 == len(former):  # as nearly always, and asked a thousand times in a round
            return value if former[0] is parts[0] else None
        return value if len(former) == len(parts) and all(map(is_, former, parts)) else None

    def take(self, key: Hashable) -> Value | None:
        """Return an answer, and keep it no more."""
        known = self._known.pop(key, None)
        return known[1] if known is not None else None

    def keep(self, key: Hashable, value: Value, *parts: object) -> Value:
        """Keep an answer, and return it."""
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = parts, value
        return value
