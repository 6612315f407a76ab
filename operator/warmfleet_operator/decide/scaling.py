"""How many replicas a model wants, from what was measured of it lately. Pure: `desired(history, now)`.

What is not known is never taken for zero: a lower bound of the demand may ask for more replicas, never for fewer, and a
window that is not yet full lets nobody go. So a new operator, which begins without samples, changes nothing before it
knows enough; what else it needs (replicas, the time of the last change) stands in spec and status.

The policies, for N replicas there are:

* *Demand* and *Utilization* divide the average of the requests (queued, running and held) by what one replica is to
  have: up as soon as the average of the short window needs more than N, down when those of both windows and a tenth on
  top fit into fewer. The tenth keeps demand that lies on the edge from going up and down.
* *Rules* takes one step at a time: up when any two marks are passed, down when all would be kept with one replica
  fewer too, and none within the cooldown of the last change.

While no replica is Ready the wish is N at most: a held crowd is to start one cold replica and not five, which would all
come too late.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from warmfleet_api.autoscaling import UTILIZATION_PERCENT, Autoscaling, ScalingMarks, ScalingWindows
from warmfleet_api.vocabulary import ScalingPolicy

SAMPLE_SECONDS = 5.0
"""How often a model is measured."""
STALE_SECONDS = 3 * SAMPLE_SECONDS
"""Nothing measured for longer: nothing is known."""
MARKS_SECONDS = 30
"""Over which time the policy Rules averages."""
_SLACK_TENTHS = 11
"""Fewer replicas have to hold eleven tenths of what there is."""
_TWO = 2


@dataclass(frozen=True, slots=True)
class Timetable:
    """What a schedule says at one moment."""

    replicas: int = 0
    """How many there are to be at least."""
    reason: str = ""
    """Which entry says so, and until when; empty: none does."""
    problem: str = ""
    """What is wrong with the first entry that can't be read; the others work."""


NO_TIMETABLE = Timetable()


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of a model at one moment."""

    time: datetime
    replicas: int
    """spec.replicas."""
    ready: int = 0
    """Of those, the ones that serve."""
    demand: int = 0
    """Requests queued and running in its engines and held at routers, as far as known."""
    missing: str = ""
    """What of it is not known, in words; empty: all is."""
    capacity: int | None = None
    """Requests that one engine takes at once, as measured; None: not known."""
    cpu_percent: int | None = None
    """CPU of its engines, of what they request; the marks are averages of the replicas that serve."""
    gpu_percent: int | None = None
    latency_milliseconds: int | None = None
    """To the first token. Without requests there is none, and it is 0."""
    queue_requests: int | None = None
    """Requests that wait, for each replica."""


@dataclass(frozen=True, slots=True)
class History:
    """All that a wish depends on, apart from the time."""

    spec: Autoscaling
    samples: Sequence[Sample]
    """Oldest first, `SAMPLE_SECONDS` apart."""
    scaled_time: datetime | None = None
    """When replicas last changed; None: never."""
    has_gpus: bool = False
    timetable: Timetable = NO_TIMETABLE
    """What the schedule says now."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How many replicas are wanted; None: what the policy goes by is not known."""

    replicas: int | None
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The reasons as one sentence."""
        return "; ".join(self.reasons)


@dataclass(frozen=True, slots=True)
class ScalingView:
    """What is known of a model's autoscaling."""

    wish: Wish | None = None
    """None: nothing was measured yet by this operator."""
    timetable: Timetable = NO_TIMETABLE
    foreign: str = ""
    """Another HorizontalPodAutoscaler of the same target; empty: there is none."""
    blind_since: str | None = None
    """Since when the model's own says that it gets no metric; None: it gets it."""
    trouble: str = ""
    """Why it gets none, in words."""


