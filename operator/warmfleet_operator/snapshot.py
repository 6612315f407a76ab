"""The frozen snapshot that decisions are made on: mirrors, status streams, and what the API refused lately.

Specs and assignments are parsed once per version of their object; everything else is put together anew in each round,
so that a decision never sees half of a change.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from warmfleet_api import names
from warmfleet_api.assignment import Assignment, AssignmentError, decode
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.status import LastStart
from warmfleet_api.warm_pool import DEFAULT_POOL
from warmfleet_kube.objects import Metadata
from warmfleet_operator.activity import Activity
from warmfleet_operator.caches_snapshot import StoresObserver
from warmfleet_operator.cluster import Cluster
from warmfleet_operator.decide.actions import Waiting
from warmfleet_operator.decide.canary import with_problem
from warmfleet_operator.decide.claims import CLAIM_SECONDS
from warmfleet_operator.decide.fleet import (
    Fleet,
    Limits,
    Model,
    ModelKey,
    Owner,
    OwnerKey,
    Pool,
    PoolKey,
    Problem,
    Runner,
)
from warmfleet_operator.decide.parse import parse_model, parse_pool
from warmfleet_operator.decide.pool_status import PoolView
from warmfleet_operator.decide.pools import pool_runner_of
from warmfleet_operator.decide.runners import node_of
from warmfleet_operator.decide.situation import ModelView
from warmfleet_operator.demand import Demands
from warmfleet_operator.estimates_keeper import Predictions
from warmfleet_operator.records import ModelDeployment, Node, Pod, Service, WarmPool
from warmfleet_operator.rounds import Rounds
from warmfleet_operator.sightings import Sightings
from warmfleet_operator.streams import Streams

REFUSAL_SECONDS = 30.0
"""How long a start that the API server refused is left out, so that it takes no turn from others."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the API server did not take a runner of a model or pool; it is asked again after a while."""

    generation: int
    problem: Problem
    until: float
    """Monotonic time of the next try."""


