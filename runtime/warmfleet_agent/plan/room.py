"""Room in one tier: who takes it, and who has to go for whom.

A wanted entry that is not there (a claim) pushes out, the least valuable first:

* what nobody demands there: always,
* what is demanded: of a lower class always; of the same class when it is worth `HYSTERESIS` times as much, or a runner
  waits for it; of a higher class only when a runner waits for it and it is worth so much more (its use is certain, the
  other's isn't). Of the same and of a higher class nothing goes in the first `RESIDENCY_SECONDS`.

Never: what a reader holds, what is pinned, what a runner is to see, what is being copied from.

Two entries can't push each other out in turn: the comparison is by class and by a merit that does not depend on where
the entries are, and it can't hold in both directions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from warmfleet_agent.plan import words
from warmfleet_api.vocabulary import Priority, Tier

HYSTERESIS = 1.25
RESIDENCY_SECONDS = 60.0


class Kind(StrEnum):
    """What takes room."""

    ENTRY = "entry"
    TRANSFER = "transfer"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Claim:
    """A wanted entry that is not where it should be."""

    key: str
    priority: Priority
    is_awaited: bool
    """A runner waits for it."""
    target: Tier
    file_bytes: tuple[int, ...]
    merit: float
    seconds: float
    """How long it will take."""

    @property
    def bytes(self) -> int:
        """Size of its files together."""
        return sum(self.file_bytes)

    @property
    def turn(self) -> tuple[int, bool, float, str]:
        """Sort by it: class, then what a runner waits for, then what is there soonest."""
        return self.priority.rank, not self.is_awaited, self.seconds, self.key

    @property
    def who(self) -> str:
        """The claim in words."""
        return f"{self.priority}, a runner waits for it" if self.is_awaited else self.priority.value


@dataclass(frozen=True, slots=True)
class Occupant:
    """Something that takes room in a tier."""

    kind: Kind
    key: str
    room_bytes: int
    priority: Priority
    is_demanded: bool
    """It should be in this tier."""
    immovable: str
    """Why it can't go; empty: it may."""
    arrived: float
    merit: float
    value: float
    note: str
    """Why it is worth little, in words."""

    @property
    def order(self) -> tuple[bool, int, bool, float, str]:
        """Sort by it: who goes first. What is not whole has no value to anybody who reads."""
        rank = -self.priority.rank if self.is_demanded else 0
        return self.is_demanded, rank, self.kind is Kind.ENTRY, self.value, self.key

    @property
    def holder(self) -> str:
        """The occupant in words, as one that stays."""
        return f"{self.key} ({words.size(self.room_bytes)}, {self.immovable or self.priority.value})"


@dataclass(frozen=True, slots=True)
class Made:
    """Room there is, or can be."""

    victims: tuple[Occupant, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """No room."""

    message: str
    until: float | None
    """When some that may not go yet may."""


class Room:
    """One tier while a plan is made: each step that is planned changes it."""

    def __init__(self, tier: Tier, capacity_bytes: int, free_bytes: int, occupants: Sequence[Occupant]) -> None:
        self.tier = tier
        self.capacity_bytes = capacity_bytes
        self.free_bytes = free_bytes
        self._occupants = sorted(occupants, key=lambda each: each.order)

    def make(self, claim: Claim, needed_bytes: int, now: float) -> Made | Refused:
        """Find who goes for a claim, beside what its own draft takes. Nobody does if that is not enough."""
        missing_bytes = needed_bytes - self.free_bytes - self._draft_bytes(claim.key)
        going: list[Occupant] = []
        staying: list[Occupant] = []
        until = math.inf
        for occupant in self._occupants:
            from_time = _may_go_at(occupant, claim)
            (going if from_time <= now else staying).append(occupant)
            if from_time > now:
                until = min(until, from_time)
        victims = _fewest(going, missing_bytes)
        if victims is not None:
            return Made(victims)
        holders = sorted(staying, key=lambda each: (-each.room_bytes, each.key))
        could = needed_bytes - missing_bytes + sum(each.room_bytes for each in going)
        held_by = f": it is held by {words.listing([each.holder for each in holders])}" if holders else ""
        return Refused(
            f"{claim.key} needs {words.size(needed_bytes)} of {self.tier.lower()}; of {words.size(self.capacity_bytes)}"
            f" it could have {words.size(max(0, could))}{held_by}",
            until if math.isfinite(until) else None,
        )

    def shrink(self) -> tuple[Occupant, ...]:
        """Return who goes because the tier holds more than it may."""
        movable = [each for each in self._occupants if not each.immovable]
        victims = _fewest(movable, -self.free_bytes)
        return tuple(movable) if victims is None else victims

    def make_below(self, value: float, needed_bytes: int) -> Made | None:
        """Find room for a copy of no more worth than that: only what nobody demands and is worth clearly less goes."""
        going = [
            each
            for each in self._occupants
            if not each.is_demanded and not each.immovable and each.value * HYSTERESIS < value
        ]
        victims = _fewest(going, needed_bytes - self.free_bytes)
        return Made(victims) if victims is not None else None

    def clear(self, victims: Sequence[Occupant]) -> None:
        """Book that they go."""
        gone = {(each.kind, each.key) for each in victims}
        self._occupants = [each for each in self._occupants if (each.kind, each.key) not in gone]
        self.free_bytes += sum(each.room_bytes for each in victims)

    def take(self, key: str, needed_bytes: int) -> None:
        """Book that an entry comes; its draft becomes a part of it."""
        self.clear([each for each in self._occupants if each.kind is Kind.DRAFT and each.key == key])
        self.free_bytes -= needed_bytes

    def _draft_bytes(self, key: str) -> int:
        return sum(each.room_bytes for each in self._occupants if each.kind is Kind.DRAFT and each.key == key)

    def keep(self, key: str, why: str) -> None:
        """Let an entry stay for the rest of this plan: it is about to be copied from."""
        self._occupants = [
            replace(each, immovable=why) if each.key == key and not each.immovable else each for each in self._occupants
        ]


def _may_go_at(occupant: Occupant, claim: Claim) -> float:
    """Return from when on the occupant may go for the claim; infinite: never."""
    if occupant.immovable or occupant.key == claim.key:
        return math.inf
    if not occupant.is_demanded:
        return 0.0
    # How many classes the claim stands above the occupant.
    higher = occupant.priority.rank - claim.priority.rank
    if occupant.kind is not Kind.ENTRY:
        # What was copied so far is lost, so a transfer gives way to a higher class or to a runner that waits only.
        gives_way = higher > 0 or (higher == 0 and (claim.is_awaited or occupant.kind is Kind.DRAFT))
        return 0.0 if gives_way else math.inf
    if higher > 0:
        return 0.0
    is_worth_more = claim.merit > HYSTERESIS * occupant.merit
    if (is_worth_more and claim.is_awaited) or (higher == 0 and (is_worth_more or claim.is_awaited)):
        return occupant.arrived + RESIDENCY_SECONDS
    return math.inf


def _fewest(going: Sequence[Occupant], missing_bytes: int) -> tuple[Occupant, ...] | None:
    """Return the first of them that are enough, without those that turn out not to be needed; None: all are not."""
    chosen: list[Occupant] = []
    total = 0
    for occupant in going:
        if total >= missing_bytes:
            break
        chosen.append(occupant)
        total += occupant.room_bytes
    if total < missing_bytes:
        return None
    for occupant in reversed(chosen.copy()):
        if total - occupant.room_bytes >= missing_bytes:
            chosen.remove(occupant)
            total -= occupant.room_bytes
    return tuple(chosen)
