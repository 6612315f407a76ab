"""The loop's body: `reconcile(key)` observes, lets a pure function decide, applies, and writes status once.

Each key brings one thing in order, whatever happened before:

* `fleet`: `schedule()` over the whole snapshot; its actions on runners are carried out by compare-and-swap. Who is to
  sleep by it sleeps by its own pass: the status is the record of that.
* `model/<namespace>/<name>`: the model's Service, InferencePool and HorizontalPodAutoscaler, then `decide_model()`;
  status is written only where it differs.
* `pool/<namespace>/<name>`: `pool_status()`; written only where it differs.
* `caches`: `decide_caches()` over all weight stores: WeightCaches, NodeCaches and the agents' DaemonSets.
* `namespace/<namespace>`: the PodDisruptionBudget stands while the namespace has models or runners.

Reconciling twice writes nothing the second time.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from warmfleet_api import names
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_api.vocabulary import Reason
from warmfleet_api.warm_pool import WarmPoolStatus
from warmfleet_api.weight_cache import WeightCacheStatus
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import Forbidden, Invalid
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.objects import Resource
from warmfleet_operator import keys
from warmfleet_operator.apply import Failure, RunnerWriter
from warmfleet_operator.build.autoscaler import autoscaler
from warmfleet_operator.build.budget import last_ready_budget
from warmfleet_operator.build.service import model_service
from warmfleet_operator.caches import CachesPass
from warmfleet_operator.children import ensure, remove
from warmfleet_operator.cluster import FLEET_DELAY_SECONDS, Cluster
from warmfleet_operator.decide.actions import Action, CreateRunner, Decisions
from warmfleet_operator.decide.claims import unanswered
from warmfleet_operator.decide.events import EventReason
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey, PoolKey, Problem
from warmfleet_operator.decide.model import decide_model
from warmfleet_operator.decide.pool_status import pool_status
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.decide.switches import switched
from warmfleet_operator.demand import Demands
from warmfleet_operator.errors import Incomplete
from warmfleet_operator.events import Recorder, regarding_model
from warmfleet_operator.inference_pools import InferencePools
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import ModelDeployment, WarmPool, WeightCache
from warmfleet_operator.resources import AUTOSCALERS, BUDGETS, MODEL_DEPLOYMENTS, SERVICES, WARM_POOLS, WEIGHT_CACHES
from warmfleet_operator.rounds import Rounds
from warmfleet_operator.scaling import Scalings, is_foreign
from warmfleet_operator.snapshot import Observer
from warmfleet_operator.unreadable import unreadable_pool_status, unreadable_status
from warmfleet_operator.workqueue import WorkQueue

NAME_TAKEN_SECONDS = 15.0
"""How often a foreign Service or InferencePool is asked for that stands in a model's way: others' are not watched."""
NAMESPACE_TERMINATING = "NamespaceTerminating"
"""Cause that the API server names when it creates nothing more in a namespace that is being deleted."""

Stated = TypeVar("Stated", ModelDeployment, WarmPool, WeightCache)
"""A custom resource with a status."""
Status = TypeVar("Status", ModelDeploymentStatus, WarmPoolStatus, WeightCacheStatus)


class Reconciler:
    """Brings keys in order. Safe to call for several keys at once, not for one key twice at once."""

    def __init__(
        self,
        *,
        client: KubeClient,
        cluster: Cluster,
        observer: Observer,
        writer: RunnerWriter,
        recorder: Recorder,
        caches: CachesPass,
        inference_pools: InferencePools,
        scalings: Scalings,
        demands: Demands,
        rounds: Rounds,
        queue: WorkQueue[keys.Key],
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._observer = observer
        self._writer = writer
        self._recorder = recorder
        self._caches = caches
        self._queue = queue
        self._metrics = metrics
        self._demands = demands
        self._rounds = rounds
        self._inference_pools = inference_pools
        self._scalings = scalings
        self._taken_pools: dict[ModelKey, str] = {}
        """Models whose InferencePool's name somebody else has → the uid of that one; told once."""

    async def reconcile(self, key: keys.Key) -> float | None:
        """Bring a key in order.

        Returns:
            In how many seconds time alone may ask for something else; None if never.

        Raises:
            KubeError, Incomplete: it is to be tried again.
        """
        match key.kind:
            case keys.Kind.FLEET:
                return await self._fleet()
            case keys.Kind.MODEL:
                return await self._model(ModelKey(key.namespace, key.name))
            case keys.Kind.POOL:
                return await self._pool(PoolKey(key.namespace, key.name))
            case keys.Kind.CACHES:
                return await self._caches.reconcile(self._observer.fleet, self._write_cache_status)
            case keys.Kind.NAMESPACE:
                return await self._namespace(key.namespace)

    async def _fleet(self) -> float | None:
        # 1. Observe.
        fleet, now = self._observer.fleet(), _now()
        # 2. Decide.
        decisions = schedule(fleet, now)
        # 3. Apply.
        failures = await self._writer.carry_out(decisions.actions)
        # 4. What the API server refuses takes no turn from others for a while.
        self._note_refusals(decisions.actions, failures)
        # 5. Who sleeps, gave way, or waits differently says so.
        self._tell(fleet, decisions, now)
        # 6. What failed by chance, or because the mirror was behind, comes back soon.
        recheck_seconds = _soonest(decisions.recheck_seconds, self._observer.next_try_seconds())
        by_chance = [failure for failure in failures if _refusal(failure) is None]
        if not by_chance:
            return recheck_seconds
        if recheck_seconds is not None:
            self._queue.add(keys.FLEET, recheck_seconds)
        raise Incomplete(f"{len(by_chance)} of {len(decisions.actions)} actions failed: {by_chance[0].error}")

    async def _model(self, key: ModelKey) -> float | None:
        record = self._observer.record(key)
        if record is None:
            self._observer.forget_model(key)
            self._rounds.forget(key)
            self._demands.forget(key)
            self._taken_pools.pop(key, None)
            return None
        # 1. Observe.
        model = self._observer.model(record)
        if isinstance(model, str):
            unreadable = unreadable_status(record, model, _now())
            await self._write_status(MODEL_DEPLOYMENTS, self._cluster.models, record, unreadable)
            return None
        # 2. Bring its Service in order, or learn that the name is taken.
        uid = model.metadata.uid
        service = await ensure(
            self._client,
            SERVICES,
            self._cluster.services,
            model_service(model),
            is_ours=lambda known: known.metadata.controller_uid == uid,
        )
        is_ours = service.metadata.controller_uid == uid
        if self._observer.saw_service(key, None if is_ours else service):
            # Whose the Service is belongs to the model's facts: both passes read them anew.
            self._queue.add(keys.FLEET, FLEET_DELAY_SECONDS)
            return 0.0
        is_taken = not is_ours or await self._inference_pool(model)
        await self._autoscaler(model)
        # 3. Decide.
        view = replace(
            self._observer.view(model, self._rounds, endpoint_ready=is_ours), scaling=self._scalings.view(model)
        )
        decision = decide_model(view, _now())
        # 4. Write status, then tell of the transition: a status that was not written is decided anew.
        await self._write_status(MODEL_DEPLOYMENTS, self._cluster.models, record, decision.status)
        told_anew = decision.status.pending_start != model.status.pending_start
        self._rounds.wrote(key, view.preemption, view.promotion, told_anew=told_anew)
        if decision.status.ready_replicas:
            self._demands.served(key)
        self._metrics.status_written(model.status, decision.status)
        for start in decision.starts:
            self._metrics.started(start, model.spec.priority)
            self._observer.learn(model, start)
        self._metrics.starts_by_exec.inc(decision.executed)
        for event in decision.events:
            self._recorder.emit(regarding_model(record.metadata, event.type, event.reason, event.message))
        return _soonest(decision.recheck_seconds, NAME_TAKEN_SECONDS if is_taken else None)

    async def _inference_pool(self, model: Model) -> bool:
        """Bring the model's InferencePool in order; return whether one of its name is another's, and left alone."""
        foreign = await self._inference_pools.bring_in_order(model)
        if foreign is None:
            self._taken_pools.pop(model.key, None)
            return False
        if self._taken_pools.get(model.key) != foreign.metadata.uid:
            self._taken_pools[model.key] = foreign.metadata.uid
            text = (
                f"InferencePool {model.key} is not the model's and is left as it is; delete it or remove "
                f"serving.inferencePool: kubectl -n {model.key.namespace} get inferencepool {model.key.name} -o yaml"
            )
            regarding = regarding_model(model.metadata, "Warning", EventReason.INFERENCE_POOL_TAKEN, text)
            self._recorder.emit(regarding)
        return True

    async def _autoscaler(self, model: Model) -> None:
        """Bring the model's HorizontalPodAutoscaler in order. Beside another one of the same target it is taken away:
        the two would write different numbers in turn."""
        mirror = self._cluster.autoscalers
        known = mirror.get(model.key.namespace, model.key.name)
        wanted = autoscaler(model) if not self._scalings.foreign(model) else None
        if wanted is not None:
            await ensure(self._client, AUTOSCALERS, mirror, wanted, is_ours=lambda each: not is_foreign(each, model))
        elif known is not None and not is_foreign(known, model):
            await remove(self._client, AUTOSCALERS, mirror, known)

    async def _pool(self, key: PoolKey) -> float | None:
        record = self._observer.pool_record(key)
        if record is None:
            self._observer.forget_pool(key)
            return None
        pool = self._observer.pool(record)
        if isinstance(pool, str):
            status: WarmPoolStatus = unreadable_pool_status(record, pool, _now())
        else:
            status = pool_status(self._observer.pool_view(pool, self._rounds.decisions.waiting.get(key)), _now())
        await self._write_status(WARM_POOLS, self._cluster.pools, record, status)
        return None

    async def _namespace(self, namespace: str) -> float | None:
        in_use = any(
            each.metadata.namespace == namespace
            for each in (*self._cluster.models.values(), *self._cluster.pools.values(), *self._cluster.runners.values())
        )
        known = self._cluster.budgets.get(namespace, names.PDB_NAME)
        if in_use:
            wanted = last_ready_budget(namespace)
            await ensure(self._client, BUDGETS, self._cluster.budgets, wanted, is_ours=lambda _: True)
        elif known is not None:
            await remove(self._client, BUDGETS, self._cluster.budgets, known)
        return None

    async def _write_status(
        self,
        resource: Resource[Stated],
        mirror: Mirror[Stated],
        record: Stated,
        status: Status,
    ) -> None:
        """Write the status if it differs, on condition that the object is still as it was decided upon."""
        if _status_of(record, type(status)) == status:
            return
        metadata = record.metadata
        body = {
            "apiVersion": names.API_VERSION,
            "kind": resource.kind,
            "metadata": {
                "namespace": metadata.namespace,
                "name": metadata.name,
                "uid": metadata.uid,
                "resourceVersion": metadata.resource_version,
            },
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        written = await self._client.apply(resource, body, names.MANAGER_STATUS, subresource="status")
        mirror.expect(written)

    async def _write_cache_status(self, record: WeightCache, status: WeightCacheStatus) -> None:
        await self._write_status(WEIGHT_CACHES, self._cluster.weight_caches, record, status)

    def _note_refusals(self, actions: Sequence[Action], failures: Sequence[Failure]) -> None:
        created = {action.owner.key: action.owner for action in actions if isinstance(action, CreateRunner)}
        refused = {
            failure.action.owner.key: problem
            for failure in failures
            if isinstance(failure.action, CreateRunner) and (problem := _refusal(failure)) is not None
        }
        for key, owner in created.items():
            if self._observer.refused(owner, refused.get(key)):
                self._queue.add(keys.owner(key))

    def _tell(self, fleet: Fleet, decisions: Decisions, now: datetime) -> None:
        """Take note of a round, and let the passes of those whose status may change follow."""
        for runner in switched(fleet, decisions):
            self._observer.switched(runner)
        for owner in unanswered(decisions, now):
            self._observer.unanswered(owner)
        self._metrics.round_ended(fleet, decisions)
        self._observer.predictions.foretold(decisions.forecasts, decisions.waiting)
        for key in self._rounds.ended(decisions, now):
            self._queue.add(keys.owner(key))


def _refusal(failure: Failure) -> Problem | None:
    """Return what a person has to change before a creation can succeed; None for failures that pass by themselves."""
    if not isinstance(failure.action, CreateRunner):
        return None
    if NAMESPACE_TERMINATING in getattr(failure.error, "causes", ()):
        return Problem(Reason.ACCESS_DENIED, "the namespace is being deleted: nothing new is created in it")
    if isinstance(failure.error, Forbidden) and "exceeded quota" in str(failure.error):
        return Problem(Reason.QUOTA_EXCEEDED, f"{failure.error}; raise the ResourceQuota or lower spec.resources")
    if isinstance(failure.error, Forbidden | Invalid):
        return Problem(Reason.ACCESS_DENIED, f"the API server refuses the runner: {failure.error}")
    return None


def _status_of(record: ModelDeployment | WarmPool | WeightCache, kind: type[Status]) -> Status | None:
    try:
        return kind.model_validate(record.status)
    except ValidationError:
        # Written by another version of the operator; it differs in any case.
        return None


def _soonest(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)


def _now() -> datetime:
    return datetime.now(UTC)
