"""How often objects are written while forecasts move all the time."""

import random
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from support import make
from warmfleet_api.status import PendingStart
from warmfleet_api.vocabulary import Reason, Stage, StartType
from warmfleet_operator.decide.actions import Forecast, Waiting
from warmfleet_operator.decide.model import ModelView, decide_model
from warmfleet_operator.decide.predict_writes import WRITE_SECONDS, moved_enough, steady
from warmfleet_operator.decide.times import format_time, parse_time


def pending(
    ready: float | None = 100.0, *, position: int = 9, blocker: str = "needs 1 GPU", stage: Stage = Stage.QUEUED
) -> PendingStart:
    return PendingStart(
        position=position,
        of=20,
        start_type=StartType.WARM,
        stage=stage,
        ready_time=format_time(make.NOW + timedelta(seconds=ready)) if ready is not None else None,
        blocker=blocker,
        summary=f"{position}/20 {blocker}",
    )


def eta(seconds: float | None) -> datetime | None:
    return None if seconds is None else make.NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("written", "new", "moved"),
    [
        (None, None, False),
        (None, 10, True),
        (10, None, True),
        (10, 10, False),
        (10, 14, False),
        (10, 16, True),
        (100, 120, False),
        (100, 134, True),
        (1000, 1200, False),
        (3, 9, True),
        (20, -3, True),
    ],
)
def test_an_eta_moved_enough_by_more_than_5_s_and_a_quarter(
    written: float | None, new: float | None, *, moved: bool
) -> None:
    assert moved_enough(eta(written), eta(new), make.NOW) is moved


@pytest.mark.parametrize(
    ("new", "age", "is_written"),
    [
        (None, 0.0, True),
        (pending(stage=Stage.WEIGHTS_LOADED), 0.0, True),
        (pending(300), 9.0, False),
        (pending(300), 10.0, True),
        (pending(300), None, True),
        (pending(101), 60.0, False),
        (pending(blocker="needs 2 GPU"), 60.0, False),
        (pending(blocker="n2 is held for another"), 60.0, True),
        (pending(blocker="n2 is held for another"), 1.0, False),
        (pending(position=8), 60.0, False),
        (pending(position=6), 60.0, True),
        (pending(position=4), 60.0, True),
    ],
)
def test_what_is_said_of_a_start_is_written_when_it_is_news(
    new: PendingStart | None, age: float | None, *, is_written: bool
) -> None:
    assert steady(pending(), new, age, make.NOW) == (new if is_written else pending())


def test_a_start_that_begins_to_wait_is_written_at_once() -> None:
    assert steady(None, pending(), 0.0, make.NOW) == pending()


@dataclass
class Object:
    """A ModelDeployment in a queue, as its status goes."""

    position: int
    written: PendingStart | None = None
    written_at: datetime | None = None


def run(count: int, minutes: int, jitter: float, *, seed: int = 1) -> dict[int, list[tuple[datetime, PendingStart]]]:
    """Let the status of `count` waiting starts be decided every second; each second brings another forecast."""
    chance = random.Random(seed)
    objects = [Object(number + 1) for number in range(count)]
    writes: defaultdict[int, list[tuple[datetime, PendingStart]]] = defaultdict(list)
    for second in range(minutes * 60):
        now = make.NOW + timedelta(seconds=second)
        for number, each in enumerate(objects):
            ready = 1000 + 20 * each.position - second
            expected = now + timedelta(seconds=max(1.0, ready * chance.uniform(1 - jitter, 1 + jitter)))
            said = f"needs 1 GPU, {chance.randrange(9)} of them busy on n{chance.randrange(9)}"
            new = pending(position=each.position, blocker=said).model_copy(update={"ready_time": format_time(expected)})
            age = (now - each.written_at).total_seconds() if each.written_at is not None else None
            kept = steady(each.written, new, age, now)
            if kept is not None and kept is not each.written:
                each.written, each.written_at = kept, now
                writes[number].append((now, kept))
    return writes


def test_a_thousand_waiting_starts_with_jittering_forecasts_are_written_once() -> None:
    writes = run(1000, minutes=1, jitter=0.08)
    assert {len(each) for each in writes.values()} == {1}
    assert len(writes) == 1000


def test_each_of_a_thousand_is_written_at_most_every_ten_seconds_and_only_for_news() -> None:
    writes = run(1000, minutes=1, jitter=0.6)
    assert len(writes) == 1000
    gaps = []
    for each in writes.values():
        for (before, former), (at, new) in pairwise(each):
            gaps.append((at - before).total_seconds())
            assert moved_enough(parse_time(former.ready_time), parse_time(new.ready_time), at)
    assert min(gaps) >= WRITE_SECONDS
    assert len(gaps) > 1000, "the control: these forecasts do move enough"


def test_the_whole_status_of_a_waiting_model_is_written_at_most_every_ten_seconds() -> None:
    """Conditions and all, as the operator decides it every second, whatever the scheduler says each time."""
    chance = random.Random(3)
    writes: defaultdict[str, list[float]] = defaultdict(list)
    models = {name: make.model(name, coldStart={"deadlineSeconds": 600}) for name in (f"m{i}" for i in range(40))}
    told: dict[str, float] = {}
    for second in range(60):
        now = make.NOW + timedelta(seconds=second)
        for position, (name, model) in enumerate(models.items(), start=10):
            reason = chance.choice([Reason.NO_FREE_MEMORY, Reason.WAITING_FOR_TURN])
            blocker = f"needs 1 GPU, {chance.randrange(9)} of them busy on n{chance.randrange(9)}"
            waiting = Waiting(model.key, position, 50, reason, blocker, start_type=chance.choice(list(StartType)))
            ready = chance.uniform(100, 1500)
            forecast = Forecast(ready, StartType.WARM, "", misses_deadline_seconds=ready - 600 if ready > 600 else None)
            view = ModelView(model, (), {}, waiting, forecast=forecast, told_seconds=second - told.get(name, -99.0))
            status = decide_model(view, now).status
            if status != model.status:
                models[name] = replace(model, status=status)
                writes[name].append(second)
                if status.pending_start != model.status.pending_start:
                    told[name] = second
    assert len(writes) == len(models)
    gaps = [after - before for each in writes.values() for before, after in pairwise(each)]
    assert min(gaps) >= WRITE_SECONDS
    assert len(gaps) > len(models), "the control: what is said does change"
