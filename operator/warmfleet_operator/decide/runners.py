"""What a runner is to the plans: whose it is, alive or lost, and which engines of which models it hosts.

Read anew in every round from pod, node, assignment and status; nothing is remembered in between.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from warmfleet_api import names
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import SILENT_SECONDS, EngineStatus
from warmfleet_api.vocabulary import DesiredState, EngineState, WakePolicy
from warmfleet_operator.decide.fleet import ModelKey, OwnerKey, PoolKey, Runner
from warmfleet_operator.decide.times import seconds_since
from warmfleet_operator.records import UNHEALTHY, Node, Pod

_OWNER_KEYS: Mapping[str, type[ModelKey] | type[PoolKey]] = {
    names.MODEL_DEPLOYMENT_KIND: ModelKey,
    names.WARM_POOL_KIND: PoolKey,
}


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A place of a model in a runner, as the model's plan sees it: its own runner, or one engine in a pool's.

    What every round asks of every engine is found out once, when it is made.
    """

    runner: Runner
    """As it was when it was looked at. While nothing happens in a runner that is not every round (`sights.py`), so what
    is counted in seconds is to be read from the fleet's own runner."""
    model: ModelKey
    model_uid: str
    """UID of the ModelDeployment it was made for: one that was deleted and made anew has another."""
    pool: str
    """The pool whose runner it is in; empty: the runner is the model's own."""
    name: str
    """Of an own runner its pod's, in a pool's the engine's id; unique among the members of a model."""
    node: str
    """The node the runner runs on or is pinned to."""
    slot: int
    attempt: int
    hash: str
    engine: EngineStatus | None
    """What the runner says of the engine."""
    assigned: EngineAssignment | None
    """The engine as the runner's assignment has it."""
    leaves: str
    """Why the runner is to be left when others can take over, in words; empty: it is not."""
    lost: str
    """Why the runner no longer counts though its pod exists, in words; empty while it does."""
    retires: bool
    """Its pool wants the runner empty, to replace or remove it."""
    is_terminating: bool
    """Whether the runner's deletion is under way."""
    is_alive: bool
    """Whether it counts as a replica: one that serves or still may."""
    is_ready: bool
    """Whether its engine is Ready, as the runner itself says."""
    is_serving: bool
    """Whether requests reach its engine: Ready, the pod too, and the Service selects it."""
    serve_label: str | None
    """The state of the model's engine in the runner, as the pod's label has it."""
    is_protected: bool
    """Whether the runner carries the label that the PodDisruptionBudget selects."""

    @property
    def pod(self) -> Pod:
        """The runner's pod."""
        return self.runner.pod

    @property
    def is_told_to_sleep(self) -> bool:
        """Whether its assignment wants it asleep, whoever may wake it."""
        return self.assigned is not None and self.assigned.state is DesiredState.ASLEEP

    @property
    def wakes_on_request(self) -> bool:
        """Whether it sleeps with its memory still reserved, so that its runner may wake it."""
        return self.is_told_to_sleep and self.assigned is not None and self.assigned.wake is WakePolicy.ON_REQUEST

    @property
    def age(self) -> tuple[str, str]:
        """Sorts older runners first."""
        return self.pod.metadata.creation_timestamp, self.name

    def unscheduled_seconds(self, now: datetime) -> float | None:
        """Return for how long the Kubernetes scheduler has refused the runner, None where it has not."""
        return unscheduled_seconds(self.pod, now)


def owner_of(pod: Pod) -> OwnerKey:
    """Return the ModelDeployment or WarmPool a runner was made for."""
    labels = pod.metadata.labels
    key = _OWNER_KEYS.get(labels.get(names.LABEL_RUNNER, ""), ModelKey)
    return key(pod.metadata.namespace, labels.get(names.LABEL_OWNER, ""))


def models_of(pod: Pod) -> Iterator[ModelKey]:
    """Yield the models that a runner has to do with: that of an own runner, in a pool's those its labels name."""
    owner = owner_of(pod)
    if isinstance(owner, ModelKey):
        yield owner
        return
    for label in pod.metadata.labels:
        if label.startswith(names.SERVE_LABEL_PREFIX):
            yield ModelKey(owner.namespace, label.removeprefix(names.SERVE_LABEL_PREFIX))


