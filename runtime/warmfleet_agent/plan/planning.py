"""One plan of one node. Pure, over one state.

Order: classes strictly, inside a class what a runner waits for first, then what is there soonest. What can't go on (no
room, a failure that is not over, its turn has not come) blocks nothing behind it.
"""

import math
from collections.abc import Iterable, Sequence

from warmfleet_agent.plan import words
from warmfleet_agent.plan.occupants import Occupants
from warmfleet_agent.plan.room import HYSTERESIS, Claim, Kind, Occupant, Refused, Room
from warmfleet_agent.plan.state import Known, NodeState, Problem, TierState, Wanted, room_bytes
from warmfleet_agent.plan.steps import (
    Ask,
    Demote,
    Discard,
    Evict,
    Fetch,
    Link,
    Plan,
    Promote,
    Step,
    Stop,
    Unlink,
    Wait,
)
from warmfleet_agent.plan.value import Values
from warmfleet_api.vocabulary import EntryState, Priority, Tier, WeightsProblem

ASKS = 8
"""Sources asked at once."""
PROMOTIONS = 1
"""Copies from disk at once: two that share a disk both come as late as the second of two that don't."""
EXTRA = {Priority.CRITICAL: 2, Priority.HIGH: 1}
"""Fetches of a class beyond `parallel`, so that it never waits for the end of a lower one's. Nested: the higher has
more."""
EXTRA_AWAITED = 1
"""Transfers beyond these of what a runner waits for."""


def plan(state: NodeState, now: float) -> Plan:
    """Decide what to begin now."""
    return _Round(state, now).decide()