def desired(history: History, now: datetime) -> Wish:
    """Return how many replicas are wanted now, and why."""
    last = history.samples[-1] if history.samples else None
    if last is None or (now - last.time).total_seconds() > STALE_SECONDS:
        return Wish(None, ("nothing was measured lately",))
    if last.replicas == 0:
        return Wish(0, ("replicas is 0: stopped",))
    spec, planned = history.spec, history.timetable
    wish = _POLICIES[spec.policy](history, now)
    if wish.replicas is not None:
        wish = _bounded(wish, wish.replicas, last, spec)
    if planned.replicas > (wish.replicas or last.replicas):
        return Wish(min(planned.replicas, spec.max_replicas), (planned.reason,))
    return wish


def exported(history: History, wish: Wish, now: datetime) -> int | None:
    """Return the demand that an autoscaler is to see; None: not known, and it does nothing.

    It divides this by `Autoscaling.target`, so it comes to the wish and only limits how fast that is reached. With
    policy External it sees what there is, capped while nothing is Ready.
    """
    if history.spec.policy is not ScalingPolicy.EXTERNAL:
        return None if wish.replicas is None else wish.replicas * history.spec.target
    last = history.samples[-1] if history.samples else None
    if last is None or last.missing or (now - last.time).total_seconds() > STALE_SECONDS:
        return None
    least = history.timetable.replicas * history.spec.target
    most = last.demand if last.ready else min(last.demand, history.spec.target * max(1, last.replicas))
    return max(least, most)


def _bounded(wish: Wish, replicas: int, last: Sample, spec: Autoscaling) -> Wish:
    """Keep a wish within the bounds of the spec, and to what there is while nothing is Ready."""
    if not last.ready and replicas > last.replicas:
        why = f"{_count(last.replicas)} until one is Ready, then {replicas}"
        wish, replicas = Wish(last.replicas, (*wish.reasons, why)), last.replicas
    if replicas > spec.max_replicas:
        return Wish(spec.max_replicas, (*wish.reasons, f"maxReplicas is {spec.max_replicas}"))
    if replicas < spec.floor:
        return Wish(spec.floor, (*wish.reasons, f"at least {spec.floor}"))
    return wish


def _by_demand(history: History, now: datetime) -> Wish:
    target = history.spec.target
    return _by_load(history, now, target, 1, f"{target} for each replica")


def _by_utilization(history: History, now: datetime) -> Wish:
    windows = history.spec.windows or ScalingWindows()
    known = [each.capacity for each in _since(history.samples, now, windows.down_seconds) if each.capacity]
    if not known:
        return Wish(None, ("no engine has said yet how many requests it takes at once",))
    percent = history.spec.utilization_percent or UTILIZATION_PERCENT
    capacity = known[-1]
    return _by_load(history, now, capacity * percent, 100, f"{percent} % of {capacity} for each replica")


def _by_load(history: History, now: datetime, share: int, parts: int, told: str) -> Wish:
    """Return the wish of a policy that divides requests by `share / parts` for each replica."""
    samples, last = history.samples, history.samples[-1]
    windows = history.spec.windows or ScalingWindows()
    lately = _since(samples, now, windows.up_seconds) or samples[-1:]
    needed = _needed(lately, share, parts)
    said = f"{_mean(lately)} requests on average of {windows.up_seconds} s, {told}"
    if needed > last.replicas and _covers(samples, now, windows.up_seconds):
        return Wish(needed, (said,))
    if last.missing:
        return Wish(None, (last.missing,))
    long = _since(samples, now, windows.down_seconds) or samples[-1:]
    fewer = max(_needed(each, share * 10, parts * _SLACK_TENTHS) for each in (lately, long))
    is_sure = _covers(samples, now, windows.down_seconds) and not any(each.missing for each in long)
    if fewer < last.replicas and is_sure:
        return Wish(max(1, fewer), (f"{_mean(long)} requests on average of {windows.down_seconds} s, {told}",))
    return Wish(last.replicas, (said,))


