"""What is the matter with one model: the facts its status is written from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warmfleet_api import names
from warmfleet_api.status import Dormancy
from warmfleet_api.vocabulary import DesiredState, EngineState, Stage
from warmfleet_operator.decide.actions import Forecast, Preemption, Promotion, StandingBy, Waiting
from warmfleet_operator.decide.canary import variant
from warmfleet_operator.decide.fleet import Cache, Demand, Model, Problem, Runner
from warmfleet_operator.decide.replicas import is_outdated, keep_rank, stays
from warmfleet_operator.decide.runners import Member, is_claim, members_of
from warmfleet_operator.decide.scaling import ScalingView
from warmfleet_operator.decide.standby import is_resting, standing
from warmfleet_operator.records import ContainerStatus, Node, Pod

_BEFORE_A_WAKE = {EngineState.ASLEEP, EngineState.DRAINING}
"""States of an engine that is to be awake, and is not on its way yet."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """All that the status of one model depends on, apart from the time."""

    model: Model
    runners: tuple[Runner, ...]
    """Those that host engines of it, terminating ones included."""
    nodes: Mapping[str, Node]
    waiting: Waiting | None = None
    """From the last round of `schedule()`."""
    endpoint_ready: bool = True
    """Whether its Service stands."""
    refusal: Problem | None = None
    """Why the API server refused its last runner, e.g. a quota."""
    caches: Mapping[str, Cache] = field(default_factory=dict)
    """The weight stores, by the node's name."""
    demand: Demand = field(default_factory=Demand)
    forecast: Forecast | None = None
    """From the last round of `schedule()`: when its start will be done."""
    yields: str = ""
    """From that round too: for whom it shall sleep, and why."""
    preemption: Preemption | None = None
    """The last one that took an engine of it, if its status does not tell of it yet."""
    told_seconds: float | None = None
    """Since the status last told anew of the start that waits; None: not by this operator."""
    scaling: ScalingView | None = None
    """Of a model with `autoscaling`."""
    standby: StandingBy | None = None
    """From the last round too: what stands by; None: nothing is to."""
    promotion: Promotion | None = None
    """A standby of it that took over, if nobody told of it yet."""


@dataclass(frozen=True, slots=True)
class Situation:
    """The view, sorted."""

    model: Model
    members: tuple[Member, ...]
    """Its places in runners, by slot and attempt."""
    waiting: Waiting | None
    refusal: Problem | None
    endpoint_ready: bool
    caches: Mapping[str, Cache]
    demand: Demand = field(default_factory=Demand)
    forecast: Forecast | None = None
    yields: str = ""
    preemption: Preemption | None = None
    told_seconds: float | None = None
    scaling: ScalingView | None = None
    standby: StandingBy | None = None
    """What stands by, as the last round found it."""
    promotion: Promotion | None = None
    """The last one, if nobody told of it yet."""
    resting: frozenset[str] = frozenset()
    """Names of the places that only stand by: they are no replicas."""
    dormant: Dormancy | None = None
    """Present while the model is to sleep, as decided now."""

    @property
    def wanted(self) -> int:
        """How many replicas are wanted, asleep or not."""
        return self.model.spec.replicas

    @property
    def serving(self) -> list[Member]:
        """Runners whose engine requests reach."""
        return [member for member in self.members if member.is_serving]

    @property
    def alive(self) -> list[Member]:
        """Runners that serve or still may."""
        return [member for member in self.members if member.is_alive and member.name not in self.resting]

    @property
    def current(self) -> list[Member]:
        """Those of them that run the spec as it is now, or the one beside which that is tried."""
        return [member for member in self.alive if not is_outdated(variant(self.model, member.hash), member)]

    @property
    def newest(self) -> list[Member]:
        """Those of them that run the spec as it is now."""
        return [member for member in self.current if member.hash == self.model.hash]

    @property
    def standing(self) -> list[Member]:
        """Runners whose engines requests reach and that count as replicas: a canary's are beside them."""
        return [member for member in self.serving if self.model.stable is None or member.hash != self.model.hash]

    @property
    def starting(self) -> Member | None:
        """The first runner that is to serve and does not yet."""
        if self.dormant is not None:
            return None
        return next((member for member in self.current if not member.is_serving), None)

    @property
    def has_begun(self) -> bool:
        """Whether a start is under way, not only wanted."""
        starting = self.starting
        return starting is not None and (starting.engine is None or starting.engine.state not in _BEFORE_A_WAKE)

    @property
    def gives_way(self) -> bool:
        """Whether an engine of it is told to go though the model is wanted awake."""
        return any(
            member.is_terminating or (member.assigned is not None and member.assigned.state is DesiredState.ASLEEP)
            for member in self.members
            if member.name not in self.resting
        )

    @property
    def blocked(self) -> Problem | None:
        """Why a start has no runner: the API server refused it, or the scheduler has no place."""
        if self.refusal is not None or self.waiting is None:
            return self.refusal
        return Problem(self.waiting.reason, self.waiting.blocker)

    @property
    def serves_current(self) -> bool:
        """Whether the spec as it is now serves."""
        return any(member.is_serving for member in self.newest)


def situation_of(view: ModelView) -> Situation:
    """Sort the facts of one model."""
    whose = view.model.key, view.model.metadata.uid
    members = [
        member
        for runner in view.runners
        for member in members_of(runner, view.nodes)
        if (member.model, member.model_uid) == whose
    ]
    return Situation(
        model=view.model,
        members=tuple(sorted(members, key=lambda member: (member.slot, member.attempt))),
        waiting=view.waiting,
        refusal=view.refusal,
        endpoint_ready=view.endpoint_ready,
        caches=view.caches,
        demand=view.demand,
        forecast=view.forecast,
        yields=view.yields,
        preemption=view.preemption,
        told_seconds=view.told_seconds,
        scaling=view.scaling,
        standby=view.standby,
        promotion=view.promotion,
        resting=_resting(view, members),
    )


def _resting(view: ModelView, members: Sequence[Member]) -> frozenset[str]:
    """Return the names of the places that only stand by, or did until nobody wanted that any more."""
    model = view.model.stable or view.model
    if model.spec.standby is None or model.status.dormant is not None:
        return frozenset()
    staying = sorted(
        (member for member in members if member.is_alive and stays(model, member)),
        key=lambda each: keep_rank(model, each),
    )
    replicas = {member.name for member in standing(model, staying, view.nodes).replicas}
    return frozenset(member.name for member in members if is_resting(member) and member.name not in replicas)


def container_of(pod: Pod) -> ContainerStatus | None:
    """Return the status of the runner's container."""
    return next((each for each in pod.status.container_statuses if each.name == names.RUNNER_CONTAINER), None)


def stage_of(member: Member) -> Stage:
    """Return the stage of a start that is under way."""
    container = container_of(member.pod)
    if not member.pod.spec.node_name:
        return Stage.NODE_PROVISIONED if is_claim(member.pod) else Stage.RUNNER_SCHEDULED
    if member.engine is not None and member.engine.state in _BEFORE_A_WAKE:
        return Stage.QUEUED
    if member.engine is not None:
        return Stage.ROUTABLE if member.is_ready else member.engine.stage or Stage.ENGINE_FORKED
    if container is None or container.state.running is None:
        return Stage.IMAGE_PULLED
    return Stage.RUNNER_READY
