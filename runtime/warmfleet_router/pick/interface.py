"""What the parts of a choice look like to each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from warmfleet_router.endpoints import Endpoint


class Asked(msgspec.Struct, frozen=True):
    """What a choice may depend on."""

    now: float
    """Monotonic seconds."""
    session_key: int | None = None
    """64 bits of hash over the session's name; None: the request has none."""
    prefix_key: int | None = None
    """64 bits of hash over the beginning of the prompt."""
    unknown_room: int = 1
    """How many requests an endpoint is taken to have room for that has not told."""
    avoid: frozenset[str] = frozenset()
    """Uids of runners that failed this request already: the last choice."""


class Filter(Protocol):
    """Which endpoints may take a request."""

    def __call__(self, endpoints: Sequence[Endpoint], asked: Asked) -> Sequence[Endpoint]:
        """Return those that may."""


class Scorer(Protocol):
    """How good an endpoint is for a request."""

    def __call__(self, endpoint: Endpoint, asked: Asked) -> float:
        """Return from 0 (bad) to 1 (good)."""


class Picker(Protocol):
    """Which one of several it is."""

    def __call__(self, endpoints: Sequence[Endpoint], asked: Asked) -> Endpoint | None:
        """Return one; None: no opinion, ask the next picker."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to choose: the first picker with an opinion decides, else the highest sum of weighted scores.

    Equal sums go to the endpoint that was used longest ago.
    """

    scorers: tuple[tuple[float, Scorer], ...]
    pickers: tuple[Picker, ...] = ()
