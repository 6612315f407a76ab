"""Carries a plan out: quick steps one after the other, transfers each in a task of its own, one per entry."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from warmfleet_agent.knowledge import Knowledge
from warmfleet_agent.metrics import Metrics
from warmfleet_agent.plan import Ask, Demote, Discard, Evict, Fetch, Link, Plan, Promote, Step, Stop, Unlink
from warmfleet_agent.store.errors import DamagedError, LockedError, StoreError
from warmfleet_agent.threads import Threads
from warmfleet_agent.tiers import Tiers
from warmfleet_agent.transfers import Moving, Outcome, Transfers, moving
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.vocabulary import Tier

logger = logging.getLogger(__name__)

FULL_SECONDS = 1.0
"""After a step found no room, or an entry read: the next plan waits so long, so that nothing spins."""
BROKEN_SECONDS = 5.0
"""The same after a quick step failed."""
STOP_SECONDS = 5.0
"""How long a plan waits for a transfer that is to end; it is told again by the next one."""
PROOFS_AT_ONCE = 4
Begin = Callable[[], Coroutine[Any, Any, Outcome]]


class Work:
    """What is under way.

    Args:
        tasks: owns the tasks.
        on_change: called when the next plan may be another one.
    """

    def __init__(
        self,
        *,
        tasks: asyncio.TaskGroup,
        threads: Threads,
        tiers: Tiers,
        transfers: Transfers,
        knowledge: Knowledge,
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        self.moving: dict[str, Moving] = {}
        self.asking: set[str] = set()
        self._proving: set[str] = set()
        self._tasks = tasks
        self._threads = threads
        self._tiers = tiers
        self._transfers = transfers
        self._knowledge = knowledge
        self._metrics = metrics
        self._on_change = on_change

    async def carry_out(self, plan: Plan, wanted: Mapping[str, WantedEntry]) -> float | None:
        """Do what is quick and begin the rest.

        Returns:
            In how many seconds to plan anew, 0 for at once; None if nothing of this plan asks for it.
        """
        again: float | None = None
        for step in plan.steps:
            logger.log(logging.DEBUG if isinstance(step, Link | Unlink) else logging.INFO, "%s", _words(step))
            if isinstance(step, Ask | Fetch | Promote | Demote):
                self._begin(step, wanted.get(step.key))
                continue
            again = 0.0
            try:
                await self._at_once(step)
            except (LockedError, KeyError) as error:
                # Its reader came, or it went, since the plan was made: what follows rests on it.
                logger.info("%s: %s", step.key, error)
                return FULL_SECONDS
            except DamagedError as error:
                logger.error("%s: %s; it is fetched again", step.key, error)  # noqa: TRY400 - said in words
                return FULL_SECONDS
            except (OSError, StoreError, ValueError) as error:
                logger.error("%s: %s", step.key, error)  # noqa: TRY400 - said in words
                return BROKEN_SECONDS
        return again

    def prove(self, wanted: Mapping[str, WantedEntry], held: frozenset[str], now: float) -> float | None:
        """Show credentials of held entries to their sources again where that is due; return when the next is.

        An entry fetched with a credential has a key of its own per namespace, so no other namespace's runner is ever
        linked to it; this finds out when the namespace itself is not let in any more.
        """
        prove_at = self._knowledge.prove_at
        scoped = [each for each in wanted.values() if each.secret_ref is not None and each.key in held]
        for each in scoped:
            if prove_at.get(each.key, 0.0) > now or each.key in self._proving:
                continue
            if len(self._proving) >= PROOFS_AT_ONCE:
                break
            self._proving.add(each.key)
            self._tasks.create_task(self._prove(each), name=f"prove {each.key}")
        return min((prove_at[each.key] for each in scoped if each.key in prove_at), default=None)

    def end_all(self) -> None:
        """End all transfers soon; what is on disk is gone on with by the next agent."""
        for each in self.moving.values():
            each.end()

    async def _at_once(self, step: Link | Unlink | Evict | Discard | Stop) -> None:
        memory = self._tiers.memory
        match step:
            case Link() if memory is not None:
                await self._threads.quick(memory.link, step.view, step.key)
                self._knowledge.linked(step.key, time.time())
            case Unlink() if memory is not None:
                await self._threads.quick(memory.unlink, step.view, step.key)
                self._knowledge.unlinked(step.key, time.time())
            case Evict() if (store := self._tiers.store(step.tier)) is not None:
                started = time.monotonic()
                await self._threads.long(store.evict, step.key)
                self._metrics.step_seconds.labels("Evict", "Done").observe(time.monotonic() - started)
                self._metrics.step_bytes.labels("Evict").inc(step.bytes)
            case Discard() if (store := self._tiers.store(step.tier)) is not None:
                await self._threads.long(store.discard, step.key)
            case Stop() if (way := self.moving.get(step.key)) is not None and way.task is not None:
                way.end()
                await asyncio.wait([way.task], timeout=STOP_SECONDS)

    def _begin(self, step: Ask | Fetch | Promote | Demote, wanted: WantedEntry | None) -> None:
        if step.key in self.moving or step.key in self.asking:
            return
        memory, disk = self._tiers.memory, self._tiers.disk
        match step:
            case Ask() if wanted is not None:
                self.asking.add(step.key)
                self._tasks.create_task(self._ask(wanted), name=f"ask {step.key}")
            case Fetch() if wanted is not None and (store := self._tiers.store(step.target)) is not None:
                way = moving(step.key, Tier.REMOTE, step.target, step.bytes, step.room_bytes)
                self._start("Fetch", way, lambda: self._transfers.fetch(wanted, store, way))
            case Promote() if memory is not None and disk is not None:
                way = moving(step.key, Tier.DISK, Tier.MEMORY, step.bytes, step.room_bytes)
                self._start("Promote", way, lambda: self._transfers.copy(disk, memory, way))
            case Demote() if memory is not None and disk is not None:
                way = moving(step.key, Tier.MEMORY, Tier.DISK, step.bytes, step.room_bytes)
                self._start("Demote", way, lambda: self._transfers.copy(memory, disk, way))

    def _start(self, name: str, way: Moving, begin: Begin) -> None:
        self.moving[way.key] = way
        way.task = self._tasks.create_task(self._move(name, way, begin), name=f"{name.lower()} {way.key}")
        # Also where it is cancelled before its first step.
        way.task.add_done_callback(lambda _: self._gone(way))

    async def _move(self, name: str, way: Moving, begin: Begin) -> None:
        started, outcome = time.monotonic(), Outcome()
        try:
            outcome = await begin()
        finally:
            self._gone(way)
            self._ended(name, outcome, time.monotonic() - started)
            self._knowledge.moved(way.key, way.source, way.target, outcome, time.time())
            if not outcome.done and outcome.trouble is None:
                # No room after all, or there already: nothing has changed that would keep a plan from the same.
                asyncio.get_running_loop().call_later(FULL_SECONDS, self._on_change)
            else:
                self._on_change()

    def _gone(self, way: Moving) -> None:
        if self.moving.get(way.key) is way:
            del self.moving[way.key]

    async def _ask(self, wanted: WantedEntry) -> None:
        outcome = Outcome()
        try:
            outcome = await self._transfers.ask(wanted)
        finally:
            self.asking.discard(wanted.key)
            self._ended("Ask", outcome, outcome.seconds)
            self._knowledge.asked(wanted.key, outcome, time.time())
            self._on_change()

    async def _prove(self, wanted: WantedEntry) -> None:
        try:
            outcome = await self._transfers.ask(wanted)
            self._ended("Ask", outcome, outcome.seconds)
            if outcome.trouble is None:
                self._knowledge.proven(wanted.key, time.time())
            else:
                self._knowledge.not_proven(wanted.key, outcome.trouble, time.time())
        finally:
            self._proving.discard(wanted.key)
            self._on_change()

    def _ended(self, name: str, outcome: Outcome, seconds: float) -> None:
        failed = outcome.trouble is not None or outcome.is_full
        result = "Done" if outcome.done else "Failed" if failed else "Cancelled"
        self._metrics.step_seconds.labels(name, result).observe(seconds)
        if outcome.trouble is not None:
            self._metrics.failures.labels(name, outcome.trouble.reason).inc()
        if outcome.is_full:
            self._metrics.failures.labels(name, "CacheFull").inc()
        if outcome.brought_bytes:
            self._metrics.step_bytes.labels(name).inc(outcome.brought_bytes)


def _words(step: Step) -> str:
    return f"{type(step).__name__.lower()} {step.key}: {step.reason}"
