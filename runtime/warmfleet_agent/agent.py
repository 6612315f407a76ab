"""The agent of one node: follows its NodeCache, looks at its stores, plans, carries out, tells.

    NodeCache (spec) ─┐
    stores, locks ────┼─▶ `observe` ─▶ `plan` ─▶ `work` ─▶ NodeCache (status), stream, metrics
    answers, uses ────┘

A round follows each change: of the spec, at the end of a step, when a volume was mounted, when a delay is over.
Whatever fails is an entry's or a tier's trouble, said in words; the process ends only by a signal or a defect.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Never

from warmfleet_agent import csi
from warmfleet_agent.api import Feed, status_route
from warmfleet_agent.artifacts.serving import artifacts_route
from warmfleet_agent.device import device
from warmfleet_agent.knowledge import Knowledge
from warmfleet_agent.metrics import Metrics
from warmfleet_agent.mounts import MountError
from warmfleet_agent.observe import View, agent_status, node_state, seen, tier_of
from warmfleet_agent.plan import Plan, plan
from warmfleet_agent.records import NODE_CACHES, NodeCache, UnreadableError, spec_of
from warmfleet_agent.settings import Settings
from warmfleet_agent.status import node_status
from warmfleet_agent.status_writer import StatusWriter
from warmfleet_agent.store.errors import StoreError
from warmfleet_agent.threads import Threads
from warmfleet_agent.tiers import Look, Tiers, boot_id
from warmfleet_agent.transfers import Transfers
from warmfleet_agent.views import NodeViews
from warmfleet_agent.work import Work
from warmfleet_api.node_cache import NodeCacheSpec, TierSpec
from warmfleet_api.vocabulary import CacheReason, Tier
from warmfleet_kube.client import WATCH_GRACE_SECONDS, KubeClient, Selector
from warmfleet_kube.errors import ProcessError
from warmfleet_kube.health import LAG_LIMIT_SECONDS, Check, LoopLag, serve
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.reflector import Reflector

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Without any change the stores are looked at again after this long: readers and strangers tell nobody."""
SLOW_LOOK_SECONDS = 5.0
"""A store that does not answer for so long is left out until it does: a disk may hang."""
SHORTEST_ROUND_SECONDS = 0.05
ROUND_LIMIT_SECONDS = 120.0
DEFECT_SECONDS = 10.0
NOTHING = NodeCacheSpec(cache="none", memory=TierSpec(bytes=0, path="/none"))
"""Before there is a spec."""