def is_ours(pod: Pod) -> bool:
    """Whether a pod is a runner, and does not only look like one."""
    labels = pod.metadata.labels
    return labels.get(names.LABEL_RUNNER) in _OWNER_KEYS and names.LABEL_OWNER in labels


def by_owner(runners: Iterable[Runner]) -> dict[OwnerKey, list[Runner]]:
    """Group runners by whose they are; pods that only look like runners are left out."""
    groups: defaultdict[OwnerKey, list[Runner]] = defaultdict(list)
    for runner in runners:
        if is_ours(runner.pod):
            groups[owner_of(runner.pod)].append(runner)
    return groups


def node_of(pod: Pod) -> str:
    """Return the node a runner runs on, or is pinned to before it is bound."""
    if pod.spec.node_name:
        return pod.spec.node_name
    affinity = pod.spec.affinity or {}
    required = affinity.get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    for term in required.get("nodeSelectorTerms", ()):
        for field in term.get("matchFields", ()):
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def hash_of(pod: Pod) -> str:
    """Return the template hash that a runner was made with."""
    return pod.metadata.labels.get(names.LABEL_TEMPLATE_HASH, "")


def is_claim(pod: Pod) -> bool:
    """Whether a runner is neither on a node nor pinned to one: a cluster autoscaler is asked for it (`claims.py`)."""
    return not node_of(pod)


def place_of(name: str) -> tuple[int, int]:
    """Return slot and attempt, the last two parts of a name that `runner_name` made; 0 for what is no number."""
    slot, attempt = (["", "", *name.rsplit("-", 2)])[-2:]
    return int(slot) if slot.isdigit() else 0, int(attempt) if attempt.isdigit() else 0


def is_pod_ready(pod: Pod) -> bool:
    """Whether Kubernetes calls the pod Ready."""
    ready = pod.condition("Ready")
    return ready is not None and ready.status == "True"


def unscheduled_seconds(pod: Pod, now: datetime) -> float | None:
    """Return for how long the Kubernetes scheduler has refused the pod its node, None where it has not.

    A claim has no node yet: it waits for one as long as `claims.py` lets it.
    """
    if pod.spec.node_name or is_claim(pod):
        return None
    scheduled = pod.condition("PodScheduled")
    if scheduled is None or scheduled.status != "False":
        return None
    return seconds_since(pod.metadata.creation_timestamp, now)


def members_of(runner: Runner, nodes: Mapping[str, Node], retiring: Collection[str] = ()) -> Iterator[Member]:
    """Yield the places of models in a runner: the one of an own runner, in a pool's one per engine.

    `retiring` are names of runners that their pools want empty. What a damaged assignment held is read from the
    status.
    """
    owner = owner_of(runner.pod)
    if isinstance(owner, ModelKey):
        yield member_of(runner, nodes)
        return
    hosted: Iterable[EngineAssignment | EngineStatus] = ()
    if runner.assignment is not None:
        hosted = runner.assignment.engines
    elif runner.status is not None:
        hosted = runner.status.engines
    told = {each.id: each for each in runner.status.engines} if runner.status is not None else {}
    node_name = node_of(runner.pod)
    facts = _facts_of(runner, node_name, nodes.get(node_name))
    retires = runner.pod.metadata.name in retiring
    for each in hosted:
        slot, attempt = place_of(each.id)
        yield _member(
            runner,
            facts,
            model=ModelKey(owner.namespace, each.model),
            model_uid=each.model_uid,
            pool=owner.name,
            name=each.id,
            node=node_name,
            slot=slot,
            attempt=attempt,
            hash_=each.hash,
            engine=_as_assigned(told.get(each.id), each),
            assigned=each if isinstance(each, EngineAssignment) else None,
            retires=retires,
        )


