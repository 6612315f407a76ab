"""Whatever the load: bounds hold, nothing unknown scales, and what is constant comes to rest."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaler import BORN, Moment, as_measured, play
from warmfleet_api.autoscaling import Autoscaling
from warmfleet_operator.decide.scaling import SAMPLE_SECONDS, History, Sample, desired

QUICK: dict[str, Any] = {
    "scaleDown": {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": 9, "periodSeconds": 15}],
    }
}
"""Nothing of the autoscaler's own calms the policy."""


@st.composite
def blocks(draw: st.DrawFn) -> Autoscaling:
    most = draw(st.integers(1, 9))
    fields: dict[str, Any] = {
        "minReplicas": draw(st.integers(0, most)),
        "maxReplicas": most,
        "behavior": QUICK if draw(st.booleans()) else {},
    }
    match draw(st.sampled_from(["Demand", "Utilization", "Rules"])):
        case "Demand":
            fields |= {"targetRequests": draw(st.integers(1, 30)), "windows": draw(windows())}
        case "Utilization":
            fields |= {"policy": "Utilization", "utilizationPercent": draw(st.integers(20, 100))}
        case "Rules":
            fields |= {"policy": "Rules", "marks": {"cooldownSeconds": draw(st.sampled_from([0, 60, 300]))}}
    return Autoscaling.model_validate(fields)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, int]:
    up = draw(st.integers(0, 60))
    return {"upSeconds": up, "downSeconds": draw(st.integers(up, 180))}


def samples() -> st.SearchStrategy[list[Sample]]:
    part = st.tuples(
        st.integers(1, 12), st.integers(0, 12), st.integers(0, 500), st.sampled_from(["", "", "", "not heard"])
    )

    def made(parts: list[tuple[int, int, int, str]]) -> list[Sample]:
        found = []
        for number, (replicas, ready, demand, missing) in enumerate(parts):
            seen = as_measured(
                BORN + timedelta(seconds=number * SAMPLE_SECONDS), replicas, min(ready, replicas), demand
            )
            known = {each: getattr(seen, each) for each in Sample.__slots__}
            found.append(Sample(**known | {"missing": missing}))
        return found

    return st.lists(part, min_size=1, max_size=60).map(made)


@given(blocks(), samples(), st.booleans())
def test_a_wish_is_within_the_bounds(block: Autoscaling, seen: list[Sample], has_gpus: bool) -> None:
    found = desired(History(block, seen, has_gpus=has_gpus), seen[-1].time).replicas
    assert found is None or block.floor <= found <= block.max_replicas


@given(blocks(), samples())
def test_what_is_not_known_now_lets_nobody_go(block: Autoscaling, seen: list[Sample]) -> None:
    last = seen[-1]
    if not last.missing or last.replicas > block.max_replicas:
        return
    found = desired(History(block, seen), last.time).replicas
    assert found is None or found >= last.replicas or block.policy == "Rules"


@settings(max_examples=20, deadline=None)
@given(blocks(), st.integers(0, 200), st.integers(1, 4))
def test_constant_demand_comes_to_rest_and_stays_there(block: Autoscaling, demand: int, replicas: int) -> None:
    moments = play(block, lambda _, __: demand, 4000, replicas=replicas)
    assert len({each.replicas for each in moments[-160:]}) == 1


@settings(max_examples=15, deadline=None)
@given(blocks(), st.lists(st.integers(0, 150), min_size=3, max_size=12))
def test_replicas_stay_within_the_bounds_once_they_are_there(block: Autoscaling, levels: list[int]) -> None:
    moments = play(block, lambda at, _: levels[int(at / 200) % len(levels)], 1200)
    within = [each for each in moments if each.seconds > 0]
    assert all(block.floor <= each.replicas <= block.max_replicas for each in within)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([60, 300]), st.lists(st.integers(0, 60), min_size=3, max_size=12))
def test_rules_keep_their_cooldown(cooldown: int, levels: list[int]) -> None:
    block = Autoscaling.model_validate({"policy": "Rules", "marks": {"cooldownSeconds": cooldown}, "behavior": QUICK})
    moments = play(block, lambda at, _: levels[int(at / 100) % len(levels)], 2400)
    changes = _changes(moments)
    assert all(after - before >= cooldown for before, after in pairwise(changes))


def test_a_metric_that_is_gone_for_a_while_leaves_replicas_as_they_are() -> None:
    def measure(time: datetime, replicas: int, ready: int, demand: int) -> Sample:
        seen = as_measured(time, replicas, ready, demand)
        is_gone = timedelta(seconds=600) <= time - BORN < timedelta(seconds=1200)
        known = {each: getattr(seen, each) for each in Sample.__slots__}
        return Sample(**known | {"missing": "not heard", "demand": 0}) if is_gone else seen

    block = Autoscaling(min_replicas=1, max_replicas=5)
    moments = play(block, lambda _, __: 70, 1800, measure=measure)
    assert {each.replicas for each in moments if each.seconds > 300} == {4}
    without_the_word = play(
        block,
        lambda at, _: 0 if 600 <= at < 1200 else 70,
        1800,
    )
    assert min(each.replicas for each in without_the_word if each.seconds > 300) < 4


def _changes(moments: list[Moment]) -> list[float]:
    return [
        after.seconds for before, after in pairwise(moments) if before.replicas != after.replicas and before.seconds > 0
    ]