def _by_marks(history: History, now: datetime) -> Wish:
    last, marks = history.samples[-1], history.spec.marks or ScalingMarks()
    lately = _since(history.samples, now, MARKS_SECONDS) or history.samples[-1:]
    found = _measured(lately, marks, has_gpus=history.has_gpus)
    known = {name: values for name, values in found.items() if values is not None}
    if not known:
        return Wish(None, ("none of CPU, GPU, latency and queue is known",))
    over = [f"{name} {value} over {mark}" for name, (value, mark) in known.items() if value > mark]
    said = ", ".join(f"{name} {value} of {mark}" for name, (value, mark) in known.items())
    left = _cooldown_left(history, marks, now)
    wanted = last.replicas
    if len(over) >= _TWO and _covers(history.samples, now, MARKS_SECONDS):
        wanted, said = last.replicas + 1, " and ".join(over)
    elif len(known) < len(found) or last.missing:
        unknown = ", ".join(name for name in found if name not in known) or last.missing
        return Wish(None, (f"not known: {unknown}",)) if not over else Wish(wanted, (said,))
    elif not over and last.replicas > 1 and _covers(history.samples, now, MARKS_SECONDS):
        # What one fewer would have; how latency would change nobody knows.
        most = {name: mark if name == _LATENCY else mark * (last.replicas - 1) for name, (_, mark) in known.items()}
        would = {name: value if name == _LATENCY else value * last.replicas for name, (value, _) in known.items()}
        if all(would[name] < most[name] for name in known):
            wanted = last.replicas - 1
    if wanted != last.replicas and left > 0:
        return Wish(last.replicas, (said, f"cooldown of {marks.cooldown_seconds} s since the last change"))
    return Wish(wanted, (said,))


_LATENCY = "latency ms"


def _measured(
    samples: Sequence[Sample], marks: ScalingMarks, *, has_gpus: bool
) -> Mapping[str, tuple[int, int] | None]:
    """Return for each thing that has a mark its average and the mark; None where it is not known."""
    found = {
        "CPU %": (_average(each.cpu_percent for each in samples), marks.cpu_percent),
        _LATENCY: (_average(each.latency_milliseconds for each in samples), marks.latency_milliseconds),
        "queue": (_average(each.queue_requests for each in samples), marks.queue_requests),
    }
    if has_gpus:
        found["GPU %"] = _average(each.gpu_percent for each in samples), marks.gpu_percent
    return {name: None if value is None else (value, mark) for name, (value, mark) in found.items()}


def _cooldown_left(history: History, marks: ScalingMarks, now: datetime) -> float:
    """Return for how many seconds there is to be no other change, as status and samples know of the last one."""
    changes = [after.time for before, after in pairwise(history.samples) if before.replicas != after.replicas]
    times = [each for each in (history.scaled_time, *changes) if each is not None]
    return marks.cooldown_seconds - (now - max(times)).total_seconds() if times else 0.0


def _by_nobody(history: History, now: datetime) -> Wish:
    replicas = history.samples[-1].replicas
    return Wish(replicas, ("policy External: somebody else writes spec.replicas",))


_POLICIES: Mapping[ScalingPolicy, Callable[[History, datetime], Wish]] = {
    ScalingPolicy.DEMAND: _by_demand,
    ScalingPolicy.UTILIZATION: _by_utilization,
    ScalingPolicy.RULES: _by_marks,
    ScalingPolicy.EXTERNAL: _by_nobody,
}


def _since(samples: Sequence[Sample], now: datetime, seconds: int) -> Sequence[Sample]:
    start = now - timedelta(seconds=seconds)
    return [each for each in samples if each.time > start]


def _covers(samples: Sequence[Sample], now: datetime, seconds: int) -> bool:
    """Whether the samples go back that far."""
    return (now - samples[0].time).total_seconds() >= seconds - SAMPLE_SECONDS


def _needed(samples: Sequence[Sample], share: int, parts: int) -> int:
    """Return how many replicas of `share / parts` requests the average needs, in whole numbers."""
    return -(-sum(each.demand for each in samples) * parts // (len(samples) * share))


def _mean(samples: Sequence[Sample]) -> str:
    return f"{sum(each.demand for each in samples) / len(samples):.1f}"


def _average(values: Iterable[int | None]) -> int | None:
    known = [each for each in values if each is not None]
    return round(sum(known) / len(known)) if known else None


def _count(replicas: int) -> str:
    return f"{replicas} replica" if replicas == 1 else f"{replicas} replicas"
