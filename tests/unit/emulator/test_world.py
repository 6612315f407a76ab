"""The emulated world: its figures where they are known by hand, and what holds in it whatever is decided."""

from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.vocabulary import StartType
from warmfleet_emulator.judging import Judge
from warmfleet_emulator.outcome import Outcome
from warmfleet_emulator.policies import POLICIES
from warmfleet_emulator.random_fleets import random_fleet
from warmfleet_emulator.scenario import Scenario
from warmfleet_emulator.simulating import Case, Result, cases_of, simulate
from warmfleet_emulator.world import World
from warmfleet_operator.decide.actions import CreateRunner, Decisions, PatchRunner
from warmfleet_operator.decide.assign import pooled_engine, whole
from warmfleet_operator.decide.fleet import Fleet, PoolKey
from warmfleet_operator.decide.stakes import RESIDENCY_SECONDS

OTHERS = [name for name in POLICIES if name != "ours"]
REFERENCE = {case.scenario.name: case for case in cases_of("reference")}


def fleet(*models: dict[str, Any], runners: int = 2, **fields: Any) -> Scenario:
    """One node whose link carries 1 GiB per second and whose pool's runners have a GPU each."""
    return Scenario.model_validate(
        {
            "nodes": [{"name": "n", "gpus": runners, "load": "1Gi", "remote": "1Gi", "disk": "2Gi"}],
            "pools": [{"name": "default", "spec": {"replicas": runners, "gpus": 1, "cpu": "1", "memory": "32Gi"}}],
            "models": list(models),
        }
        | fields
    )


def model(
    name: str = "m", *, count: int = 1, serve: float = 0.0, priority: str = "Normal", **start: Any
) -> dict[str, Any]:
    resources = {"gpus": 1, "gpuMemory": "40Gi", "memory": "16Gi"}
    return {
        "name": name,
        "count": count,
        "spec": {"resources": resources, "priority": priority},
        "start": {"bytes": "10Gi", "cpuSeconds": 5} | start,
        "serveSeconds": serve,
    }


def outcome_of(scenario: Scenario, policy: str = "ours") -> Outcome:
    return World(scenario, POLICIES[policy], policy).run()


def figures(name: str, policy: str) -> Result:
    (result,) = simulate(REFERENCE[name], [policy])
    return result


@pytest.mark.parametrize("policy", POLICIES)
def test_a_start_alone_takes_what_its_stages_take(policy: str) -> None:
    (start,) = outcome_of(fleet(model()), policy).starts
    # A round, delivery, 5 s of a core, 10 s of the link, warm-up, and until requests reach it.
    assert start.seconds == pytest.approx(0.1 + 0.2 + 5 + 10 + 0.1 + 0.3, abs=0.11)
    assert start.start_type is StartType.WARM


def test_weights_that_are_afar_come_first() -> None:
    (near,) = outcome_of(fleet(model())).starts
    (disk,) = outcome_of(fleet(model(tier="Disk"))).starts
    (afar,) = outcome_of(fleet(model(tier="Remote"))).starts
    assert disk.seconds - near.seconds == pytest.approx(5, abs=0.3)
    assert afar.seconds - near.seconds == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize(("number", "serial", "contended"), [(1, 30, 30), (2, 60, 50), (4, 120, 80), (8, 240, 150)])
def test_others_ways_to_decide_come_to_the_reference_table(number: int, serial: float, contended: float) -> None:
    name = f"{number} model{'s' if number > 1 else ''} of 30 s"
    assert figures(name, "arrival").judgement.makespan_seconds == pytest.approx(serial, rel=0.05)
    assert figures(name, "all-at-once").judgement.makespan_seconds == pytest.approx(contended, rel=0.06)


@pytest.mark.parametrize("policy", OTHERS)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_decided_no_memory_is_given_twice_and_every_start_ends(seed: int, policy: str) -> None:
    outcome = outcome_of(random_fleet(seed), policy)
    assert outcome.problems == []
    assert outcome.unfinished == {}


@pytest.mark.parametrize("policy", OTHERS)
@pytest.mark.parametrize("seed", range(4, 8))
def test_nobody_is_better_than_the_bounds(seed: int, policy: str) -> None:
    (result,) = simulate(Case(random_fleet(seed)), [policy])
    assert result.judgement.makespan_over_bound >= 1
    assert result.judgement.weighted_completion_over_bound >= 1


