"""The block `spec.autoscaling`: how many replicas a model has, by what is asked of it and by the clock.

Fields that belong to one policy have no default in the schema, so that one which would do nothing is refused; what
stands for a missing one is said by the properties beside them.
"""

from typing import Annotated, Self

from pydantic import Field, StringConstraints

from warmfleet_api.rules import Block, rule
from warmfleet_api.vocabulary import ScaleBy, ScalingPolicy, SelectPolicy

MAX_REPLICAS = 1000
TARGET_REQUESTS = 20
UTILIZATION_PERCENT = 70

Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS)]
SomeReplicas = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
Percent = Annotated[int, Field(ge=1, le=100)]


class ScalingStepPolicy(Block):
    """How fast it may go, as in autoscaling/v2."""

    type: ScaleBy
    """Pods: a number of replicas. Percent: a share of those there are."""
    value: Annotated[int, Field(ge=1, le=1000)]
    """How many, or how many percent."""
    period_seconds: Annotated[int, Field(ge=1, le=1800)]
    """Within which time."""


class ScalingDirection(Block):
    """One direction of the HorizontalPodAutoscaler's behavior."""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """For how long back the most careful wish counts. Default: 0 up, 300 down."""
    select_policy: SelectPolicy | None = None
    """Which of the policies holds. Default: Max. Disabled: it never goes this way."""
    policies: Annotated[list[ScalingStepPolicy], Field(min_length=1, max_length=8)] | None = None
    """How fast it may go. Default: up 2 replicas per 10 s, down 1 per 60 s."""


class ScalingBehavior(Block):
    """How fast replicas come and go, in the shape of autoscaling/v2; what is left out keeps its default."""

    scale_up: ScalingDirection = ScalingDirection()
    """When more are wanted."""
    scale_down: ScalingDirection = ScalingDirection()
    """When fewer are wanted."""