class Agent:
    """All parts of one agent process, wired."""

    def __init__(self, client: KubeClient, settings: Settings, metrics: Metrics) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._threads = Threads()
        self._tiers = Tiers(settings)
        self._knowledge = Knowledge()
        self._transfers = Transfers(
            client, self._threads, allow_private=settings.private_sources, kubelet=settings.kubelet_path
        )
        self._device = device()
        self._mirror: Mirror[NodeCache] = Mirror()
        self._reflector = Reflector(
            "nodecache",
            client,
            NODE_CACHES,
            self._mirror,
            metrics.kube,
            watch_seconds=settings.watch_seconds,
            selector=Selector(fields=f"metadata.name={settings.node_name}"),
        )
        self._writer = StatusWriter(client, self._mirror, settings.node_name, metrics)
        self._changed = asyncio.Event()
        self._work: Work | None = None
        self._plugin: csi.Plugin | None = None
        self._spec: NodeCacheSpec | None = None
        self._recalled = False
        self._view = View(settings.node_name, boot_id(), -1, NOTHING)
        self._feed = Feed(lambda: agent_status(self._view), lambda: bool(self._view.moving), metrics)
        self._opening: asyncio.Future[None] | None = None
        self._looks: dict[Tier, asyncio.Future[Look | None]] = {}
        self._round_at = time.monotonic()
        self._asked_for: set[tuple[str, str]] = set()
        self._lag = LoopLag(metrics.loop_lag)
        self._mirror.subscribe(self._record_changed)

    async def run(self) -> Never:
        """Run until cancelled.

        Raises:
            ProcessError: kubelet's sockets can't be made, or the port is taken.
        """
        try:
            async with self._kubelet(), asyncio.TaskGroup() as tasks:
                self._work = Work(
                    tasks=tasks,
                    threads=self._threads,
                    tiers=self._tiers,
                    transfers=self._transfers,
                    knowledge=self._knowledge,
                    metrics=self._metrics,
                    on_change=self._changed.set,
                )
                tasks.create_task(
                    serve(
                        self._settings.port,
                        self._checks(),
                        self._ready,
                        self._metrics.render,
                        routes=(status_route(self._feed), artifacts_route(self._tiers, self._metrics)),
                        on_port=self._feed.opened,
                    ),
                    name="http",
                )
                tasks.create_task(self._lag.run(), name="loop lag")
                tasks.create_task(self._reflector.run(), name="watch of the NodeCache")
                tasks.create_task(self._writer.run(), name="status")
                tasks.create_task(self._rounds(self._work), name="rounds")
        finally:
            self._threads.close()
            self._tiers.close()
        raise AssertionError("unreachable: no task ends by itself")

    @property
    def port(self) -> int:
        """The port it listens on; 0 before it does."""
        return self._feed.port

    def line(self) -> bytes:
        """Return what the agent says of itself now, as a line of the stream."""
        return self._feed.line()

    def end_transfers(self) -> None:
        """Have all transfers end soon, before the process does."""
        if self._work is not None:
            self._work.end_all()

    @asynccontextmanager
    async def _kubelet(self) -> AsyncIterator[None]:
        """Serve kubelet, where this node's runners get views."""
        path = self._settings.kubelet_path
        if path is None:
            yield
            return
        views = NodeViews(self._tiers, self._threads)
        try:
            async with csi.serve(path, self._settings.node_name, views, self._changed.set) as self._plugin:
                yield
        except MountError as error:
            raise ProcessError(str(error)) from error

    async def _rounds(self, work: Work) -> Never:
        try:
            await self._reflector.synced.wait()
            while True:
                self._round_at = time.monotonic()
                self._changed.clear()
                try:
                    pause = await self._round(work)
                except Exception:
                    # A defect that one entry brings to light must not take the others from their runners.
                    logger.exception("this round failed; the next one follows")
                    pause = DEFECT_SECONDS
                await asyncio.sleep(SHORTEST_ROUND_SECONDS)
                try:
                    async with asyncio.timeout(max(0.0, pause - SHORTEST_ROUND_SECONDS)):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            work.end_all()

    async def _round(self, work: Work) -> float:
        """Look, plan, carry out and tell, once; return after how many seconds to do it again at latest."""
        record = self._mirror.get("", self._settings.node_name)
        if record is None:
            # The node may have left its WeightCache, or the object may come back: what is here stays.
            return LOOK_SECONDS
        trouble = self._follow(record)
        spec = self._spec
        if spec is None:
            generation = record.metadata.generation
            self._tell(View(self._view.node, self._view.boot_id, generation, NOTHING, trouble=trouble), Plan())
            return LOOK_SECONDS
        if not work.moving:
            self._tiers.close_left()
        await self._open(spec)
        memory, disk = await self._look(Tier.MEMORY), await self._look(Tier.DISK)
        view = View(
            node=self._settings.node_name,
            boot_id=self._view.boot_id,
            device=self._device,
            generation=record.metadata.generation,
            spec=spec,
            memory=memory,
            disk=disk,
            moving=work.moving,
            asking=work.asking,
            has_plugin=self._plugin is not None,
            trouble=trouble or self._trouble(memory),
            notes=self._notes(),
        )
        now = time.time()
        state = node_state(view, self._knowledge)
        decided = plan(state, now) if state is not None else Plan()
        self._count_views(view)
        wanted = {each.key: each for each in spec.entries}
        again = await work.carry_out(decided, wanted)
        prove_at = work.prove(wanted, _held(view), now)
        if again == 0.0:
            # What was done at once is not in what was seen before.
            return 0.0
        self._tell(view, decided)
        times = [at - now for at in (decided.next_time, prove_at, self._tiers.retry_time()) if at is not None]
        return max(0.0, min(LOOK_SECONDS, again if again is not None else LOOK_SECONDS, *times))

    def _follow(self, record: NodeCache) -> tuple[CacheReason, str] | None:
        """Take over the spec; return what keeps this agent from it."""
        if not self._recalled:
            self._knowledge.recall(self._writer.present(), self._view.boot_id, record.metadata.generation)
            self._recalled = True
        try:
            spec = spec_of(record)
        except UnreadableError as error:
            return CacheReason.UNREADABLE, str(error)
        if spec != self._spec:
            self._spec = spec
            self._knowledge.follow(spec)
            self._transfers.bandwidth.bytes_per_second = spec.bytes_per_second
            self._transfers.file_roots = tuple(Path(root) for root in spec.file_roots)
        return None

    async def _open(self, spec: NodeCacheSpec) -> None:
        """Have the tiers made what the spec says; memory comes first, so a disk that hangs keeps nobody from it."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._threads.quick(self._tiers.follow, spec, time.time()))
        done, _ = await asyncio.wait([self._opening], timeout=SLOW_LOOK_SECONDS)
        if done:
            opened, self._opening = self._opening, None
            opened.result()

    async def _look(self, tier: Tier) -> Look | None:
        """Look at a store; None without it, or while it does not answer."""
        look = self._looks.pop(tier, None)
        if look is None:
            look = asyncio.ensure_future(self._threads.quick(self._tiers.look, tier))
        done, _ = await asyncio.wait([look], timeout=SLOW_LOOK_SECONDS)
        if not done:
            self._looks[tier] = look
            return None
        try:
            return look.result()
        except (OSError, StoreError) as error:
            self._tiers.broke(tier, error, time.time())
            return None

    def _tell(self, view: View, decided: Plan) -> None:
        self._view = view
        told = seen(view, self._knowledge, decided)
        held = frozenset(told.memory.entries) | frozenset(told.disk.entries if told.disk is not None else ())
        self._knowledge.keep_uses(held | {each.key for each in view.spec.entries})
        self._writer.show(node_status(told, self._writer.present(), datetime.now(UTC)))
        self._feed.touch()
        for tier, look in ((Tier.MEMORY, view.memory), (Tier.DISK, view.disk)):
            if look is not None:
                self._metrics.capacity.labels(tier).set(look.view.capacity_bytes)
                self._metrics.used.labels(tier).set(look.view.used_bytes)
                self._metrics.unlinked.labels(tier).set(look.view.unlinked_bytes)
                self._metrics.entries.labels(tier).set(len(look.entries))

    def _count_views(self, view: View) -> None:
        """Count once for each entry of each view where it was when it was first asked for."""
        wanted = {(each.uid, key) for each in view.spec.views for key in each.keys}
        for _, key in wanted - self._asked_for:
            self._metrics.views.labels(tier_of(view, key)).inc()
        self._asked_for = wanted

    def _trouble(self, memory: Look | None) -> tuple[CacheReason, str] | None:
        if memory is not None:
            return None
        if Tier.MEMORY in self._looks:
            return CacheReason.STORE_BROKEN, _silent(Tier.MEMORY)
        return CacheReason.STORE_BROKEN, self._tiers.troubles.get(Tier.MEMORY, "memory is not there yet")

    def _notes(self) -> tuple[str, ...]:
        """Return what works, but not as it should."""
        notes = [*self._tiers.troubles.values(), *self._tiers.notes.values(), *map(_silent, self._looks)]
        if self._plugin is not None and self._plugin.registration_error:
            notes.append(f"kubelet refuses the volumes of runners: {self._plugin.registration_error}")
        return tuple(notes)

    def _record_changed(self, former: NodeCache | None, new: NodeCache | None) -> None:
        """Listener of the mirror: own writes of the status change nothing that is planned from."""
        if former is None or new is None or former.spec != new.spec or former.metadata.uid != new.metadata.uid:
            self._changed.set()

    def _checks(self) -> tuple[Check, ...]:
        return (
            Check(
                "watch of the NodeCache",
                self._reflector.age_seconds,
                self._settings.blind_seconds,
                self._reflector.trouble,
            ),
            Check(
                "rounds",
                lambda: time.monotonic() - self._round_at if self._reflector.synced.is_set() else 0.0,
                ROUND_LIMIT_SECONDS + WATCH_GRACE_SECONDS,
            ),
            Check("event loop", self._lag.age_seconds, LAG_LIMIT_SECONDS),
        )

    def _ready(self) -> tuple[bool, str]:
        synced, memory = self._reflector.synced.is_set(), self._tiers.memory is not None
        registered = self._plugin is None or self._plugin.is_registered
        why = self._plugin.registration_error if self._plugin is not None else "off"
        lines = [
            f"{_ok(synced)} watch of the NodeCache {self._reflector.trouble()}",
            f"{_ok(memory)} memory {self._tiers.troubles.get(Tier.MEMORY, '')}",
            f"{_ok(registered)} volumes {why}",
            *self._notes(),
        ]
        return synced and memory and registered, "\n".join(lines)


def _held(view: View) -> frozenset[str]:
    memory = view.memory.entries.keys() if view.memory is not None else frozenset()
    disk = view.disk.entries.keys() if view.disk is not None else frozenset()
    return frozenset(memory | disk)


def _silent(tier: Tier) -> str:
    return f"{tier.value}: it does not answer; look at the node's kernel log: dmesg"


def _ok(good: bool) -> str:
    return "ok" if good else "FAILED"
