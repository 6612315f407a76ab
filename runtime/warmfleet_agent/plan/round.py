"""What one plan knows and has found so far."""

import math
from collections.abc import Iterable, Sequence

from warmfleet_agent.plan import words
from warmfleet_agent.plan.occupants import Occupants
from warmfleet_agent.plan.room import Claim, Kind, Occupant, Refused, Room
from warmfleet_agent.plan.state import Known, NodeState, Problem, TierState, room_bytes
from warmfleet_agent.plan.steps import Discard, Evict, Plan, Step, Stop, Wait
from warmfleet_agent.plan.value import Values
from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem


class Round:
    """One plan while it is made."""

    def __init__(self, state: NodeState, now: float) -> None:
        self.state = state
        self.now = now
        self.values = Values(state, now)
        self.seen = self.values.seen
        self.moving = {transfer.key for transfer in state.transfers}
        self.fetches = sum(transfer.source is Tier.REMOTE for transfer in state.transfers)
        self.copies = sum(transfer.source is not Tier.REMOTE for transfer in state.transfers)
        self.steps: list[Step] = []
        self.waits: list[Wait] = []
        self.warnings: list[str] = []
        self.next_time = math.inf
        self.rooms: dict[Tier, Room] = {}
        self.evicted: set[tuple[Tier, str]] = set()

    def plan(self) -> Plan:
        """Return it, once it is made."""
        # What goes may leave a wish open that this plan did not see.
        if any(isinstance(step, Evict | Stop | Discard) for step in self.steps):
            self.next_time = self.now
        return Plan(
            steps=tuple(self.steps),
            waits=tuple(self.waits),
            next_time=self.next_time if math.isfinite(self.next_time) else None,
            warnings=tuple(self.warnings),
        )

    def stores(self) -> Iterable[tuple[Tier, TierState]]:
        """Yield the tiers of the node."""
        yield Tier.MEMORY, self.state.memory
        if self.state.disk is not None:
            yield Tier.DISK, self.state.disk

    def open_rooms(self, stopped: frozenset[str]) -> None:
        """See what takes the room of each tier, without what is being stopped."""
        for tier, store in self.stores():
            free_bytes = store.free_bytes
            for transfer in self.state.transfers:
                if transfer.target is tier and transfer.key in stopped and transfer.is_reserved:
                    free_bytes += transfer.room_bytes
                elif transfer.target is tier and transfer.key not in stopped and not transfer.is_reserved:
                    free_bytes -= transfer.room_bytes
            free_bytes += sum(size for key, size in store.idle_drafts.items() if key in stopped)
            occupants = Occupants(tier, store, self.state, self.values).list(stopped)
            self.rooms[tier] = Room(tier, store.capacity_bytes, free_bytes, occupants)

    def clear(self, tier: Tier, victims: Sequence[Occupant], why: str) -> None:
        """Let them go."""
        self.rooms[tier].clear(victims)
        for victim in victims:
            reason = f"{why}; {victim.note}"
            if victim.kind is Kind.ENTRY:
                self.steps.append(Evict(victim.key, tier, victim.room_bytes, reason))
                self.evicted.add((tier, victim.key))
            elif victim.kind is Kind.TRANSFER:
                self.steps.append(Stop(victim.key, tier, reason))
                self._give_turn_back(victim.key)
            if victim.kind is Kind.DRAFT or (victim.kind is Kind.TRANSFER and tier is Tier.DISK):
                self.steps.append(Discard(victim.key, tier, reason))

    def _give_turn_back(self, key: str) -> None:
        for transfer in self.state.transfers:
            if transfer.key == key and transfer.source is Tier.REMOTE:
                self.fetches -= 1
            elif transfer.key == key:
                self.copies -= 1

    def answer(self, key: str) -> Known | None:
        """Return what the source said, unless it failed later: it is asked again before any room is made for it."""
        known, problem = self.state.known.get(key), self.state.problems.get(key)
        if known is None or (problem is not None and problem.tier is Tier.REMOTE and problem.since >= known.asked):
            return None
        return known

    def standing(self, key: str, tier: Tier) -> Problem | None:
        """Return the problem that stops the entry in a tier now."""
        problem = self.state.problems.get(key)
        return problem if problem is not None and problem.tier is tier and problem.until > self.now else None

    def fail(self, key: str, problem: Problem) -> None:
        """Let the entry wait for its next try."""
        until = problem.until if math.isfinite(problem.until) else None
        self.waits.append(Wait(key, EntryState.FAILED, problem.message, problem.reason, until))
        self.next_time = min(self.next_time, problem.until)

    def make_room(self, claim: Claim, tier: Tier, needed_bytes: int) -> str | None:
        """Plan who goes, and return that in words; None: there is no room, and the claim waits."""
        room = self.rooms[tier]
        found = room.make(claim, needed_bytes, self.now)
        if isinstance(found, Refused):
            self.waits.append(
                Wait(claim.key, EntryState.WAITING, found.message, WeightsProblem.CACHE_FULL, found.until)
            )
            self.next_time = min(self.next_time, found.until or math.inf)
            return None
        self.clear(tier, found.victims, f"{claim.key} ({claim.who}) needs {words.size(needed_bytes)}")
        room.take(claim.key, needed_bytes)
        return f"; {words.listing([each.key for each in found.victims])} made room" if found.victims else ""

    def needed(self, claim: Claim, tier: Tier) -> int:
        """Return what room the claim needs in a tier, in bytes."""
        store = self.state.memory if tier is Tier.MEMORY else self.state.disk
        return room_bytes(claim.file_bytes, store.page_bytes) if store is not None else 0
