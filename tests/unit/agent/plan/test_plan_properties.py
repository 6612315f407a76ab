"""What holds after any number of plans, whatever wishes, readers, sources and budgets do in between.

`Node` fails at once where a plan goes above a budget, evicts what is in use, asks for what is under way, or is not the
same twice.
"""

from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from support.node_tiers import Node, Store
from warmfleet_agent.plan import Held, Wait, Wanted, room_bytes
from warmfleet_agent.plan.room import RESIDENCY_SECONDS
from warmfleet_api.vocabulary import Priority, Tier, WeightsProblem

MB = 10**6
KEYS = tuple("abcdefgh")
keys = st.sampled_from(KEYS)
pods = st.sampled_from(["red", "green"])
sizes = st.lists(st.integers(0, 400).map(lambda size: size * MB), min_size=1, max_size=3).map(tuple)


class AnyNode(RuleBasedStateMachine):
    """Eight models on a node that holds a few of them; a plan is made and carried out after each event."""

    @initialize(
        sizes=st.lists(sizes, min_size=len(KEYS), max_size=len(KEYS)),
        memory=st.integers(300, 2000),
        disk=st.none() | st.integers(300, 4000),
        pages=st.sampled_from([4096, 2 * 1024**2]),
        parallel=st.integers(1, 3),
    )
    def begin(self, sizes: list[tuple[int, ...]], memory: int, disk: int | None, pages: int, parallel: int) -> None:
        self.node = Node(
            memory=Store(memory * MB, page_bytes=pages),
            disk=Store(disk * MB) if disk is not None else None,
            sizes=dict(zip(KEYS, sizes, strict=True)),
            parallel=parallel,
        )

    # Wishes ---------------------------------------------------------------------------------------------------------

    @rule(
        key=keys,
        tier=st.sampled_from([Tier.MEMORY, Tier.MEMORY, Tier.DISK, Tier.REMOTE]),
        priority=st.sampled_from(Priority),
        pinned=st.booleans(),
        uses=st.integers(0, 50),
    )
    def it_is_wanted(self, key: str, tier: Tier, priority: Priority, pinned: bool, uses: int) -> None:
        self.node.wanted[key] = Wanted(key, tier, priority, is_pinned=pinned, uses_per_day=uses)
        self.node.round()

    @rule(key=keys)
    def it_is_not_wanted_any_more(self, key: str) -> None:
        self.node.wanted.pop(key, None)
        self.node.round()

    @rule(pod=pods, keys=st.sets(keys, max_size=3))
    def a_runner_is_to_see(self, pod: str, keys: set[str]) -> None:
        self.node.views[pod] = keys
        self.node.round()

    @rule(pod=pods)
    def a_runner_goes(self, pod: str) -> None:
        self.node.views.pop(pod, None)
        self.node.round()

    # Readers, strangers, budgets ------------------------------------------------------------------------------------

    @rule(key=keys)
    def a_reader_locks_it(self, key: str) -> None:
        if key in self.node.memory.held:
            self.node.locked.add(key)
        self.node.round()

    @rule(key=keys)
    def its_readers_end(self, key: str) -> None:
        self.node.locked.discard(key)
        self.node.round()

    @rule(size=st.integers(0, 500))
    def others_take_memory(self, size: int) -> None:
        self.node.memory.stray_bytes = size * MB
        self.node.round()

    @rule(size=st.integers(0, 2500))
    def the_memory_is_resized(self, size: int) -> None:
        self.node.memory.capacity_bytes = size * MB
        self.node.round()

    @rule(size=st.integers(100, 4000))
    def the_disk_is_resized(self, size: int) -> None:
        if self.node.disk is None:
            self.node.disk = Store(size * MB)
        self.node.disk.capacity_bytes = size * MB
        self.node.round()

    @rule()
    def the_disk_is_lost(self) -> None:
        self.node.lose_disk()
        self.node.round()

    # Time and failures ----------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 1, 3, 20, 100, 4000]))
    def time_passes(self, seconds: float) -> None:
        self.node.pass_time(seconds)

    @rule(keys=st.sets(keys, max_size=3))
    def sources_fail(self, keys: set[str]) -> None:
        self.node.broken = keys
        self.node.round()

    @rule()
    def the_agent_is_killed(self) -> None:
        self.node.restart()
        self.node.round()

    @rule(key=keys, tier=st.sampled_from([Tier.MEMORY, Tier.DISK]))
    def an_entry_was_there_before(self, key: str, tier: Tier) -> None:
        store = self.node.memory if tier is Tier.MEMORY else self.node.disk
        if store is None or key in store.held or key in store.idle_drafts or key in self.node.transfers:
            return
        if room_bytes(self.node.sizes[key], store.page_bytes) <= store.free_bytes:
            store.held[key] = Held(key, self.node.sizes[key], self.node.now)
        self.node.round()

    # The end --------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Whatever happened: with sources that answer all that has room arrives, and then nothing moves."""
        if not hasattr(self, "node"):
            return
        node = self.node
        node.broken = set()
        before = node.counts["Evict"]
        assert node.settle() <= 40 * len(KEYS)
        assert node.counts["Evict"] - before <= 6 * len(KEYS), "entries push each other out"
        assert node.round().steps == (), "a node at rest has something to do"
        for key in (*node.wanted, *(key for keys in node.views.values() for key in keys)):
            self._is_served(key)
        # Values age; nothing else changes, so an entry or two may give way, but none comes and goes.
        before = node.counts["Evict"]
        for _ in range(24):
            node.pass_time(3600)
        assert node.counts["Evict"] - before <= 2 * len(KEYS), "entries push each other out"

    def _is_served(self, key: str) -> None:
        node = self.node
        in_view = any(key in keys for keys in node.views.values())
        wanted = node.wanted.get(key)
        tier = Tier.MEMORY if in_view or wanted is None else wanted.tier
        on_disk = node.disk is not None and key in node.disk.held
        if key in node.memory.held or tier is Tier.REMOTE or (tier is Tier.DISK and on_disk):
            return
        (wait,) = [wait for wait in node.last.waits if wait.key == key]
        if wanted is None and not on_disk:
            return
        self._has_no_room(key, tier, wait, wanted.priority if wanted is not None else Priority.LOW, in_view)

    def _has_no_room(self, key: str, tier: Tier, wait: Wait, priority: Priority, in_view: bool) -> None:
        node = self.node
        store = node.memory if tier is Tier.MEMORY else node.disk
        if store is None:
            assert wait.reason is WeightsProblem.NEVER_FITS
            return
        needed = room_bytes(node.sizes[key], store.page_bytes)
        if needed > store.capacity_bytes:
            assert wait.reason is WeightsProblem.NEVER_FITS
            return
        assert wait.reason is WeightsProblem.CACHE_FULL
        movable = sum(
            room_bytes(node.sizes[each], store.page_bytes) for each in self._movable(store, tier, priority, in_view)
        )
        assert store.free_bytes + movable < needed, f"{key} has room: {wait.message}"

    def _movable(self, store: Store, tier: Tier, priority: Priority, in_view: bool) -> Iterator[str]:
        """Yield who has to go for an entry of this class, told anew and without values."""
        node = self.node
        for key, held in store.held.items():
            wanted = node.wanted.get(key)
            is_seen = tier is Tier.MEMORY and any(key in keys for keys in node.views.values())
            if is_seen or (wanted is not None and wanted.is_pinned):
                continue
            if tier is Tier.MEMORY and key in node.locked:
                continue
            if wanted is None or wanted.tier is Tier.REMOTE:
                # On disk it may be what a runner waits for, which no memory has room for.
                if tier is Tier.MEMORY or key in node.memory.held:
                    yield key
            elif wanted.priority.rank > priority.rank or (
                in_view and wanted.priority is priority and node.now - held.arrived > RESIDENCY_SECONDS
            ):
                yield key


AnyNode.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestAnyNode = AnyNode.TestCase