class _Round:
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

    def decide(self) -> Plan:
        # 1. Views: what is there is shown, what is not wanted in a view any more leaves it.
        self._show()
        # 2. What nobody wants any more ends, and gives its room and turn back.
        stopped = self._stop_unwanted()
        self.rooms = self._open_rooms(stopped)
        # 3. A tier that shrank gives back what it can.
        self._shrink()
        # 4. Ask sources about what is not known.
        self._ask()
        # 5. Bring what is not where it should be, in the order of its turn.
        for claim in sorted(self._claims(), key=lambda each: each.turn):
            self._serve(claim)
        # 6. With nothing else to do for the disk, copy down what is in memory alone.
        self._demote()
        # What goes may leave a wish open that this plan did not see.
        if any(isinstance(step, Evict | Stop | Discard) for step in self.steps):
            self.next_time = self.now
        return Plan(
            steps=tuple(self.steps),
            waits=tuple(self.waits),
            next_time=self.next_time if math.isfinite(self.next_time) else None,
            warnings=tuple(self.warnings),
        )

    # Views ----------------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        views, links, held = self.state.views, self.state.links, self.state.memory.held
        for view, shown in sorted(links.items()):
            for key in sorted(shown - views.get(view, frozenset())):
                self.steps.append(Unlink(view, key, f"the runner of {view} does not host it any more"))
        for view, keys in sorted(views.items()):
            for key in sorted(keys - links.get(view, frozenset())):
                if key in held:
                    self.steps.append(Link(view, key, f"it is in memory, and the runner of {view} waits for it"))

    # What nobody wants ----------------------------------------------------------------------------------------------

    def _stop_unwanted(self) -> frozenset[str]:
        stopped = set()
        for transfer in sorted(self.state.transfers, key=lambda each: each.key):
            # A copy to disk is made for what is worth keeping, demanded or not.
            if transfer.target is Tier.DISK and transfer.source is Tier.MEMORY and transfer.key in self.state.wanted:
                continue
            if self.values.least_tier(transfer.key) is not Tier.REMOTE:
                continue
            done = f"{words.size(transfer.done_bytes)} of {words.size(transfer.bytes)}"
            reason = f"nobody wants it any more; {done} were there"
            self.steps.append(Stop(transfer.key, transfer.target, reason))
            if transfer.target is Tier.DISK:
                self.steps.append(Discard(transfer.key, Tier.DISK, reason))
            stopped.add(transfer.key)
            self.moving.discard(transfer.key)
            if transfer.source is Tier.REMOTE:
                self.fetches -= 1
            else:
                self.copies -= 1
        for tier, store in self._stores():
            for key, size_bytes in sorted(store.idle_drafts.items()):
                if key not in self.state.wanted and key not in self.seen:
                    self.steps.append(Discard(key, tier, f"nobody wants it any more; {words.size(size_bytes)} go"))
                elif key in store.held:
                    self.steps.append(Discard(key, tier, f"it is whole by now; {words.size(size_bytes)} go"))
                else:
                    continue
                stopped.add(key)
        return frozenset(stopped)

    def _stores(self) -> Iterable[tuple[Tier, TierState]]:
        yield Tier.MEMORY, self.state.memory
        if self.state.disk is not None:
            yield Tier.DISK, self.state.disk

    # Room -----------------------------------------------------------------------------------------------------------

    def _open_rooms(self, stopped: frozenset[str]) -> dict[Tier, Room]:
        rooms = {}
        for tier, store in self._stores():
            free_bytes = store.free_bytes
            for transfer in self.state.transfers:
                if transfer.target is tier and transfer.key in stopped and transfer.is_reserved:
                    free_bytes += transfer.room_bytes
                elif transfer.target is tier and transfer.key not in stopped and not transfer.is_reserved:
                    free_bytes -= transfer.room_bytes
            free_bytes += sum(size for key, size in store.idle_drafts.items() if key in stopped)
            occupants = Occupants(tier, store, self.state, self.values).list(stopped)
            rooms[tier] = Room(tier, store.capacity_bytes, free_bytes, occupants)
        return rooms

    def _shrink(self) -> None:
        for tier, room in self.rooms.items():
            if room.free_bytes >= 0:
                continue
            over = words.size(-room.free_bytes)
            victims = room.shrink()
            self._clear(tier, victims, f"{tier.lower()} holds {over} more than it may")
            if room.free_bytes < 0:
                self.warnings.append(
                    f"{tier.lower()} holds {words.size(-room.free_bytes)} more than its"
                    f" {words.size(room.capacity_bytes)}, and nothing more may go: it is pinned or in use"
                )

    def _clear(self, tier: Tier, victims: Sequence[Occupant], why: str) -> None:
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

    # Asking ---------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        asking = len(self.state.asking)
        waiting = 0
        order = sorted(
            self.state.wanted.values(), key=lambda each: (each.priority.rank, each.key not in self.seen, each.key)
        )
        for wanted in order:
            if not self._is_unknown(wanted):
                continue
            problem = self._standing(wanted.key, Tier.REMOTE)
            if problem is not None:
                self._fail(wanted.key, problem)
            elif asking >= ASKS:
                waiting += 1
                message = f"{ASKS} other sources are being asked; it is number {waiting} of those that wait"
                self.waits.append(Wait(wanted.key, EntryState.WAITING, message))
            else:
                asking += 1
                self.steps.append(Ask(wanted.key, f"its files and sizes are not known; {wanted.priority}"))

    def _is_unknown(self, wanted: Wanted) -> bool:
        """Whether its source has to be asked before anything else can be decided."""
        key = wanted.key
        if key in self.state.asking or key in self.moving or key in self.state.memory.held:
            return False
        if self.state.disk is not None and key in self.state.disk.held:
            return False
        return self._answer(key) is None

    def _answer(self, key: str) -> Known | None:
        """Return what the source said, unless it failed later: it is asked again before any room is made for it."""
        known, problem = self.state.known.get(key), self.state.problems.get(key)
        if known is None or (problem is not None and problem.tier is Tier.REMOTE and problem.since >= known.asked):
            return None
        return known

    def _standing(self, key: str, tier: Tier) -> Problem | None:
        """Return the problem that stops the entry in a tier now."""
        problem = self.state.problems.get(key)
        return problem if problem is not None and problem.tier is tier and problem.until > self.now else None

    def _fail(self, key: str, problem: Problem) -> None:
        until = problem.until if math.isfinite(problem.until) else None
        self.waits.append(Wait(key, EntryState.FAILED, problem.message, problem.reason, until))
        self.next_time = min(self.next_time, problem.until)

    # Bringing -------------------------------------------------------------------------------------------------------

    def _claims(self) -> Iterable[Claim]:
        """Yield what is not where it should be, is not on its way, and of which the sizes are known."""
        memory, disk = self.state.memory.held, self.state.disk.held if self.state.disk is not None else {}
        for key in sorted(self.state.wanted.keys() | self.seen):
            wanted = self.state.wanted.get(key)
            target = Tier.MEMORY if key in self.seen or wanted is None else wanted.tier
            if target is Tier.REMOTE or key in memory or key in self.moving or key in self.state.asking:
                continue
            if key in disk:
                if target is Tier.DISK:
                    continue
                file_bytes = disk[key].file_bytes
            elif wanted is None:
                self.waits.append(Wait(key, EntryState.WAITING, "a runner waits for it, but nobody says where it is"))
                continue
            elif (answer := self._answer(key)) is not None:
                file_bytes = answer.file_bytes
            else:
                continue
            size_bytes = sum(file_bytes)
            yield Claim(
                key=key,
                priority=self.values.priority(key),
                is_awaited=key in self.seen,
                target=target,
                file_bytes=file_bytes,
                merit=self.values.merit(key, size_bytes),
                seconds=self.values.promote_seconds(size_bytes)
                if key in disk
                else self.values.fetch_seconds(size_bytes),
            )

    def _serve(self, claim: Claim) -> None:
        if self._never_fits(claim):
            return
        if (Tier.DISK, claim.key) in self.evicted:
            self.waits.append(Wait(claim.key, EntryState.WAITING, f"{claim.who}; its copy on disk just made room"))
        elif self.state.disk is not None and claim.key in self.state.disk.held:
            self._promote(claim)
        else:
            self._fetch(claim)

    def _never_fits(self, claim: Claim) -> bool:
        room = self.rooms.get(claim.target)
        if room is None:
            message = "it is wanted on disk, but this node keeps nothing on disk; give the WeightCache a disk"
        elif (needed := self._needed(claim, claim.target)) > room.capacity_bytes:
            field = f"{claim.target.lower()}.size"
            message = (
                f"it needs {words.size(needed)}, and {field} of this node's WeightCache is"
                f" {words.size(room.capacity_bytes)}; raise {field}, or take a smaller or quantized model"
            )
        else:
            return False
        self.waits.append(Wait(claim.key, EntryState.FAILED, message, WeightsProblem.NEVER_FITS))
        return True

    def _needed(self, claim: Claim, tier: Tier) -> int:
        store = self.state.memory if tier is Tier.MEMORY else self.state.disk
        return room_bytes(claim.file_bytes, store.page_bytes) if store is not None else 0

    def _promote(self, claim: Claim) -> None:
        problem = self._standing(claim.key, Tier.DISK)
        if problem is not None:
            self._fail(claim.key, problem)
            return
        if self.copies >= PROMOTIONS + (EXTRA_AWAITED if claim.is_awaited else 0):
            self._wait_for_turn(claim, f"{self.copies} copied between disk and memory", Tier.DISK)
            return
        needed = self._needed(claim, Tier.MEMORY)
        made = self._make_room(claim, Tier.MEMORY, needed)
        if made is None:
            return
        self.copies += 1
        self.rooms[Tier.DISK].keep(claim.key, "being copied to memory")
        speed = f"{words.size(claim.bytes)} from disk, about {words.duration(claim.seconds)}"
        self.steps.append(Promote(claim.key, claim.bytes, needed, f"{claim.who}; {speed}{made}"))

    def _fetch(self, claim: Claim) -> None:
        problem = self._standing(claim.key, Tier.REMOTE)
        if problem is not None:
            self._fail(claim.key, problem)
            return
        limit = self.state.parallel + EXTRA.get(claim.priority, 0) + (EXTRA_AWAITED if claim.is_awaited else 0)
        if self.fetches >= limit:
            self._wait_for_turn(claim, f"{self.fetches} fetched, {limit} may be at once for it", Tier.REMOTE)
            return
        target = self._way(claim)
        needed = self._needed(claim, target)
        made = self._make_room(claim, target, needed)
        if made is None:
            return
        self.fetches += 1
        way = " by way of the disk" if target is not claim.target else ""
        speed = f"{words.size(claim.bytes)} from afar{way}, about {words.duration(claim.seconds)}"
        self.steps.append(Fetch(claim.key, target, claim.bytes, needed, f"{claim.who}; {speed}{made}"))

    def _way(self, claim: Claim) -> Tier:
        """Return where to fetch to: the disk first where it has room, so that what leaves memory comes back soon.

        What nobody demands goes from there only for what is worth more.
        """
        disk = self.rooms.get(Tier.DISK)
        if claim.target is Tier.DISK or disk is None or self._standing(claim.key, Tier.DISK) is not None:
            return claim.target
        made = disk.make(claim, self._needed(claim, Tier.DISK), self.now)
        if isinstance(made, Refused):
            return claim.target
        lost = sum(each.value * each.room_bytes for each in made.victims if not each.is_demanded)
        gained = self.values.value(claim.key, claim.bytes, Tier.DISK) * claim.bytes
        return Tier.DISK if HYSTERESIS * lost <= gained else claim.target

    def _make_room(self, claim: Claim, tier: Tier, needed_bytes: int) -> str | None:
        """Plan who goes, and return that in words; None: there is no room, and the claim waits."""
        room = self.rooms[tier]
        found = room.make(claim, needed_bytes, self.now)
        if isinstance(found, Refused):
            self.waits.append(
                Wait(claim.key, EntryState.WAITING, found.message, WeightsProblem.CACHE_FULL, found.until)
            )
            self.next_time = min(self.next_time, found.until or math.inf)
            return None
        self._clear(tier, found.victims, f"{claim.key} ({claim.who}) needs {words.size(needed_bytes)}")
        room.take(claim.key, needed_bytes)
        return f"; {words.listing([each.key for each in found.victims])} made room" if found.victims else ""

    def _wait_for_turn(self, claim: Claim, busy: str, tier: Tier) -> None:
        ahead = sum(wait.reason is None for wait in self.waits)
        going = sorted(
            each.key for each in self.state.transfers if (each.source is Tier.REMOTE) == (tier is Tier.REMOTE)
        )
        under_way = f" ({words.listing(going)})" if going else ""
        message = f"{claim.who}; {busy}{under_way}; {ahead} wait before it"
        self.waits.append(Wait(claim.key, EntryState.WAITING, message))

    # Copying down ---------------------------------------------------------------------------------------------------

    def _demote(self) -> None:
        """Copy the most valuable entry that is in memory alone to disk, so that its eviction will cost little."""
        disk, room = self.state.disk, self.rooms.get(Tier.DISK)
        if disk is None or room is None or self.copies > 0 or self.fetches > 0:
            return
        candidates = []
        for key, held in self.state.memory.held.items():
            if (
                key in disk.held
                or key in self.moving
                or key not in self.state.wanted
                or (Tier.MEMORY, key) in self.evicted
            ):
                continue
            if self._standing(key, Tier.DISK) is None:
                candidates.append((-self.values.value(key, held.bytes, Tier.DISK), key, held))
        for negative, key, held in sorted(candidates, key=lambda each: each[:2]):
            needed = room_bytes(held.file_bytes, disk.page_bytes)
            made = room.make_below(-negative, needed)
            if made is None:
                continue
            self._clear(Tier.DISK, made.victims, f"{key} is worth more there")
            room.take(key, needed)
            again = words.duration(self.values.fetch_seconds(held.bytes))
            reason = f"it is in memory alone, and would take {again} from afar; the disk has nothing else to do"
            self.steps.append(Demote(key, held.bytes, needed, reason))
            return