class ScalingWindows(Block):
    """Over which time demand is averaged."""

    up_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Before there are more replicas; 0: at once."""
    down_seconds: Annotated[int, Field(ge=0, le=3600)] = 120
    """Before there are fewer."""

    @rule(
        "self.downSeconds >= self.upSeconds",
        "autoscaling.windows.downSeconds is shorter than upSeconds, so replicas would go before they come; raise it",
        field_path=".downSeconds",
    )
    def goes_slower_than_it_comes(self: Self) -> bool:  # noqa: D102
        return self.down_seconds >= self.up_seconds


class ScalingMarks(Block):
    """Marks of the policy Rules. All are averages over 30 s and of the replicas that serve."""

    cpu_percent: Annotated[int, Field(ge=1, le=1000)] = 80
    """CPU of an engine, of what resources.cpu requests."""
    gpu_percent: Percent = 80
    """Time in which its GPUs are busy. A model without GPUs has no such mark."""
    latency_milliseconds: Annotated[int, Field(ge=1, le=3_600_000)] = 2000
    """From the arrival of a request that streams at the engine's queue to its first token."""
    queue_requests: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Requests that wait, for each replica."""
    cooldown_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    """How long after each change of replicas there is no other."""


class PrewarmSchedule(Block):
    """A time at which the model is to be awake, with so many replicas at least."""

    cron: Annotated[str, StringConstraints(pattern=r"^\S+( \S+){4}$", max_length=128)]
    """When it begins: minute, hour, day of month, month, day of week, e.g. "45 7 * * 1-5"."""
    time_zone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][-+A-Za-z0-9_/]*$", max_length=64)] = "Etc/UTC"
    """In which time zone, by its IANA name, e.g. Europe/Vienna."""
    duration_seconds: Annotated[int, Field(ge=60, le=2_592_000)] = 3600
    """For how long it stays at least so."""
    replicas: SomeReplicas = 1
    """How many replicas there are meanwhile at least."""


class Autoscaling(Block):
    """How many replicas there are; the block's presence switches it on. Leave spec.replicas out then: 0 there stops
    the model as ever, any other number is the HorizontalPodAutoscaler's to write."""

    min_replicas: Replicas = 1
    """How many there are at least. 0: the model sleeps when nobody asks for it, and a request wakes it."""
    max_replicas: SomeReplicas = 5
    """How many there are at most."""
    policy: ScalingPolicy = ScalingPolicy.DEMAND
    """Demand: by requests per replica. Utilization: by the share of its measured capacity that is used. Rules: up when
    any two of CPU, GPU, latency and queue are over their marks, down when all are under. External: somebody else
    writes spec.replicas, e.g. KEDA; no HorizontalPodAutoscaler is made."""
    target_requests: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests that one replica is to have, queued and running together. Default: 20. Of the policies Demand and
    External."""
    utilization_percent: Percent | None = None
    """How much of the requests that an engine takes at once, as measured, is to be in use. Default: 70. Of the policy
    Utilization."""
    windows: ScalingWindows | None = None
    """Over which time demand is averaged. Of the policies Demand and Utilization."""
    marks: ScalingMarks | None = None
    """Marks of the policy Rules."""
    behavior: ScalingBehavior | None = None
    """How fast replicas come and go."""
    schedule: Annotated[list[PrewarmSchedule], Field(max_length=16)] = []
    """Times at which the model is to be awake before anybody asks."""

    @property
    def floor(self) -> int:
        """The fewest replicas that spec.replicas is brought to: sleep is not written there."""
        return max(1, self.min_replicas)

    @property
    def target(self) -> int:
        """Requests per replica, by which the HorizontalPodAutoscaler divides what it is shown; 1 where the policy does
        not count requests."""
        by_requests = self.policy in {ScalingPolicy.DEMAND, ScalingPolicy.EXTERNAL}
        return (self.target_requests or TARGET_REQUESTS) if by_requests else 1

    @rule(
        "self.minReplicas <= self.maxReplicas",
        "autoscaling.minReplicas is more than maxReplicas; lower it or raise maxReplicas",
        field_path=".minReplicas",
    )
    def least_is_not_above_most(self: Self) -> bool:  # noqa: D102
        return self.min_replicas <= self.max_replicas

    @rule(
        "!has(self.targetRequests) || self.policy in ['Demand', 'External']",
        "autoscaling.targetRequests is of the policies Demand and External; remove it",
        field_path=".targetRequests",
    )
    def requests_are_counted_where_they_count(self: Self) -> bool:  # noqa: D102
        return self.target_requests is None or self.policy in {ScalingPolicy.DEMAND, ScalingPolicy.EXTERNAL}

    @rule(
        "!has(self.utilizationPercent) || self.policy == 'Utilization'",
        "autoscaling.utilizationPercent is of the policy Utilization; write that policy or remove it",
        field_path=".utilizationPercent",
    )
    def utilization_has_its_policy(self: Self) -> bool:  # noqa: D102
        return self.utilization_percent is None or self.policy is ScalingPolicy.UTILIZATION

    @rule(
        "!has(self.windows) || self.policy in ['Demand', 'Utilization']",
        "autoscaling.windows are of the policies Demand and Utilization; remove them",
        field_path=".windows",
    )
    def windows_have_their_policy(self: Self) -> bool:  # noqa: D102
        return self.windows is None or self.policy in {ScalingPolicy.DEMAND, ScalingPolicy.UTILIZATION}

    @rule(
        "!has(self.marks) || self.policy == 'Rules'",
        "autoscaling.marks are of the policy Rules; write that policy or remove them",
        field_path=".marks",
    )
    def marks_have_their_policy(self: Self) -> bool:  # noqa: D102
        return self.marks is None or self.policy is ScalingPolicy.RULES

    @rule(
        "!has(self.behavior) || self.policy != 'External'",
        "autoscaling.behavior is the HorizontalPodAutoscaler's, and with policy External there is none; remove it",
        field_path=".behavior",
    )
    def behavior_has_its_autoscaler(self: Self) -> bool:  # noqa: D102
        return self.behavior is None or self.policy is not ScalingPolicy.EXTERNAL

    @rule(
        "!has(self.schedule) || self.schedule.all(each, each.replicas <= self.maxReplicas)",
        "autoscaling.schedule asks for more replicas than maxReplicas; lower it or raise maxReplicas",
        field_path=".schedule",
    )
    def schedule_is_not_above_most(self: Self) -> bool:  # noqa: D102
        return all(each.replicas <= self.max_replicas for each in self.schedule)