def test_a_gpu_that_is_given_twice_is_seen() -> None:
    """The control: a policy that puts two engines on one GPU."""

    def doubles(fleet_: Fleet, now: datetime) -> Decisions:
        if not fleet_.runners:
            return POLICIES["arrival"](fleet_, now)
        (runner,) = fleet_.runners
        assert runner.assignment is not None
        engines: list[EngineAssignment] = [pooled_engine(each, 0, 1, [0]) for each in fleet_.models.values()]
        if len(runner.assignment.engines) == len(engines):
            return Decisions()
        return Decisions((PatchRunner(runner.pod, whole(2, engines, ()), {}, "twice"),))

    outcome = World(fleet(model(count=2), runners=1), doubles, "doubles").run()
    assert any("two engines awake" in problem for problem in outcome.problems)


def test_a_node_that_is_given_twice_is_seen() -> None:
    """The control: a policy that creates more runners than fit."""

    def crowds(fleet_: Fleet, now: datetime) -> Decisions:
        pool = fleet_.pools[PoolKey("emulated", "default")]
        made = [
            CreateRunner(pool, slot, 1, "n", whole(1, (), ()), 60, "too many") for slot in range(len(fleet_.runners), 3)
        ]
        return Decisions(tuple(made))

    scenario = fleet(model(), runners=2, untilSeconds=5)
    assert any("lacks" in problem for problem in World(scenario, crowds, "crowds").run().problems)


def test_equal_scenarios_come_to_equal_outcomes() -> None:
    first, second = (outcome_of(random_fleet(3), "priority") for _ in range(2))
    assert first.starts == second.starts
    assert first.spans == second.spans


def test_requests_wait_until_their_model_is_ready_and_no_longer() -> None:
    asked = model() | {"requests": {"everySeconds": 30, "untilSeconds": 60, "serveSeconds": 1}}
    del asked["serveSeconds"]
    outcome = outcome_of(fleet(asked), "all-at-once")
    assert outcome.request_waits == [pytest.approx(15.7, abs=0.2), 0, 0]


def test_a_model_that_is_never_asked_for_is_not_started() -> None:
    asked = model("asked") | {"requests": {"everySeconds": 10, "fromSeconds": 20, "untilSeconds": 20}}
    other = model("other") | {"requests": {"everySeconds": 10, "fromSeconds": 9000, "untilSeconds": 9000}}
    outcome = outcome_of(fleet(asked, other), "all-at-once")
    assert [start.model for start in outcome.starts] == ["asked"]


def test_the_judge_knows_the_least_a_start_takes() -> None:
    world = World(fleet(model(count=2, serve=3), runners=1), POLICIES["arrival"], "arrival")
    judged = Judge(world.scenario, world.models).judge(world.run())
    # One GPU: the first start takes 15.6 s with all around it, keeps its place for five times that though its clients
    # leave sooner, and is gone half a second later; the second one has its runner's 15.1 s and is reached.
    assert judged.makespan_bound_seconds == pytest.approx(15.6 + 5 * 15.6 - 0.3 + 0.5 + 15.1 + 0.3)
    assert 1 <= judged.makespan_over_bound < 1.05


# The operator's scheduler ---------------------------------------------------------------------------------------------

BUDGET = 1.10
"""Of lower bounds."""


@pytest.mark.parametrize("name", REFERENCE)
def test_the_scheduler_comes_near_to_the_bounds_of_the_reference(name: str) -> None:
    judged = figures(name, "ours").judgement
    assert 1 <= judged.makespan_over_bound <= BUDGET
    assert 1 <= judged.weighted_completion_over_bound <= BUDGET


@pytest.mark.parametrize("seed", range(12))
def test_under_the_scheduler_no_memory_is_given_twice_and_every_start_ends(seed: int) -> None:
    (result,) = simulate(Case(random_fleet(seed)), ["ours"])
    assert result.outcome.problems == []
    assert result.outcome.unfinished == {}
    assert result.judgement.makespan_over_bound >= 1
    assert result.judgement.weighted_completion_over_bound >= 1


def test_two_models_in_turns_on_one_gpu_change_places_as_often_as_their_residency_allows() -> None:
    (case,) = cases_of("two-on-one-gpu")
    (result,) = simulate(case, ["ours"])
    outcome = result.outcome
    assert outcome.unfinished == {}
    ready = sorted(start.ready for start in outcome.starts)
    assert all(later - earlier >= RESIDENCY_SECONDS for earlier, later in pairwise(ready))
    assert len(outcome.switches) <= case.scenario.until_seconds / RESIDENCY_SECONDS
    # And no seldomer: nobody waits for much longer than the other's residency.
    assert max(outcome.request_waits) <= RESIDENCY_SECONDS + 30


def test_low_under_endless_high_starts_within_its_bound() -> None:
    """After three times its maxWaitSeconds it has the next room; a busy engine leaves that within its residency."""
    (case,) = cases_of("low-under-high")
    (result,) = simulate(case, ["ours"])
    (low,) = [start for start in result.outcome.starts if start.model == "low"]
    assert low.seconds <= 3 * 120 + 2 * RESIDENCY_SECONDS