class Observer:
    """Gives snapshots. One per process: it remembers what was parsed."""

    def __init__(
        self,
        cluster: Cluster,
        streams: Streams,
        limits: Limits,
        stores: StoresObserver,
        *,
        demands: Demands,
        predictions: Predictions,
    ) -> None:
        self.predictions = predictions
        self._cluster = cluster
        self._demands = demands
        self._stores = stores
        self._streams = streams
        self._limits = limits
        self._models: dict[ModelKey, tuple[ModelDeployment, bool, Model | str]] = {}
        self._pools: dict[PoolKey, tuple[WarmPool, Pool | str]] = {}
        self._assignments: dict[str, tuple[str, Assignment | None]] = {}
        self._refusals: dict[OwnerKey, Refusal] = {}
        self._unanswered: dict[OwnerKey, float] = {}
        """Owners for which a node was asked in vain → monotonic time until which none is asked for."""
        self._foreign_services: dict[ModelKey, Service] = {}
        self._sightings = Sightings()
        self._activity = Activity()

    def trust(self, keys: tuple[str, ...]) -> None:
        """From now on these are the routers' public keys."""
        self._limits = replace(self._limits, trusted_keys=keys)

    def record(self, key: ModelKey) -> ModelDeployment | None:
        """Return the ModelDeployment, unless it is being deleted."""
        record = self._cluster.models.get(key.namespace, key.name)
        return record if record is not None and record.metadata.deletion_timestamp is None else None

    def model(self, record: ModelDeployment) -> Model | str:
        """Return the ModelDeployment parsed and with its problem, or why its spec can't be read."""
        key = ModelKey(record.metadata.namespace, record.metadata.name)
        has_default_pool = self.pool_record(PoolKey(key.namespace, DEFAULT_POOL)) is not None
        known = self._models.get(key)
        if known is None or known[0] is not record or known[1] != has_default_pool:
            service = self._foreign_services.get(key)
            parsed = parse_model(record, self._limits, service, has_default_pool=has_default_pool)
            known = self._models[key] = (record, has_default_pool, parsed)
        return known[2]

    def pool_record(self, key: PoolKey) -> WarmPool | None:
        """Return the WarmPool, unless it is being deleted."""
        record = self._cluster.pools.get(key.namespace, key.name)
        return record if record is not None and record.metadata.deletion_timestamp is None else None

    def pool(self, record: WarmPool) -> Pool | str:
        """Return the WarmPool parsed, or why its spec can't be read."""
        key = PoolKey(record.metadata.namespace, record.metadata.name)
        known = self._pools.get(key)
        if known is None or known[0] is not record:
            known = self._pools[key] = (record, parse_pool(record, self._limits))
        return known[1]

    def pool_view(self, pool: Pool, waiting: Waiting | None) -> PoolView:
        """Return all that the status of one pool depends on."""
        runners = [self._runner(pod) for pod in self._cluster.runners.indexed(pool.key)]
        nodes = self._nodes({node_of(runner.pod) for runner in runners})
        caches = self._stores.caches()
        refusal = self._refusal(pool.key, pool.metadata)
        return PoolView(
            pool=pool,
            runners=tuple(
                pool_runner_of(runner, pool, nodes, caches)
                for runner in runners
                if runner.pod.metadata.controller_uid == pool.metadata.uid
            ),
            waiting=waiting,
            refusal=refusal.problem if refusal is not None else None,
        )

    def view(self, model: Model, rounds: Rounds, *, endpoint_ready: bool) -> ModelView:
        """Return all that the status of one model depends on."""
        decisions = rounds.decisions
        runners = tuple(self._runner(pod) for pod in self._cluster.runners.indexed(model.key))
        refusal = self._refusal(model.key, model.metadata)
        return ModelView(
            model=model,
            runners=runners,
            nodes=self._nodes({node_of(runner.pod) for runner in runners}),
            waiting=decisions.waiting.get(model.key),
            endpoint_ready=endpoint_ready,
            refusal=refusal.problem if refusal is not None else None,
            caches=self._stores.caches(),
            demand=self._demands.of(model.key),
            forecast=decisions.forecasts.get(model.key),
            yields=decisions.yields.get(model.key, ""),
            preemption=rounds.preemption_of(model.key),
            told_seconds=rounds.told_seconds(model.key),
            standby=decisions.standbys.get(model.key),
            promotion=rounds.promotion_of(model.key),
        )

    def fleet(self) -> Fleet:
        """Return the whole fleet as of now."""
        models: dict[ModelKey, Model] = {}
        pools: dict[PoolKey, Pool] = {}
        unreadable: set[OwnerKey] = set()
        for pool_record in self._cluster.pools.values():
            pool_key = PoolKey(pool_record.metadata.namespace, pool_record.metadata.name)
            if pool_record.metadata.deletion_timestamp is not None:
                continue
            pool = self.pool(pool_record)
            if isinstance(pool, str):
                unreadable.add(pool_key)
            else:
                refused = self._standing_refusal(pool_key, pool_record.metadata)
                # The very object where nothing is to be said: what is known of it need not be found again.
                pools[pool_key] = replace(pool, problem=refused) if refused is not pool.problem else pool
        for record in self._cluster.models.values():
            key = ModelKey(record.metadata.namespace, record.metadata.name)
            if record.metadata.deletion_timestamp is not None:
                continue
            parsed = self.model(record)
            if isinstance(parsed, str):
                unreadable.add(key)
            else:
                refusal = self._standing_refusal(key, record.metadata)
                models[key] = with_problem(parsed, refusal) if refusal is not None else parsed
        nodes = {node.metadata.name: node for node in self._cluster.nodes.values()}
        return Fleet(
            models=models,
            pools=pools,
            nodes=nodes,
            estimates=self.predictions.estimates(models.values(), nodes),
            runners=tuple(self._runner(pod) for pod in self._cluster.runners.values()),
            strangers=self._cluster.strangers.values(),
            caches=self._stores.caches(),
            demand=self._demands.all(),
            switches=self._sightings.switches(),
            unanswered=frozenset(key for key, until in self._unanswered.items() if time.monotonic() < until),
            unreadable=frozenset(unreadable),
            limits=self._limits,
        )

    def refused(self, owner: Owner, problem: Problem | None) -> bool:
        """Remember whether the API server refused or took an owner's runner; return whether that is news."""
        former = self._refusals.pop(owner.key, None)
        if problem is not None:
            until = time.monotonic() + REFUSAL_SECONDS
            self._refusals[owner.key] = Refusal(owner.metadata.generation, problem, until)
        return (former.problem if former else None) != problem

    def unanswered(self, key: OwnerKey) -> None:
        """Note that no node came for a claim: for a while none is asked for."""
        self._unanswered[key] = time.monotonic() + CLAIM_SECONDS

    def next_try_seconds(self) -> float | None:
        """Return when a start that was refused is to be tried again, or a node may be asked for again."""
        now = time.monotonic()
        self._unanswered = {key: until for key, until in self._unanswered.items() if now < until}
        tries = (*(each.until for each in self._refusals.values()), *self._unanswered.values())
        soonest = min(tries, default=None)
        return None if soonest is None else max(0.1, soonest - time.monotonic())

    def saw_service(self, key: ModelKey, foreign: Service | None) -> bool:
        """Remember whose Service bears the model's name if it is not the model's; return whether that is news."""
        if (foreign is not None) == (key in self._foreign_services):
            return False
        self._models.pop(key, None)
        if foreign is None:
            del self._foreign_services[key]
        else:
            self._foreign_services[key] = foreign
        return True

    def forget_model(self, key: ModelKey) -> None:
        """Drop what is remembered of a model that is gone."""
        self._models.pop(key, None)
        self._refusals.pop(key, None)
        self._unanswered.pop(key, None)
        self._foreign_services.pop(key, None)

    def forget_pool(self, key: PoolKey) -> None:
        """Drop what is remembered of a pool that is gone."""
        self._pools.pop(key, None)
        self._refusals.pop(key, None)
        self._unanswered.pop(key, None)

    def runner_changed(self, former: Pod | None, new: Pod | None) -> None:
        """Listener of the runners' mirror: note when engines come, forget pods that are gone."""
        if former is None:
            return
        if new is None or new.metadata.uid != former.metadata.uid:
            self._assignments.pop(former.metadata.uid, None)
            self._sightings.forget(former.metadata.uid)
            self._activity.forget(former.metadata.uid)
            self.predictions.forget(former.metadata.uid)
        elif new.metadata.annotations != former.metadata.annotations:
            before, after = self._assignment(former), self._assignment(new)
            self._sightings.assigned(
                new,
                {each.id: each.state for each in before.engines} if before is not None else {},
                {each.id: each.state for each in after.engines} if after is not None else {},
            )

    def heard(self, status: RunnerStatus) -> list[EngineStatus]:
        """Take a runner's status line; return the engines that are not idle any more."""
        self.predictions.heard(status)
        return self._activity.heard(status)

    def learn(self, model: Model, start: LastStart) -> None:
        """Learn how long starts take from one that ended just now."""
        self.predictions.ended(model, start, self._nodes({start.node}))

    def switched(self, runner: str) -> None:
        """Note that an engine of the runner's pod of this name had to make room for others just now."""
        self._sightings.switched(runner)

    def _refusal(self, key: OwnerKey, metadata: Metadata) -> Refusal | None:
        """Return why the API server lately refused a runner of this spec."""
        refusal = self._refusals.get(key)
        return refusal if refusal is not None and refusal.generation == metadata.generation else None

    def _standing_refusal(self, key: OwnerKey, metadata: Metadata) -> Problem | None:
        """Return that refusal's problem while it is not to be tried again."""
        refusal = self._refusal(key, metadata)
        return refusal.problem if refusal is not None and time.monotonic() < refusal.until else None

    def _nodes(self, wanted: Iterable[str]) -> dict[str, Node]:
        found = ((name, self._cluster.nodes.get("", name)) for name in wanted)
        return {name: node for name, node in found if node is not None}

    def _runner(self, pod: Pod) -> Runner:
        uid = pod.metadata.uid
        status = self._streams.status(uid)
        return Runner(
            pod=pod,
            assignment=self._assignment(pod),
            status=status,
            silent_seconds=self._streams.silent_seconds(uid),
            is_gone=self._streams.is_gone(uid),
            returned_seconds=self._streams.returned_seconds(uid),
            start_times=self._sightings.start_times(pod, status),
            unserved_seconds=self._sightings.unserved_seconds(pod),
            idle_seconds=self._activity.idle_seconds(uid),
            awake_seconds=self._activity.awake_seconds(uid),
            stage_seconds=self.predictions.stage_seconds(uid),
        )

    def _assignment(self, pod: Pod) -> Assignment | None:
        value = pod.metadata.annotations.get(names.ANNOTATION_ASSIGNMENT, "")
        known = self._assignments.get(pod.metadata.uid)
        if known is None or known[0] != value:
            try:
                decoded = decode(value) if value else None
            except AssignmentError:
                # The fleet pass sees a runner without an assignment and gives it a new one.
                decoded = None
            known = self._assignments[pod.metadata.uid] = (value, decoded)
        return known[1]
