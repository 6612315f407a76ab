"""Makers of nodes, models, pods and runners, so that tests of decisions read as prose.

    n1 = make.node("n1", gpus=8, zone="a")
    llama = make.model("llama", gpus=2, priority="High")
    old = make.serving(make.runner(llama, "n1"))

Everything goes the way it goes in production: models through `parse_model`, runners through `runner_pod`.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from warmfleet_api import assignment as wire
from warmfleet_api import names
from warmfleet_api.runner_status import EngineError, EngineStatus, RunnerStatus, StageTime
from warmfleet_api.vocabulary import EngineState, Reason, Stage
from warmfleet_kube.objects import Metadata, OwnerReference
from warmfleet_operator.build.pod import runner_pod
from warmfleet_operator.decide.actions import CreateRunner
from warmfleet_operator.decide.assign import assignment_of, pooled_engine, whole
from warmfleet_operator.decide.fleet import Cache, Fleet, Limits, Model, Pool, Runner
from warmfleet_operator.decide.parse import parse_model, parse_pool
from warmfleet_operator.decide.runners import owner_of, place_of
from warmfleet_operator.decide.start_budget import start_budget_seconds
from warmfleet_operator.decide.times import format_time
from warmfleet_operator.records import ModelDeployment, Node, Pod, Service, WarmPool

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
LIMITS = Limits(default_image="registry.example/warmfleet-runtime:1")
GIB = 1024**3


def ago(seconds: float) -> str:
    """A time before NOW as Kubernetes writes it."""
    return format_time(NOW - timedelta(seconds=seconds))


def node(
    name: str,
    *,
    gpus: int = 0,
    cpu: str = "64",
    memory: str = "256Gi",
    pods: int = 110,
    gpu_memory_mib: int | None = None,
    zone: str | None = None,
    ready: bool = True,
    cordoned_seconds: float | None = None,
    labels: Mapping[str, str] | None = None,
    taints: tuple[dict[str, str], ...] = (),
) -> Node:
    """A node; `cordoned_seconds` says for how long it has been cordoned."""
    own_labels = dict(labels or {})
    if gpu_memory_mib is not None:
        own_labels[names.NODE_LABEL_GPU_MEMORY_MIB] = str(gpu_memory_mib)
    if zone is not None:
        own_labels[names.NODE_LABEL_ZONE] = zone
    cordon = {
        "key": "node.kubernetes.io/unschedulable",
        "effect": "NoSchedule",
        "timeAdded": ago(cordoned_seconds or 0),
    }
    allocatable = {"cpu": cpu, "memory": memory, "pods": str(pods)}
    if gpus:
        allocatable[names.DEFAULT_GPU_RESOURCE] = str(gpus)
    body = {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": own_labels},
        "spec": {
            "unschedulable": cordoned_seconds is not None,
            "taints": [*taints, *([cordon] if cordoned_seconds is not None else [])],
        },
        "status": {
            "allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }
    return msgspec.convert(body, Node)


def spec(
    name: str = "llama",
    *,
    replicas: int = 1,
    gpus: int = 0,
    cpu: str = "1",
    memory: str = "1Gi",
    priority: str = "Normal",
    **fields: Any,
) -> dict[str, Any]:
    """The spec of a Simulated model; further fields of the spec as keywords."""
    return {
        "model": {"uri": f"hf://simulated/{name}"},
        "engine": {"type": "Simulated"},
        "resources": {"gpus": gpus, "cpu": cpu, "memory": memory},
        "replicas": replicas,
        "priority": priority,
    } | fields


def record(
    name: str,
    body: Mapping[str, Any],
    *,
    namespace: str = "default",
    uid: str | None = None,
    age_seconds: float = 100,
    generation: int = 1,
    status: Mapping[str, Any] | None = None,
) -> ModelDeployment:
    """A ModelDeployment as the mirror has it."""
    metadata = Metadata(
        name=name,
        namespace=namespace,
        uid=uid or f"uid-{namespace}-{name}",
        generation=generation,
        creation_timestamp=ago(age_seconds),
    )
    return ModelDeployment(metadata=metadata, spec=body, status=status or {})


def model(
    name: str = "llama",
    *,
    namespace: str = "default",
    uid: str | None = None,
    age_seconds: float = 100,
    generation: int = 1,
    status: Mapping[str, Any] | None = None,
    service: Service | None = None,
    has_default_pool: bool = False,
    **fields: Any,
) -> Model:
    """A parsed model; keywords as in `spec`."""
    made = record(
        name,
        spec(name, **fields),
        namespace=namespace,
        uid=uid,
        age_seconds=age_seconds,
        generation=generation,
        status=status,
    )
    parsed = parse_model(made, LIMITS, service, has_default_pool=has_default_pool)
    assert isinstance(parsed, Model), parsed
    return parsed


def pool(
    name: str = "pool",
    *,
    namespace: str = "default",
    uid: str | None = None,
    age_seconds: float = 100,
    generation: int = 1,
    status: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Pool:
    """A parsed pool; keywords as in its spec."""
    made = WarmPool(
        metadata=Metadata(
            name=name,
            namespace=namespace,
            uid=uid or f"uid-pool-{namespace}-{name}",
            generation=generation,
            creation_timestamp=ago(age_seconds),
        ),
        spec=fields,
        status=status or {},
    )
    parsed = parse_pool(made, LIMITS)
    assert isinstance(parsed, Pool), parsed
    return parsed


def pod_of(action: CreateRunner, *, uid: str, created: str) -> Pod:
    """The pod as the API server has it after the creation."""
    body = runner_pod(action, LIMITS)
    body["metadata"] |= {"uid": uid, "resourceVersion": "1", "creationTimestamp": created}
    return msgspec.convert(body, Pod)


def runner(of: Model, on: str, *, slot: int = 0, attempt: int = 1, age_seconds: float = 60) -> Runner:
    """A runner that was just created on a node, not scheduled yet and not heard of."""
    action = CreateRunner(
        of, slot, attempt, on, assignment_of(of, 1), start_budget_seconds(of), "made for a test", bool(of.weights)
    )
    pod = pod_of(action, uid=f"uid-{of.key.name}-{slot}-{attempt}", created=ago(age_seconds))
    return Runner(pod=pod, assignment=action.assignment)


def pool_runner(
    of: Pool, on: str, *, slot: int = 0, attempt: int = 1, age_seconds: float = 60, sees_weights: bool = False
) -> Runner:
    """A runner of a pool that was just created on a node, not scheduled yet and not heard of."""
    action = CreateRunner(of, slot, attempt, on, whole(1, (), ()), 60, "made for a test", sees_weights)
    pod = pod_of(action, uid=f"uid-pool-{of.key.name}-{slot}-{attempt}", created=ago(age_seconds))
    return Runner(pod=pod, assignment=action.assignment)


def up(it: Runner) -> Runner:
    """The same runner of a pool, running, its pod Ready and telling of the engines it is assigned."""
    return with_condition(tells(it), "Ready", "True", seconds_ago=2)


def hosting(it: Runner, *engines: tuple[Model, str] | Model, states: Mapping[str, EngineState] | None = None) -> Runner:
    """The same runner of a pool with engines assigned, each Ready and served unless `states` says otherwise."""
    taken = 0
    assigned = list(it.assignment.engines) if it.assignment is not None else []
    labels: dict[str, str | None] = {}
    told: dict[str, EngineState] = {}
    for each in engines:
        model_, id_ = each if isinstance(each, tuple) else (each, f"{each.key.name}-0-1")
        slot, attempt = place_of(id_)
        assigned.append(pooled_engine(model_, slot, attempt, range(taken, taken + model_.spec.gpus)))
        taken += model_.spec.gpus
        told[id_] = (states or {}).get(id_, EngineState.READY)
        labels[names.serve_label(model_.key.name)] = told[id_].value
    wrote = with_labels(assigned_to(it, whole(2, assigned, ())), labels)
    return with_condition(tells(wrote, told), "Ready", "True", seconds_ago=2)


def assigned_to(it: Runner, assignment: wire.Assignment) -> Runner:
    """The same runner with another assignment in its annotation."""
    return reassigned(
        replace(
            it, pod=_with(it.pod, ("metadata", "annotations"), {names.ANNOTATION_ASSIGNMENT: wire.encode(assignment)})
        )
    )


def tells(it: Runner, states: Mapping[str, EngineState] | None = None) -> Runner:
    """The same runner of a pool, running and telling of what it is assigned; Ready unless `states` says otherwise."""
    started = it if it.pod.status.container_statuses else running(it)
    assert it.assignment is not None
    engines = tuple(
        EngineStatus(
            id=each.id,
            model=each.model,
            model_uid=each.model_uid,
            hash=each.hash,
            state=(states or {}).get(each.id, EngineState.READY),
            starts=1,
        )
        for each in it.assignment.engines
    )
    status = RunnerStatus(pod_uid=it.pod.metadata.uid, revision=it.assignment.revision, engines=engines)
    return replace(started, status=status, silent_seconds=0.2)


def claim(of: Model) -> Runner:
    """A runner that was created on no node a minute ago: one is asked of a cluster autoscaler."""
    made = runner(of, "")
    return replace(made, pod=_with(made.pod, ("spec", "affinity"), None))


def scheduled(it: Runner, *, seconds_ago: float = 59) -> Runner:
    """The same runner bound to the node it is pinned to."""
    term = it.pod.spec.affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]  # type: ignore[index]
    return bound(it, term["nodeSelectorTerms"][0]["matchFields"][0]["values"][0], seconds_ago=seconds_ago)


def bound(it: Runner, on: str, *, seconds_ago: float = 59) -> Runner:
    """The same runner bound to a node."""
    known = with_condition(it, "PodScheduled", "True", seconds_ago=seconds_ago)
    return replace(known, pod=_with(known.pod, ("spec", "nodeName"), on))


def unschedulable(it: Runner, *, message: str = "0/1 nodes are available") -> Runner:
    """The same runner, refused by the Kubernetes scheduler."""
    return with_condition(it, "PodScheduled", "False", message=message)


def running(it: Runner, *, seconds_ago: float = 55, restarts: int = 0) -> Runner:
    """The same runner with its container running."""
    started = it if it.pod.spec.node_name else scheduled(it)
    container = {
        "name": names.RUNNER_CONTAINER,
        "restartCount": restarts,
        "state": {"running": {"startedAt": ago(seconds_ago)}},
    }
    pod = _with(started.pod, ("status", "containerStatuses"), [container])
    return replace(started, pod=_with(pod, ("status", "phase"), "Running"))


def unwell(it: Runner, device: str = "GPU-1") -> Runner:
    """The same runner, one of whose GPUs its device plugin calls unhealthy."""
    resources = {"name": "nvidia.com/gpu", "resources": [{"resourceID": device, "health": "Unhealthy"}]}
    container = {"name": names.RUNNER_CONTAINER, "allocatedResourcesStatus": [resources]}
    return replace(it, pod=_with(it.pod, ("status", "containerStatuses"), [container]))


def container_waits(it: Runner, reason: str, message: str = "") -> Runner:
    """The same runner with its container waiting."""
    started = it if it.pod.spec.node_name else scheduled(it)
    container = {"name": names.RUNNER_CONTAINER, "state": {"waiting": {"reason": reason, "message": message}}}
    return replace(started, pod=_with(started.pod, ("status", "containerStatuses"), [container]))


def says(
    it: Runner,
    state: EngineState,
    *,
    stage: Stage | None = None,
    stages: tuple[tuple[Stage, int], ...] = (),
    error: tuple[Reason, str] | None = None,
    failed_starts: int = 0,
    weight_bytes: int = 0,
    memory_bytes: int = 0,
    silent_seconds: float = 0.2,
) -> Runner:
    """The same runner, running and telling the state of its engine."""
    started = it if it.pod.status.container_statuses else running(it)
    assert it.assignment is not None
    assigned = it.assignment.engines[0]
    engine = EngineStatus(
        id=assigned.id,
        model=assigned.model,
        model_uid=assigned.model_uid,
        hash=assigned.hash,
        state=state,
        stage=stage,
        stages=tuple(StageTime(name=name, milliseconds=milliseconds) for name, milliseconds in stages),
        starts=failed_starts + 1,
        failed_starts=failed_starts,
        error=EngineError(reason=error[0], message=error[1]) if error is not None else None,
        weight_bytes=weight_bytes,
        memory_bytes=memory_bytes,
    )
    status = RunnerStatus(pod_uid=it.pod.metadata.uid, revision=it.assignment.revision, engines=(engine,))
    return replace(started, status=status, silent_seconds=silent_seconds)


def ready(it: Runner, **told: Any) -> Runner:
    """The same runner with a Ready engine, its pod Ready too; keywords as in `says`."""
    return with_condition(says(it, EngineState.READY, **told), "Ready", "True", seconds_ago=2)


def serving(it: Runner, *, protected: bool = False, **told: Any) -> Runner:
    """The same runner, Ready and selected by its model's Service; keywords as in `says`."""
    labels = {names.serve_label(owner_of(it.pod).name): EngineState.READY.value}
    if protected:
        labels[names.LABEL_PROTECTED] = "true"
    return with_labels(ready(it, **told), labels)


