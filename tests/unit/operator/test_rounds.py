"""The last round of the fleet pass: whose status may change by it, and what is told of it once."""

import asyncio
from datetime import timedelta

from support import make
from warmfleet_api.vocabulary import Reason, StartType
from warmfleet_operator.decide.actions import Decisions, Forecast, Preemption, Waiting
from warmfleet_operator.decide.fleet import ModelKey
from warmfleet_operator.rounds import Rounds

A, B = ModelKey("n", "a"), ModelKey("n", "b")


def waiting(position: int) -> Decisions:
    return Decisions(waiting={A: Waiting(A, position, 3, Reason.WAITING_FOR_TURN, "others come first")})


def foretold(seconds: float | None) -> Decisions:
    return Decisions(forecasts={A: Forecast(seconds, StartType.WARM, "")})


async def test_who_enters_leaves_or_moves_in_the_queue_is_looked_at() -> None:
    rounds = Rounds()
    assert rounds.age_seconds is None
    assert rounds.ended(waiting(2), make.NOW) == {A}
    assert rounds.ended(waiting(2), make.NOW) == set()
    assert rounds.ended(waiting(1), make.NOW) == {A}
    assert rounds.ended(Decisions(), make.NOW) == {A}
    assert rounds.age_seconds is not None


async def test_a_forecast_that_only_comes_nearer_wakes_nobody() -> None:
    rounds = Rounds()
    assert rounds.ended(foretold(100), make.NOW) == {A}
    assert rounds.ended(foretold(60), make.NOW + timedelta(seconds=40)) == set()
    assert rounds.ended(foretold(100), make.NOW + timedelta(seconds=41)) == {A}
    assert rounds.ended(foretold(None), make.NOW + timedelta(seconds=42)) == {A}


async def test_a_preemption_is_told_until_a_status_was_written() -> None:
    rounds = Rounds()
    loss = Preemption(A, B, "r", "class High comes first")
    assert rounds.ended(Decisions(preemptions=(loss,)), make.NOW) == {A}
    rounds.ended(Decisions(), make.NOW)
    assert rounds.preemption_of(A) == loss
    rounds.wrote(A, None, told_anew=False)
    assert rounds.preemption_of(A) == loss, "that status was decided before"
    rounds.wrote(A, loss, told_anew=False)
    assert rounds.preemption_of(A) is None and rounds.told_seconds(A) is None
    rounds.wrote(A, None, told_anew=True)
    assert rounds.told_seconds(A) is not None


async def test_who_shall_sleep_is_looked_at_as_long_as_it_is_asked_for() -> None:
    rounds, asked = Rounds(), Decisions(yields={B: "for n/a"})
    assert rounds.ended(asked, make.NOW) == {B}
    assert rounds.ended(asked, make.NOW) == {B}


async def test_whoever_waits_for_a_round_hears_of_it_and_else_goes_on_in_time() -> None:
    rounds = Rounds()
    waits = asyncio.create_task(rounds.next(5))
    await asyncio.sleep(0)
    rounds.ended(Decisions(), make.NOW)
    await asyncio.wait_for(waits, 1)
    await asyncio.wait_for(rounds.next(0.01), 1)
