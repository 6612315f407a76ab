"""The operator's tasks: mirrors and health at once, the rest when this process leads.

A follower has everything but the lead: its mirrors are warm and it hears what the runners say, so that it decides at
once when it takes over. Whatever task ends unexpectedly ends them all, and with them the process.
"""

import asyncio
import logging
import time
from typing import Never

from warmfleet_api.runner_status import RunnerStatus
from warmfleet_kube.client import WATCH_GRACE_SECONDS, KubeClient
from warmfleet_kube.errors import KubeError
from warmfleet_kube.health import LAG_LIMIT_SECONDS, Check, LoopLag, serve
from warmfleet_operator import keys
from warmfleet_operator.agent_streams import AgentStreams
from warmfleet_operator.apply import RunnerWriter
from warmfleet_operator.caches import CachesPass
from warmfleet_operator.caches_apply import CachesWriter
from warmfleet_operator.caches_snapshot import StoresObserver
from warmfleet_operator.caches_wakes import CACHES_DELAY_SECONDS, wake_caches_on_change
from warmfleet_operator.cluster import FLEET_DELAY_SECONDS, mirrored, wake_all, wake_on_change, wake_runner
from warmfleet_operator.decide.fleet import ModelKey
from warmfleet_operator.decide.situation import Situation, situation_of
from warmfleet_operator.demand import Demands
from warmfleet_operator.errors import Incomplete
from warmfleet_operator.estimates_keeper import Predictions
from warmfleet_operator.events import Recorder
from warmfleet_operator.inference_pools import InferencePools
from warmfleet_operator.lease import Lease
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.metrics_api import MetricsApi
from warmfleet_operator.operator_access import Access
from warmfleet_operator.operator_api import Leader, OperatorApi
from warmfleet_operator.reconcile import Reconciler
from warmfleet_operator.records import Pod
from warmfleet_operator.rounds import Rounds
from warmfleet_operator.router_keys import RouterKeys
from warmfleet_operator.scaling import Scalings
from warmfleet_operator.settings import Settings
from warmfleet_operator.snapshot import Observer
from warmfleet_operator.streams import Streams
from warmfleet_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

RECONCILE_SECONDS = 60.0
"""Time limit of one key; each request in it has its own."""


