"""A model of one node's stores that carries plans out, with time that passes as told.

It does what the agent does (reserve, fill, commit, evict, link), and refuses what a store refuses. So a plan that
asks for room that isn't there, or evicts what is in use, fails here.
"""

import math
from collections import Counter
from dataclasses import dataclass, field, replace

from warmfleet_agent.plan import (
    Ask,
    Demote,
    Discard,
    Evict,
    Fetch,
    Held,
    Known,
    Link,
    NodeState,
    Plan,
    Problem,
    Promote,
    Stop,
    TierState,
    Transfer,
    Unlink,
    Use,
    Wanted,
    plan,
    room_bytes,
    used,
)
from warmfleet_api.vocabulary import Tier, WeightsProblem

ASK_SECONDS = 0.1
RETRY_SECONDS = 10.0
DISK_BYTES_PER_SECOND = 1.5e9


@dataclass
class Store:
    """One tier."""

    capacity_bytes: int
    page_bytes: int = 4096
    held: dict[str, Held] = field(default_factory=dict)
    drafts: dict[str, int] = field(default_factory=dict)
    idle_drafts: dict[str, int] = field(default_factory=dict)
    stray_bytes: int = 0
    """Unlinked but mapped, or a stranger's."""

    @property
    def used_bytes(self) -> int:
        entries = sum(room_bytes(held.file_bytes, self.page_bytes) for held in self.held.values())
        return entries + sum(self.drafts.values()) + sum(self.idle_drafts.values()) + self.stray_bytes

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.used_bytes


