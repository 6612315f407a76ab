"""What came of a simulation: each start with its stages, what was switched, how long requests waited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warmfleet_api.vocabulary import Priority, StartType


@dataclass(frozen=True, slots=True)
class Span:
    """Something that went on for a while in a runner."""

    runner: str
    node: str
    model: str
    what: str
    """A stage, `sleep`, `wake` or `Ready`."""
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Start:
    """A model that was wanted, until it was Ready."""

    model: str
    priority: Priority
    wanted: float
    assigned: float
    """When its engine came into an assignment."""
    ready: float
    start_type: StartType
    runner: str
    node: str
    fetched: Mapping[str, float] = field(default_factory=dict)
    """Bytes that had to come over `remote` and `disk` because no node had them nearer."""

    @property
    def seconds(self) -> float:
        """From the moment it was wanted until it was Ready."""
        return self.ready - self.wanted


@dataclass(frozen=True, slots=True)
class Foretold:
    """What was first said of when a model would be Ready, while its start waited or once it had its place."""

    model: str
    has_place: bool
    seconds: float
    """How long it would take from then on."""
    took_seconds: float
    """How long it took."""


@dataclass(slots=True)
class Outcome:
    """Of one policy in one scenario."""

    policy: str
    starts: list[Start] = field(default_factory=list)
    unfinished: Mapping[str, str] = field(default_factory=dict)
    """Models that were wanted and not Ready when the simulation ended, each with what it waited for."""
    spans: list[Span] = field(default_factory=list)
    request_waits: list[float] = field(default_factory=list)
    """Seconds that each request waited for its model."""
    switches: list[float] = field(default_factory=list)
    """When an engine had to go, or to sleep, for another one."""
    foretold: list[Foretold] = field(default_factory=list)
    preemptions: int = 0
    rounds: int = 0
    ended: float = 0.0
    problems: list[str] = field(default_factory=list)
    """Invariants that were broken: none, or there is a defect."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def seconds_by_class(outcome: Outcome) -> dict[Priority, list[float]]:
    """Return the times to Ready, by class, highest class first."""
    found: dict[Priority, list[float]] = {}
    for priority in Priority:
        times = [start.seconds for start in outcome.starts if start.priority is priority]
        if times:
            found[priority] = times
    return found
