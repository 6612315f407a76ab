"""`make bench-scaling` on a real cluster: a HorizontalPodAutoscaler follows a stepped load through the routers.

One model of Simulated engines on three real nodes, installed as people install it; the metric comes from the component
external-metrics. Few requests, many, few, none: replicas go from 1 to 5 and back to 1, the model falls asleep, and one
request wakes it. All requests have to be answered.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.traffic import Arrival, Summary, Traffic, completion, traffic, wait_answered
from support.cluster import Cluster
from support.external_metrics import API
from support.front_door import service_address
from support.kubeapi import ApiError, Object
from support.models import simulated
from support.namespace import Namespace, condition, new_name
from support.real_cluster import operator_log, real_cluster
from warmfleet_api import names
from warmfleet_api.vocabulary import Reason

MODEL = "stepped"
FEW_PER_SECOND, MANY_PER_SECOND = 0.4, 3.8
TOKENS, TOKENS_PER_SECOND = 9, 1
"""A request takes 9 s: so 35 are under way at the higher pace, 4 at the lower. It is not them that is measured."""
TARGET_REQUESTS = 8
MAX_REPLICAS = 5
IDLE_SECONDS = 20
CALM_SECONDS = 20.0
"""How long few requests come before there are many, and how long many are served by all replicas."""
PHASE_SECONDS = 600.0
"""A phase that has not come to its end by then has failed."""
LOOK_SECONDS = 1.0
_FOLDER = Path("/var/lib/warmfleet/models")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Look:
    """How things were at one moment."""

    seconds: float
    """Since the first request."""
    demand: int
    """Requests that clients wait for."""
    metric: float | None
    """What the autoscaler is told; None: nothing."""
    replicas: int
    """spec.replicas, which the autoscaler writes; 0 while the model sleeps."""
    ready: int


@dataclass
class Pace:
    """How many requests a second come; may be changed while they do."""

    per_second: float

    def arrivals(self, model: str) -> Iterator[Arrival]:
        """Yield requests for ever."""
        request = completion(model, TOKENS, stream=True, ignore_eos=True)
        due = 0.0
        while True:
            yield Arrival(due, request, True)
            due += 1 / self.per_second


@dataclass
class Watcher:
    """Looks once a second, on a thread of its own, while the context is open."""

    namespace: Namespace
    seen: Traffic | None = None
    looks: list[Look] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    _ending: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watcher":
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.begun

    def _run(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            try:
                self.looks.append(self._look())
            except (ApiError, OSError):
                continue  # what is not seen in this second is seen in the next

    def _look(self) -> Look:
        model = self.namespace.model(MODEL)
        status, seen = model.get("status", {}), self.seen
        return Look(
            seconds=round(self.seconds, 1),
            demand=seen.sent - len(seen.ended) if seen is not None else 0,
            metric=metric(self.namespace),
            replicas=0 if is_asleep(model) else model["spec"].get("replicas", 1),
            ready=status.get("readyReplicas", 0),
        )


def metric(namespace: Namespace) -> float | None:
    """Return what the autoscaler is told, through the API server; None: nothing."""
    path = f"{API}/namespaces/{namespace.name}/{names.METRIC_DEMAND}?labelSelector={names.METRIC_LABEL_MODEL}%3D{MODEL}"
    try:
        items = namespace.api.request("GET", path)["items"]
    except ApiError:
        return None
    values = [each["value"] for each in items]
    return None if not values else sum(float(v[:-1]) / 1000 if v.endswith("m") else float(v) for v in values)


def scaled_model() -> Object:
    """Return the model, with windows that are short enough to look at."""
    down = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}
    autoscaling = {
        "minReplicas": 0,
        "maxReplicas": MAX_REPLICAS,
        "targetRequests": TARGET_REQUESTS,
        "windows": {"upSeconds": 5, "downSeconds": 20},
        "behavior": {"scaleDown": down},
    }
    model = simulated(MODEL, autoscaling=autoscaling, idle={"policy": "Yield", "afterSeconds": IDLE_SECONDS})
    del model["spec"]["replicas"]
    # Runners that start beside each other on two cores need a share of them.
    model["spec"]["resources"]["cpu"] = "500m"
    model["spec"]["engine"]["simulated"] |= {"firstTokenMilliseconds": 200, "tokensPerSecond": TOKENS_PER_SECOND}
    return model


def is_asleep(model: Object) -> bool:
    """Whether the model's status says so."""
    ready = condition(model, "Ready")
    return ready is not None and ready["reason"] == Reason.ASLEEP


