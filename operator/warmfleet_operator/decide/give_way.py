"""Who gives way to a start that finds no room, by which rule, and why nobody does.

In this order, and of each only what the start needs:

1. *Asleep*: a dormant model's engine keeps no longer what it would need awake.
2. *Place*: a sleeping engine is taken out; a dormant model's own runner is deleted.
3. *Idle*: a model with `idle.policy: Yield` whose engines are all without requests for max(10 s, 3 x its wake) falls
   asleep, whatever its class. Unless the start is of a higher class, the engine has served for its *residency* too,
   max(60 s, 5 x its start): so two models that want one place do not spend their time on changing it.
4. *Busy*: an engine of a lower class is ordered asleep after its residency, and its model waits for another place.

A runner spends at most a fifth of any ten minutes on such changes (3 and 4), and may always make one. A model's floor
is all its replicas; only rule 4 breaks the floor of a model that is busy, or whose policy is Keep, and no class is
above Critical. Who waited long enough to climb a class gives nobody more to take than its own class does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmfleet_api.vocabulary import EngineState, IdlePolicy, StartType
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey, Runner
from warmfleet_operator.decide.predict_stages import known_bytes, start_seconds
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.sleep import DRAIN_SECONDS, SLEEP_SECONDS
from warmfleet_operator.decide.stakes import IDLE_SECONDS, RESIDENCY_SECONDS, Step
from warmfleet_operator.decide.standby import stands_by

WAKES = 3
STARTS = 5
BUDGET_SECONDS = 120.0
"""What a runner may spend on changes within `BUDGET_WINDOW_SECONDS`: a fifth."""
BUDGET_WINDOW_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that may give way, or the reason why it may not."""

    model: ModelKey
    member: Member
    step: Step
    seconds: float
    """In how long it may be told; 0 now."""
    gone_seconds: float
    """How long it then takes."""
    about: str = ""
    """What there is to say about the model: its class, or why it holds a floor."""

    @property
    def why(self) -> str:
        """Why it gives way, or holds the room, in words."""
        match self.step:
            case Step.ASLEEP | Step.PLACE:
                return f"{self.model} {self.about or 'is asleep'}"
            case Step.IDLE:
                return f"{self.model} is without requests"
            case Step.BUSY:
                return f"{self.model} is of the lower class {self.about}"
            case Step.FLOOR:
                return f"{self.model} ({self.about})"

    @property
    def order(self) -> tuple[object, ...]:
        """Sorts those that are asked first."""
        return self.seconds > 0, self.step, self.seconds, self.member.name