def member_of(runner: Runner, nodes: Mapping[str, Node]) -> Member:
    """Read what an own runner is to its model from its pod, its node and its status."""
    metadata = runner.pod.metadata
    node_name = node_of(runner.pod)
    slot = metadata.labels.get(names.LABEL_SLOT, "")
    model, uid = ModelKey(metadata.namespace, owner_of(runner.pod).name), metadata.controller_uid
    engines = runner.status.engines if runner.status is not None else ()
    assigned = runner.assignment.engines if runner.assignment is not None else ()
    return _member(
        runner,
        _facts_of(runner, node_name, nodes.get(node_name)),
        model=model,
        model_uid=uid or "",
        pool="",
        name=metadata.name,
        node=node_name,
        slot=int(slot) if slot.isdigit() else 0,
        attempt=place_of(metadata.name)[1],
        hash_=hash_of(runner.pod),
        engine=next((each for each in engines if each.model == model.name and each.model_uid == uid), None),
        assigned=assigned[0] if assigned else None,
    )


class _Facts(NamedTuple):
    """What all members of a runner have in common."""

    leaves: str
    lost: str
    is_terminating: bool
    is_alive: bool
    drains: bool
    is_pod_ready: bool
    is_protected: bool


def _facts_of(runner: Runner, node_name: str, node: Node | None) -> _Facts:
    pod = runner.pod
    lost = why_lost(runner, node_name, node)
    is_terminating = pod.metadata.deletion_timestamp is not None
    return _Facts(
        leaves=why_left(pod, node),
        lost=lost,
        is_terminating=is_terminating,
        is_alive=not (lost or is_terminating or pod.is_terminal),
        drains=runner.status is not None and runner.status.draining,
        is_pod_ready=is_pod_ready(pod),
        is_protected=pod.metadata.labels.get(names.LABEL_PROTECTED) == "true",
    )


def _member(
    runner: Runner,
    facts: _Facts,
    *,
    model: ModelKey,
    model_uid: str,
    pool: str,
    name: str,
    node: str,
    slot: int,
    attempt: int,
    hash_: str,
    engine: EngineStatus | None,
    assigned: EngineAssignment | None,
    retires: bool = False,
) -> Member:
    label = runner.pod.metadata.labels.get(names.serve_label(model.name))
    is_ready = facts.is_alive and engine is not None and engine.state is EngineState.READY and not facts.drains
    return Member(
        runner=runner,
        model=model,
        model_uid=model_uid,
        pool=pool,
        name=name,
        node=node,
        slot=slot,
        attempt=attempt,
        hash=hash_,
        engine=engine,
        assigned=assigned,
        leaves=facts.leaves,
        lost=facts.lost,
        retires=retires,
        is_terminating=facts.is_terminating,
        is_alive=facts.is_alive,
        is_ready=is_ready,
        is_serving=is_ready and facts.is_pod_ready and label == EngineState.READY,
        serve_label=label,
        is_protected=facts.is_protected,
    )


def why_left(pod: Pod, node: Node | None) -> str:
    """Say why nothing new comes to a runner, and what is there moves when it can; empty: it stays."""
    if node is not None and node.is_cordoned:
        return f"{node.metadata.name} is cordoned"
    for container in pod.status.container_statuses:
        for resource in container.allocated_resources_status:
            for each in resource.resources:
                if each.health == UNHEALTHY:
                    return f"{resource.name} {each.resource_id} of {pod.metadata.name} is unhealthy"
    return ""


def why_lost(runner: Runner, node_name: str, node: Node | None) -> str:
    """Say why a runner can't be counted on though its pod exists; empty while it can."""
    if node is None:
        return f"node {node_name} is gone" if node_name else ""
    if not node.is_ready:
        return f"node {node_name} is not Ready"
    if runner.silent_seconds is None or runner.silent_seconds < SILENT_SECONDS:
        return ""
    # Never heard by this operator, but perhaps by another before: then a label says more than Starting.
    labels = runner.pod.metadata.labels
    states = {value for label, value in labels.items() if label.startswith(names.SERVE_LABEL_PREFIX)}
    return "" if runner.status is None and states <= {EngineState.STARTING.value} else "its status stream is silent"


def _as_assigned(told: EngineStatus | None, assigned: EngineAssignment | EngineStatus) -> EngineStatus | None:
    """Return what is told of an engine, unless it is of a former one of the same id."""
    return told if told is not None and told.model_uid == assigned.model_uid and told.hash == assigned.hash else None