def measure(progress: Progress) -> dict[str, Any]:
    """Bring a cluster up and measure; return the figures and `series`, a list of `Look` as objects."""
    progress("three real nodes, and Warmfleet on them")
    with real_cluster("bench-scaling", _FOLDER) as cluster:
        rollout = ("rollout", "status", f"deployment/{names.EXTERNAL_METRICS_SERVICE}", "--timeout=120s")
        cluster.kubectl("--namespace", names.SYSTEM_NAMESPACE, *rollout, bound_seconds=150)
        namespace = Namespace(cluster, new_name("scaling"), lambda: operator_log(cluster))
        namespace.create()
        try:
            return step_by_step(cluster, namespace, progress)
        finally:
            namespace.delete()


def step_by_step(cluster: Cluster, namespace: Namespace, progress: Progress) -> dict[str, Any]:
    """Few requests, many, few, none, one."""

    def reached(replicas: int) -> bool:
        model = namespace.model(MODEL)
        return bool(model["spec"].get("replicas") == replicas == model["status"].get("readyReplicas"))

    namespace.apply(scaled_model())
    namespace.wait_condition(MODEL, "Ready", "True", within=PHASE_SECONDS)
    address, name = service_address(cluster), f"{namespace.name}/{MODEL}"
    pace, moments = Pace(FEW_PER_SECOND), dict[str, float]()
    with Watcher(namespace) as watcher:
        with traffic(address, names.SERVICE_PORT, pace.arrivals(name)) as seen:
            watcher.seen = seen
            wait_answered(seen, 3, PHASE_SECONDS)
            progress(f"{FEW_PER_SECOND:g} requests a second")
            namespace.wait("one replica", lambda: reached(1), PHASE_SECONDS)
            time.sleep(CALM_SECONDS)
            moments["many"] = watcher.seconds
            pace.per_second = MANY_PER_SECOND
            progress(f"{MANY_PER_SECOND:g} requests a second: 1 to {MAX_REPLICAS} replicas")
            namespace.wait(f"{MAX_REPLICAS} replicas", lambda: reached(MAX_REPLICAS), PHASE_SECONDS)
            moments["all"] = watcher.seconds
            time.sleep(CALM_SECONDS)
            moments["few"] = watcher.seconds
            pace.per_second = FEW_PER_SECOND
            progress(f"{FEW_PER_SECOND:g} requests a second: {MAX_REPLICAS} replicas to 1")
            namespace.wait("one replica again", lambda: reached(1), PHASE_SECONDS)
            moments["one"] = watcher.seconds
        moments["none"] = watcher.seconds
        progress("no requests: it is to fall asleep")
        namespace.wait("it sleeps", lambda: is_asleep(namespace.model(MODEL)), PHASE_SECONDS)
        moments["asleep"] = watcher.seconds
        progress("one request wakes it")
        with traffic(address, names.SERVICE_PORT, [next(Pace(1.0).arrivals(name))]) as last:
            wait_answered(last, 1, PHASE_SECONDS)
        moments["answered"] = watcher.seconds
        time.sleep(3 * LOOK_SECONDS)
    steps = namespace.model(MODEL)["status"].get("scaling", {}).get("steps", [])
    return figures(watcher.looks, seen.since(0.0), last.since(0.0), moments) | {"steps": steps}


def figures(looks: list[Look], stepped: Summary, waking: Summary, moments: dict[str, float]) -> dict[str, Any]:
    """Return what is written."""
    return {
        "replicas_most": max((each.replicas for each in looks), default=0),
        "up_seconds": round(moments["all"] - moments["many"], 1),
        "down_seconds": round(moments["one"] - moments["few"], 1),
        "asleep_after_seconds": round(moments["asleep"] - moments["none"], 1),
        "wake_first_token_seconds": round(waking.first_byte_p50_seconds, 3),
        "requests": stepped.requests + waking.requests,
        "failed_requests": stepped.lost + waking.lost,
        "troubles": stepped.troubles | waking.troubles,
        "moments_seconds": {name: round(value, 1) for name, value in moments.items()},
        "series": [asdict(each) for each in looks],
    }