@dataclass(slots=True)
class Rules:
    """What one round knows about who may give way."""

    fleet: Fleet
    members: Mapping[ModelKey, Sequence[Member]]
    runners: Mapping[str, Runner]
    """By uid of the pod, as the fleet has them."""
    woken: set[tuple[ModelKey, str]] = field(default_factory=set)
    """Models and names of places that this round told to wake."""
    _idle: dict[ModelKey, float | None] = field(default_factory=dict)
    _seconds: dict[tuple[str, int, StartType], float] = field(default_factory=dict)

    def candidate(
        self, member: Member, winner_rank: int, change_seconds: float, *, names_floors: bool = False
    ) -> Candidate | None:
        """Return what an engine that is awake may be asked for; None where no rule lets it be asked.

        Args:
            member: The engine's place.
            winner_rank: The class of the start that wants its room, as its spec says.
            change_seconds: What that start takes.
            names_floors: Whether one that holds a floor is returned too, as `Step.FLOOR`.
        """
        model = self.fleet.models.get(member.model)
        if model is None or not member.is_alive or member.retires:
            return None
        rests = self._stands_by(model, member)
        if rests or model.status.dormant is not None:
            return Candidate(member.model, member, Step.ASLEEP, 0.0, SLEEP_SECONDS, "stands by there" if rests else "")
        if member.engine is not None and member.engine.state is EngineState.FAILED:
            return self._failed(model, member, winner_rank)
        if not member.is_ready:
            return None
        live = self.runners[member.pod.metadata.uid]
        found = self._idle_or_busy(model, member, winner_rank, live)
        if found is None:
            return self._floor(model, member) if names_floors else None
        wait = self.budget_seconds(live, change_seconds)
        return replace(found, seconds=wait) if wait > found.seconds else found

    def _stands_by(self, model: Model, member: Member) -> bool:
        return stands_by(member, model) and (member.model, member.name) not in self.woken

    def budget_seconds(self, runner: Runner, change_seconds: float) -> float:
        """Return in how long a runner may spend that long on a change."""
        switches = self.fleet.switches.get(runner.pod.metadata.name)
        if not switches:
            return 0.0
        past = sorted((ago for ago in switches if ago < BUDGET_WINDOW_SECONDS), reverse=True)
        allowed = max(1, int(BUDGET_SECONDS / max(change_seconds, 0.001)))
        return BUDGET_WINDOW_SECONDS - past[len(past) - allowed] if len(past) >= allowed else 0.0

    def idle_seconds(self, key: ModelKey) -> float | None:
        """Return for how long all Ready engines of a model have been without requests; None where one is not."""
        if key not in self._idle:
            self._idle[key] = self._idle_seconds(key)
        return self._idle[key]

    def _idle_or_busy(self, model: Model, member: Member, winner_rank: int, live: Runner) -> Candidate | None:
        key, priority, id_ = model.key, model.spec.priority, member.engine.id if member.engine is not None else ""
        is_lower = priority.rank > winner_rank
        is_idle = id_ in live.idle_seconds and model.spec.idle.policy is IdlePolicy.YIELD
        idle = self.idle_seconds(key) if is_idle else None
        if idle is None and not is_lower:
            return None
        start_type = StartType.WARM if member.pool else StartType.COLD
        residency = self._residency_seconds(model, start_type) - live.awake_seconds.get(id_, 0.0)
        found = None
        if idle is not None:
            wait = self._wanted_idle_seconds(model) - idle
            wait = max(0.0, wait if is_lower else max(wait, residency))
            found = Candidate(key, member, Step.IDLE, wait, SLEEP_SECONDS, priority)
        if is_lower and (found is None or found.seconds > 0):
            busy = Candidate(key, member, Step.BUSY, max(0.0, residency), DRAIN_SECONDS, priority)
            found = busy if found is None else min(found, busy, key=lambda each: each.order)
        return found

    def _floor(self, model: Model, member: Member) -> Candidate:
        holds = "idle.policy Keep" if model.spec.idle.policy is IdlePolicy.KEEP else "busy"
        return Candidate(model.key, member, Step.FLOOR, 0.0, 0.0, f"{model.spec.priority}, {holds}")

    def _failed(self, model: Model, member: Member, winner_rank: int) -> Candidate | None:
        """An engine that fails to start does nobody good: a higher class needs no rule to have its room."""
        if model.spec.priority.rank <= winner_rank:
            return None
        about = f"{model.spec.priority} and fails to start"
        return Candidate(model.key, member, Step.BUSY, 0.0, SLEEP_SECONDS, about)

    def _idle_seconds(self, key: ModelKey) -> float | None:
        demand = self.fleet.demand.get(key)
        if demand is not None and (demand.is_wanted or demand.queued):
            return None
        least: float | None = None
        for member in self.members.get(key, ()):
            if member.is_ready and member.engine is not None:
                idle = self.runners[member.pod.metadata.uid].idle_seconds.get(member.engine.id)
                if idle is None:
                    return None
                least = idle if least is None else min(least, idle)
        return least

    def _wanted_idle_seconds(self, model: Model) -> float:
        return max(IDLE_SECONDS, WAKES * self.start_seconds_of(model, StartType.HOT))

    def _residency_seconds(self, model: Model, start_type: StartType) -> float:
        return max(RESIDENCY_SECONDS, STARTS * self.start_seconds_of(model, start_type))

    def start_seconds_of(self, model: Model, start_type: StartType) -> float:
        """Return what such a start of the model takes on any node."""
        # Models of one hash may read weights of unlike size: one that is named by a tag, or in a folder.
        key = model.hash, known_bytes(model), start_type
        if key not in self._seconds:
            self._seconds[key] = start_seconds(self.fleet.estimates, model, start_type, None, self.fleet.caches)
        return self._seconds[key]