def silent(it: Runner, seconds: float = 6) -> Runner:
    """The same runner, not heard of for a while."""
    return replace(it, silent_seconds=seconds)


def terminating(it: Runner) -> Runner:
    """The same runner with its deletion under way."""
    return replace(it, pod=_with(it.pod, ("metadata", "deletionTimestamp"), ago(1)))


def ended(it: Runner, reason: str = "Evicted") -> Runner:
    """The same runner with its pod Failed."""
    return replace(it, pod=_with(_with(it.pod, ("status", "phase"), "Failed"), ("status", "reason"), reason))


def with_labels(it: Runner, labels: Mapping[str, str | None]) -> Runner:
    """The same runner with labels set, or removed where they are None."""
    merged = {key: value for key, value in {**it.pod.metadata.labels, **labels}.items() if value is not None}
    return replace(it, pod=_with(it.pod, ("metadata", "labels"), merged))


def with_condition(it: Runner, kind: str, status: str, *, seconds_ago: float = 50, message: str = "") -> Runner:
    """The same runner with a condition of its pod set."""
    condition = {"type": kind, "status": status, "lastTransitionTime": ago(seconds_ago), "message": message}
    others = [msgspec.to_builtins(each) for each in it.pod.status.conditions if each.type != kind]
    return replace(it, pod=_with(it.pod, ("status", "conditions"), [*others, condition]))