class Operator:
    """All parts of one operator process, wired."""

    def __init__(self, client: KubeClient, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        # A thousand statuses that tell of a loss are not to come before the round that makes up for it.
        self._queue: WorkQueue[keys.Key] = WorkQueue(urgent=(keys.FLEET,))
        metrics.queue_depth.set_function(lambda: len(self._queue))
        self._cluster = mirrored(client, metrics, settings.watch_seconds)
        lease_client = client.as_role("lease", request_seconds=settings.lease_seconds / 3)
        self._api_address = ""
        self._lease = Lease(
            lease_client, settings.namespace, settings.lease_seconds, metrics, lambda: self._api_address
        )
        self._lag = LoopLag(metrics.loop_lag)
        self._streams = Streams(self._runner_changed, metrics, self._runner_heard)
        self._agent_streams = AgentStreams(self._agent_changed, metrics)
        self._recorder = Recorder(
            client.as_role("events", request_seconds=settings.request_seconds), self._lease.identity, metrics
        )
        limits = settings.limits()
        self._stores = StoresObserver(self._cluster, self._agent_streams, limits)
        self._demands = Demands()
        self._rounds = Rounds()
        predictions = Predictions(metrics.prediction_ratio)
        self._observer = Observer(
            self._cluster, self._streams, limits, self._stores, demands=self._demands, predictions=predictions
        )
        writer = RunnerWriter(
            client,
            self._cluster.runners,
            limits,
            metrics,
            confirmed=self._lease.confirmed,
        )
        caches_writer = CachesWriter(
            client=client,
            cluster=self._cluster,
            observer=self._stores,
            limits=limits,
            metrics=metrics,
            confirmed=self._lease.confirmed,
        )
        self._caches = CachesPass(self._cluster, self._stores, caches_writer, self._recorder, metrics)
        self._inference_pools = InferencePools(
            client,
            lambda: [ModelKey(each.metadata.namespace, each.metadata.name) for each in self._cluster.models.values()],
            lambda key: self._queue.add(keys.model(key)),
        )
        self._metrics_api = MetricsApi(client, self._scaled_models_changed)
        self._scalings = Scalings(
            situation=self._situation,
            models=self._scaled_models,
            demands=self._demands,
            autoscalers=self._cluster.autoscalers,
            explain=self._metrics_api.explain,
            metrics=metrics.scaling,
            changed=lambda key: self._queue.add(keys.model(key)),
        )
        self._reconciler = Reconciler(
            client=client,
            cluster=self._cluster,
            observer=self._observer,
            writer=writer,
            recorder=self._recorder,
            caches=self._caches,
            inference_pools=self._inference_pools,
            scalings=self._scalings,
            demands=self._demands,
            rounds=self._rounds,
            queue=self._queue,
            metrics=metrics,
        )
        # Keys that an administrator names are all that count: then no Secret is looked at.
        self._router_keys = (
            None
            if settings.router_public_keys
            else RouterKeys(
                client.as_role("router key", request_seconds=settings.request_seconds),
                settings.namespace,
                self._router_keys_changed,
            )
        )
        self._api = OperatorApi(
            leader=Leader(lambda: self._lease.is_held, lambda: self._lease.leader_address),
            access=Access(client.as_role("access", request_seconds=settings.request_seconds)),
            observer=self._observer,
            demands=self._demands,
            scalings=self._scalings,
            rounds=self._rounds,
            queue=self._queue,
        )

    async def run(self) -> Never:
        """Run until cancelled.

        Raises:
            ExceptionGroup: what ended a task; `LeaseLost` among it if this process leads no more.
        """
        try:
            async with self._streams, self._agent_streams, asyncio.TaskGroup() as tasks:
                tasks.create_task(
                    serve(self._settings.port, self._checks(), self._ready, self._metrics.render), name="health"
                )
                tasks.create_task(self._api.serve(self._settings.api_port, self._api_opened), name="API")
                tasks.create_task(self._lag.run(), name="loop lag")
                for reflector in self._cluster.reflectors:
                    tasks.create_task(reflector.run(), name=f"reflector {reflector.name}")
                if self._router_keys is not None:
                    tasks.create_task(self._router_keys.run(), name="router key")
                await self._cluster.synced()
                self._listen()
                await self._lease.acquire()
                tasks.create_task(self._lease.hold(), name="lease")
                await self._lead(tasks)
        finally:
            # In a task of its own: Python 3.11 leaves the parent of a failed TaskGroup marked as being cancelled,
            # and a time limit that passes in such a task looks like that cancellation.
            await asyncio.create_task(self._lease.release(), name="release of the lease")
        raise AssertionError("unreachable: no task ends by itself")

    def _listen(self) -> None:
        """Follow what runners and agents say of themselves."""
        self._cluster.runners.subscribe(self._streams.changed)
        self._cluster.agents.subscribe(self._agent_streams.changed)
        self._streams.follow(self._cluster.runners.values())
        self._agent_streams.follow(self._cluster.agents.values())

    async def _lead(self, tasks: asyncio.TaskGroup) -> None:
        """Start what only the leader does, once the runners have said how they are."""
        self._cluster.runners.subscribe(self._observer.runner_changed)
        self._cluster.node_caches.subscribe(self._stores.node_cache_changed)
        self._cluster.node_caches.subscribe(self._caches.node_cache_changed)
        self._cluster.weight_caches.subscribe(self._stores.weight_cache_changed)
        wake_on_change(self._cluster, self._queue)
        wake_caches_on_change(self._cluster, self._queue)
        self._streams.tell()
        self._agent_streams.tell()
        self._demands.leads()
        await self._streams.settle()
        wake_all(self._cluster, self._queue)
        tasks.create_task(self._recorder.run(), name="events")
        tasks.create_task(self._inference_pools.run(), name="InferencePools")
        tasks.create_task(self._metrics_api.run(), name="external metrics")
        tasks.create_task(self._scalings.run(), name="scaling")
        for number in range(self._settings.workers):
            tasks.create_task(self._work(), name=f"worker {number}")

    async def _work(self) -> Never:
        while True:
            key, waited = await self._queue.get()
            self._metrics.queue_wait.observe(waited)
            try:
                await self._lease.confirmed()
                await self._reconcile(key)
            finally:
                self._queue.done(key)

    async def _reconcile(self, key: keys.Key) -> None:
        """Reconcile one key; whatever goes wrong with it brings it back later and disturbs no other key."""
        started = time.monotonic()
        result = "done"
        try:
            async with asyncio.timeout(RECONCILE_SECONDS):
                recheck_seconds = await self._reconciler.reconcile(key)
        except (KubeError, Incomplete, TimeoutError) as error:
            result = "retried"
            logger.warning("%s: %s; again in %.0f s", key, str(error) or "took too long", self._queue.retry(key))
        except Exception:
            # A defect that one object brings to light must not stop the fleet.
            result = "failed"
            logger.exception("%s: again in %.0f s", key, self._queue.retry(key))
        else:
            self._queue.forget(key)
            if recheck_seconds is not None:
                self._queue.add(key, recheck_seconds)
        self._metrics.reconciles.labels(key.kind, result).observe(time.monotonic() - started)

    def _api_opened(self, port: int) -> None:
        """Know where this process's API is; its Lease tells the others."""
        host = self._settings.pod_ip
        self._api_address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _router_keys_changed(self, keys_: tuple[str, ...]) -> None:
        """Runners are to trust others than before; a follower only knows it."""
        self._observer.trust(keys_)
        if self._lease.is_held:
            self._queue.add(keys.FLEET)

    def _runner_changed(self, pod: Pod) -> None:
        """Listener of the status streams."""
        wake_runner(pod, self._queue)
        self._queue.add(keys.FLEET, FLEET_DELAY_SECONDS)
        status = self._streams.status(pod.metadata.uid)
        if status is not None and status.offers:
            self._queue.add(keys.CACHES, CACHES_DELAY_SECONDS)

    def _runner_heard(self, pod: Pod, status: RunnerStatus) -> None:
        """Reader of the status streams: a request that reaches a model which is to sleep is as good as a wake."""
        for engine in self._observer.heard(status):
            key = ModelKey(pod.metadata.namespace, engine.model)
            record = self._cluster.models.get(key.namespace, key.name)
            if record is not None and "dormant" in record.status:
                self._demands.wake(key)
                self._queue.add(keys.model(key))

    def _agent_changed(self, pod: Pod) -> None:
        """Listener of the agents' streams: what is on its way changed, so starts that wait for it say so."""
        for uri in self._stores.uris_of(pod.spec.node_name):
            for record in self._cluster.models.indexed(uri):
                self._queue.add(keys.model(ModelKey(record.metadata.namespace, record.metadata.name)))

    def _scaled_models(self) -> list[ModelKey]:
        """Return the models whose spec has `autoscaling`."""
        records = (each for each in self._cluster.models.values() if each.spec.get("autoscaling") is not None)
        return [ModelKey(each.metadata.namespace, each.metadata.name) for each in records]

    def _scaled_models_changed(self) -> None:
        """What all scaled models tell of may be another."""
        for key in self._scaled_models():
            self._queue.add(keys.model(key))

    def _situation(self, key: ModelKey) -> Situation | None:
        """Return a model as it is now."""
        record = self._observer.record(key)
        model = self._observer.model(record) if record is not None else None
        if model is None or isinstance(model, str):
            return None
        return situation_of(self._observer.view(model, self._rounds, endpoint_ready=True))

    def _checks(self) -> tuple[Check, ...]:
        blind = self._settings.blind_seconds
        return (
            *(
                Check(f"watch of {each.name}", each.age_seconds, blind, each.trouble)
                for each in self._cluster.reflectors
            ),
            Check("lease", self._lease.age_seconds, max(self._lease.renew_deadline_seconds, blind)),
            Check("queue", self._queue.longest_wait_seconds, RECONCILE_SECONDS + WATCH_GRACE_SECONDS),
            Check("event loop", self._lag.age_seconds, LAG_LIMIT_SECONDS),
        )

    def _ready(self) -> tuple[bool, str]:
        lines = []
        for each in self._cluster.reflectors:
            state = "ok" if each.synced.is_set() else "FAILED"
            lines.append(f"{state} mirror of {each.name}: {len(each.mirror)} objects {each.trouble()}".rstrip())
        if self._router_keys is not None:
            trouble = self._router_keys.trouble
            lines.append(f"FAILED the routers' key: {trouble}" if trouble else "ok the routers' key")
        lines.append("ok leads" if self._lease.is_held else "ok follows")
        return all(each.synced.is_set() for each in self._cluster.reflectors), "\n".join(lines)
