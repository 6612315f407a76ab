"""What a runner is to its model's plan: alive or lost, Ready or not, serving or not.

Read anew in every round from pod, node and status; nothing is remembered in between.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from warmfleet_api import names
from warmfleet_api.runner_status import SILENT_SECONDS, EngineStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.decide.fleet import ModelKey, Runner
from warmfleet_operator.decide.times import seconds_since
from warmfleet_operator.records import Node, Pod


@dataclass(frozen=True, slots=True)
class Member:
    """A runner as its model's plan sees it."""

    runner: Runner
    node: str
    """The node it runs on or is pinned to."""
    slot: int
    attempt: int
    hash: str
    engine: EngineStatus | None
    """What the runner says of the model's engine."""
    is_cordoned: bool
    lost: str
    """Why it no longer counts as a replica though its pod exists, in words; empty while it does."""

    @property
    def pod(self) -> Pod:
        """Its pod."""
        return self.runner.pod

    @property
    def name(self) -> str:
        """Name of its pod."""
        return self.pod.metadata.name

    @property
    def is_terminating(self) -> bool:
        """Whether its deletion is under way."""
        return self.pod.metadata.deletion_timestamp is not None

    @property
    def is_alive(self) -> bool:
        """Whether it counts as a replica: one that serves or still may."""
        return not (self.lost or self.is_terminating or self.pod.is_terminal)

    @property
    def is_ready(self) -> bool:
        """Whether its engine is Ready, as the runner itself says."""
        return self.is_alive and self.engine is not None and self.engine.state is EngineState.READY and not self._drains

    @property
    def _drains(self) -> bool:
        return self.runner.status is not None and self.runner.status.draining

    @property
    def is_serving(self) -> bool:
        """Whether requests reach its engine: Ready, the pod too, and the Service selects it."""
        pod_ready = self.pod.condition("Ready")
        return (
            self.is_ready
            and pod_ready is not None
            and pod_ready.status == "True"
            and self.serve_label == EngineState.READY
        )

    @property
    def serve_label(self) -> str | None:
        """The engine's state as the pod's label has it."""
        return self.pod.metadata.labels.get(names.serve_label(owner_of(self.pod).name))

    @property
    def is_protected(self) -> bool:
        """Whether it carries the label that the PodDisruptionBudget selects."""
        return self.pod.metadata.labels.get(names.LABEL_PROTECTED) == "true"

    @property
    def age(self) -> tuple[str, str]:
        """Sorts older runners first."""
        return self.pod.metadata.creation_timestamp, self.name

    def unscheduled_seconds(self, now: datetime) -> float | None:
        """Return for how long the Kubernetes scheduler has refused the pod, None where it has not."""
        scheduled = self.pod.condition("PodScheduled")
        if self.pod.spec.node_name or scheduled is None or scheduled.status != "False":
            return None
        return seconds_since(self.pod.metadata.creation_timestamp, now)


def owner_of(pod: Pod) -> ModelKey:
    """Return the ModelDeployment a runner was made for."""
    return ModelKey(pod.metadata.namespace, pod.metadata.labels.get(names.LABEL_OWNER, ""))


def by_owner(runners: Iterable[Runner]) -> Mapping[ModelKey, list[Runner]]:
    """Group runners by the ModelDeployment they were made for; pods that only look like runners are left out."""
    groups: defaultdict[ModelKey, list[Runner]] = defaultdict(list)
    for runner in runners:
        labels = runner.pod.metadata.labels
        if labels.get(names.LABEL_RUNNER) == names.MODEL_DEPLOYMENT_KIND and names.LABEL_OWNER in labels:
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


def member_of(runner: Runner, nodes: Mapping[str, Node]) -> Member:
    """Read a runner's part from its pod, its node and its status."""
    metadata = runner.pod.metadata
    node_name = node_of(runner.pod)
    node = nodes.get(node_name)
    slot = metadata.labels.get(names.LABEL_SLOT, "")
    attempt = metadata.name.rpartition("-")[2]
    engine = _engine_of(runner)
    return Member(
        runner=runner,
        node=node_name,
        slot=int(slot) if slot.isdigit() else 0,
        attempt=int(attempt) if attempt.isdigit() else 0,
        hash=metadata.labels.get(names.LABEL_TEMPLATE_HASH, ""),
        engine=engine,
        is_cordoned=node is not None and node.spec.unschedulable,
        lost=_why_lost(runner, node_name, node),
    )


def _engine_of(runner: Runner) -> EngineStatus | None:
    if runner.status is None:
        return None
    owner, uid = owner_of(runner.pod).name, runner.pod.metadata.controller_uid
    return next((each for each in runner.status.engines if each.model == owner and each.model_uid == uid), None)


def _why_lost(runner: Runner, node_name: str, node: Node | None) -> str:
    if node is None:
        return f"node {node_name} is gone" if node_name else ""
    if not node.is_ready:
        return f"node {node_name} is not Ready"
    if runner.silent_seconds is None or runner.silent_seconds < SILENT_SECONDS:
        return ""
    # Never heard by this operator, but perhaps by another before: then its label says more than Starting.
    label = runner.pod.metadata.labels.get(names.serve_label(owner_of(runner.pod).name), EngineState.STARTING)
    return "" if runner.status is None and label == EngineState.STARTING else "its status stream is silent"