def reassigned(it: Runner) -> Runner:
    """The same runner with its assignment read anew from its annotation."""
    value = it.pod.metadata.annotations.get(names.ANNOTATION_ASSIGNMENT)
    return replace(it, assignment=wire.decode(value) if value else None)


def stranger(
    name: str, on: str, *, gpus: int = 0, cpu: str = "100m", memory: str = "100Mi", namespace: str = "default"
) -> Pod:
    """Somebody else's pod on a node."""
    requests = {"cpu": cpu, "memory": memory} | ({names.DEFAULT_GPU_RESOURCE: str(gpus)} if gpus else {})
    body = {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {"nodeName": on, "containers": [{"name": "app", "resources": {"requests": requests}}]},
        "status": {"phase": "Running"},
    }
    return msgspec.convert(body, Pod)


def service(name: str, *, owner_uid: str | None, namespace: str = "default") -> Service:
    """A Service with that controlling owner, or with none."""
    owners = () if owner_uid is None else (OwnerReference(kind="X", name=name, uid=owner_uid, controller=True),)
    return Service(metadata=Metadata(name=name, namespace=namespace, uid="uid-service", owner_references=owners))


def fleet(*parts: Node | Model | Pool | Runner | Pod | Cache, limits: Limits = LIMITS) -> Fleet:
    """A snapshot of all these."""
    return Fleet(
        models={each.key: each for each in parts if isinstance(each, Model)},
        nodes={each.metadata.name: each for each in parts if isinstance(each, Node)},
        pools={each.key: each for each in parts if isinstance(each, Pool)},
        runners=tuple(each for each in parts if isinstance(each, Runner)),
        strangers=tuple(each for each in parts if isinstance(each, Pod)),
        caches={each.node: each for each in parts if isinstance(each, Cache)},
        limits=limits,
    )


def _with(pod: Pod, path: tuple[str, str], value: Any) -> Pod:
    body = msgspec.to_builtins(pod)
    body[path[0]] = {**body[path[0]], path[1]: value}
    return msgspec.convert(body, Pod)