@dataclass
class Node:
    """One node; `wanted`, `views`, `locked` and `broken` are changed by tests at will."""

    memory: Store
    disk: Store | None = None
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """What sources hold: bytes of the files by key."""
    wanted: dict[str, Wanted] = field(default_factory=dict)
    views: dict[str, set[str]] = field(default_factory=dict)
    links: dict[str, set[str]] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    """Keys whose sources fail."""
    parallel: int = 2
    remote_bytes_per_second: float = 200e6
    is_planned_twice: bool = True
    """Whether each plan is made twice and compared."""
    now: float = 1e9
    known: dict[str, Known] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)
    uses: dict[str, Use] = field(default_factory=dict)
    asking: dict[str, float] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """How often each kind of step was carried out."""
    evictions: Counter[Tier] = field(default_factory=Counter)
    fetched_bytes: int = 0
    last: Plan = field(default_factory=Plan)

    def state(self) -> NodeState:
        return NodeState(
            memory=self._tier(self.memory, self.locked),
            disk=self._tier(self.disk, set()) if self.disk is not None else None,
            wanted=dict(self.wanted),
            known=dict(self.known),
            views={view: frozenset(keys) for view, keys in self.views.items()},
            links={view: frozenset(keys) for view, keys in self.links.items()},
            transfers=tuple(self.transfers.values()),
            asking=frozenset(self.asking),
            problems=dict(self.problems),
            uses=dict(self.uses),
            parallel=self.parallel,
            remote_bytes_per_second=self.remote_bytes_per_second,
            disk_bytes_per_second=DISK_BYTES_PER_SECOND,
        )

    @staticmethod
    def _tier(store: Store, locked: set[str]) -> TierState:
        return TierState(
            capacity_bytes=store.capacity_bytes,
            free_bytes=store.free_bytes,
            held={key: replace(held, is_locked=key in locked) for key, held in store.held.items()},
            idle_drafts=dict(store.idle_drafts),
            page_bytes=store.page_bytes,
        )

    # Rounds ---------------------------------------------------------------------------------------------------------

    def round(self) -> Plan:
        """Plan once and carry it out."""
        state = self.state()
        self.last = plan(state, self.now)
        assert not self.is_planned_twice or self.last == plan(state, self.now), (
            "the same state and time give the same plan"
        )
        was_over = self.memory.free_bytes < 0, self.disk is not None and self.disk.free_bytes < 0
        for step in self.last.steps:
            assert step.reason
            self.counts[type(step).__name__] += 1
            self._carry_out(step)
        assert was_over[0] or self.memory.free_bytes >= 0, "memory went above its budget"
        assert was_over[1] or self.disk is None or self.disk.free_bytes >= 0, "the disk went above its budget"
        return self.last

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a round at each change."""
        end = self.now + seconds
        while True:
            self.round()
            following = self._next_event()
            if following > end:
                break
            self._advance(following)
        self.now = end
        self.round()

    def settle(self, max_rounds: int = 500) -> int:
        """Go on until nothing is under way and time alone changes nothing; returns how many rounds that took."""
        for count in range(max_rounds):
            self.round()
            following = self._next_event()
            if math.isinf(following):
                return count
            self._advance(following)
        raise AssertionError(f"still at work after {max_rounds} rounds: {self.last}")

    def restart(self) -> None:
        """Kill the agent: what was under way is lost, drafts on disk are kept."""
        for transfer in list(self.transfers.values()):
            self._end(transfer, keep=True)
        self.asking.clear()
        self.known.clear()
        self.problems.clear()
        self.uses.clear()

    def lose_disk(self) -> None:
        for transfer in list(self.transfers.values()):
            if Tier.DISK in {transfer.source, transfer.target}:
                self._end(transfer, keep=False)
        self.disk = None

    def _next_event(self) -> float:
        times = [*self.asking.values(), *self.ends.values()]
        if self.last.next_time is not None:
            times.append(self.last.next_time)
        return max(self.now, min(times, default=math.inf))

    def _advance(self, to: float) -> None:
        self.now = max(to, self.now)
        for key, at in list(self.asking.items()):
            if at <= self.now:
                del self.asking[key]
                if key in self.broken:
                    self._fail(key)
                else:
                    self.known[key] = Known(self.sizes[key], self.now)
        for key, at in list(self.ends.items()):
            if at <= self.now:
                self._finish(key)

    def _finish(self, key: str) -> None:
        transfer = self.transfers[key]
        if transfer.source is Tier.REMOTE and key in self.broken:
            self._end(transfer, keep=True)
            self._fail(key)
            return
        store = self._store(transfer.target)
        self._end(transfer, keep=False)
        self.fetched_bytes += transfer.bytes if transfer.source is Tier.REMOTE else 0
        store.held[key] = Held(key, self.sizes[key], self.now)
        self.problems.pop(key, None)

    def _fail(self, key: str) -> None:
        # The agent's back-off grows; here it ends when the test mends the source.
        self.problems[key] = Problem(
            WeightsProblem.SOURCE_UNREACHABLE, f"{key}: no answer", self.now, self.now + RETRY_SECONDS
        )

    def _end(self, transfer: Transfer, *, keep: bool) -> None:
        store = self._store(transfer.target)
        room = store.drafts.pop(transfer.key)
        if keep and transfer.target is Tier.DISK:
            store.idle_drafts[transfer.key] = room
        del self.transfers[transfer.key]
        del self.ends[transfer.key]

    # Steps ----------------------------------------------------------------------------------------------------------

    def _carry_out(self, step: object) -> None:
        match step:
            case Ask(key):
                assert key not in self.asking
                self.asking[key] = self.now + ASK_SECONDS
            case Fetch(key, target):
                self._begin(key, Tier.REMOTE, target, 1.0 + step.bytes / self.remote_bytes_per_second)
            case Promote(key):
                assert self.disk is not None and key in self.disk.held
                self._begin(key, Tier.DISK, Tier.MEMORY, 0.05 + step.bytes / DISK_BYTES_PER_SECOND)
            case Demote(key):
                assert key in self.memory.held
                self._begin(key, Tier.MEMORY, Tier.DISK, 0.05 + step.bytes / DISK_BYTES_PER_SECOND)
            case Stop(key, target):
                assert self.transfers[key].target is target
                self._end(self.transfers[key], keep=True)
            case Discard(key, tier):
                del self._store(tier).idle_drafts[key]
            case Evict(key, tier):
                self._evict(key, tier)
            case Link(view, key):
                assert key in self.memory.held
                assert key in self.views[view]
                self.links.setdefault(view, set()).add(key)
                self.uses[key] = used(self.uses.get(key), self.now)
            case Unlink(view, key):
                self.links[view].remove(key)
            case _:
                raise AssertionError(step)

    def _begin(self, key: str, source: Tier, target: Tier, seconds: float) -> None:
        store = self._store(target)
        assert key not in self.transfers, f"{key} is on its way already"
        assert key not in store.held, f"{key} is there already"
        needed = room_bytes(self.sizes[key], store.page_bytes)
        store.idle_drafts.pop(key, None)
        assert needed <= store.free_bytes, f"{key} needs {needed} bytes, {store.free_bytes} are free"
        store.drafts[key] = needed
        self.transfers[key] = Transfer(key, source, target, sum(self.sizes[key]), room_bytes=needed, is_reserved=True)
        self.ends[key] = self.now + seconds
        others = sum(each.source is source for each in self.transfers.values())
        assert others <= (self.parallel + 3 if source is Tier.REMOTE else 2)

    def _evict(self, key: str, tier: Tier) -> None:
        assert not (key in self.wanted and self.wanted[key].is_pinned), f"{key} is pinned"
        if tier is Tier.MEMORY:
            assert key not in self.locked, f"{key} is locked"
            assert all(key not in keys for keys in self.views.values()), f"{key} is in a view"
            for keys in self.links.values():
                keys.discard(key)
        assert not any(each.key == key and each.source is tier for each in self.transfers.values())
        del self._store(tier).held[key]
        self.evictions[tier] += 1

    def _store(self, tier: Tier) -> Store:
        store = self.memory if tier is Tier.MEMORY else self.disk
        assert store is not None
        return store
