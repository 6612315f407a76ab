"""A round that takes over what the one before found decides as one that finds everything itself."""

import random
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import large_fleet, make
from warmfleet_api.vocabulary import EngineState, Stage, StartType
from warmfleet_operator.decide import remembered
from warmfleet_operator.decide.actions import Decisions
from warmfleet_operator.decide.carried import carry
from warmfleet_operator.decide.estimates import ANY_NODE, Estimates, Kind, Measured
from warmfleet_operator.decide.fleet import Demand, Fleet, ModelKey, Runner
from warmfleet_operator.decide.schedule import schedule

CHANGES = (
    "nothing",
    "a runner is gone",
    "a runner falls silent",
    "a runner ends",
    "an engine fails",
    "other engines are idle",
    "a model falls asleep",
    "a node has no weight store",
    "an assignment can't be read",
    "a node is gone",
    "a node is not Ready",
    "a model is gone",
    "a model is another",
    "a pool is gone",
    "a pool shrinks",
    "a stranger comes",
    "a stranger ends",
    "runners come in another order",
    "other limits",
    "other deadlines",
    "a start was measured",
)


@pytest.fixture(scope="module")
def small() -> Fleet:
    """A fleet of eight nodes, full but for a few places, with starts that wait."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"NODES": 8, "WAITING": 12, "NODES_OF_A_POOL": 2, "BASES": 6, "KEPT_ON_A_NODE": 2}.items():
            patch.setattr(large_fleet, name, value)
        patch.setattr(large_fleet, "FREE_PLACES", 4)
        large = large_fleet.scaled(1)
        return large_fleet.varied(large, 1, random.Random(1))


@given(rounds=st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 1_000_000)), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_after_any_changes_a_round_decides_as_a_first_one(small: Fleet, rounds: list[tuple[str, int]]) -> None:
    fleets = [small]
    for change, seed in rounds:
        fleets.append(changed(fleets[-1], change, random.Random(seed)))
    times = [make.NOW + timedelta(seconds=number) for number in range(len(fleets))]
    remembered.forget()
    following = [told(schedule(fleet, now)) for fleet, now in zip(fleets, times, strict=True)]
    for fleet, now, said in zip(fleets, times, following, strict=True):
        remembered.forget()
        assert told(schedule(fleet, now)) == said


def test_newcomers_are_the_same_until_their_model_changes(small: Fleet) -> None:
    remembered.forget()
    schedule(small, make.NOW)
    before = dict(carry(small, make.NOW).models.newcomers)
    assert before
    gone, other = sorted(before)[:2]
    models = {key: model for key, model in small.models.items() if key != gone}
    models[other] = replace(models[other], hash="other")
    schedule(replace(small, models=models), make.NOW)
    after = carry(replace(small, models=models), make.NOW).models.newcomers
    assert gone not in after
    assert after[other] is not before[other]
    assert {key for key in after if after[key] is before[key]} == before.keys() - {gone, other}


def test_fleets_in_turns_are_told_apart(small: Fleet) -> None:
    other = changed(small, "a node is gone", random.Random(3))
    remembered.forget()
    alone = told(schedule(other, make.NOW))
    schedule(small, make.NOW)
    assert told(schedule(other, make.NOW)) == alone


def test_a_round_that_fails_leaves_nothing_half_done(small: Fleet) -> None:
    remembered.forget()
    alone = told(schedule(small, make.NOW))
    broken = replace(small, models={**small.models, ModelKey("default", "broken"): None})  # type: ignore[dict-item]
    with pytest.raises(AttributeError):
        schedule(broken, make.NOW)
    assert told(schedule(small, make.NOW)) == alone


def test_nothing_is_kept_of_what_is_gone(small: Fleet) -> None:
    schedule(small, make.NOW)
    empty = carry(replace(small, runners=(), nodes={}, models={}, pools={}, strangers=()), make.NOW)
    assert (empty.records, empty.sights, empty.members, empty.own, empty.weights) == ({}, {}, {}, {}, {})
    assert (empty.models.unsettled, empty.models.newcomers) == ({}, {})
    assert (empty.models.with_standby, empty.homeless) == ({}, set())
    assert (empty.base.free, empty.base.capacity) == ({}, {})


def test_what_did_not_change_is_not_looked_at(small: Fleet) -> None:
    remembered.forget()
    schedule(small, make.NOW)
    schedule(small, make.NOW)
    calm = carry(small, make.NOW)
    assert len(calm.records) == len(small.runners) > len(calm.restless) == 0


def told(decisions: Decisions) -> str:
    """All of it in words, order included."""
    return repr((decisions, list(decisions.waiting), list(decisions.forecasts)))


def changed(fleet: Fleet, change: str, chance: random.Random) -> Fleet:  # noqa: PLR0912 - one per change
    """Return the fleet after a change."""
    runners, models, nodes, pools = list(fleet.runners), dict(fleet.models), dict(fleet.nodes), dict(fleet.pools)
    index = chance.randrange(len(runners)) if runners else 0
    runner = runners[index] if runners else None
    match change:
        case "a runner is gone" if runner is not None:
            del runners[index]
        case "a runner falls silent" if runner is not None:
            runners[index] = replace(runner, silent_seconds=chance.choice([None, 4.9, 5.0, 60.0]))
        case "a runner ends" if runner is not None:
            runners[index] = make.terminating(runner)
        case "an engine fails" if runner is not None:
            runners[index] = _with_state(runner, chance.choice(list(EngineState)))
        case "other engines are idle" if runner is not None and runner.status is not None:
            ids = [each.id for each in runner.status.engines]
            awake = {id_: chance.choice([5.0, 900.0]) for id_ in ids}
            idle = {id_: chance.choice([5.0, 600.0]) for id_ in ids if chance.random() < 0.5}
            runners[index] = replace(runner, awake_seconds=awake, idle_seconds=idle)
        case "a model falls asleep" if models:
            key = chance.choice(sorted(models))
            dormant = {"dormant": {"time": make.ago(900), "reason": "no request for 300 s"}}
            status = type(models[key].status).model_validate(dormant)
            models[key] = replace(models[key], status=status)
        case "a node has no weight store" if fleet.caches:
            gone = chance.choice(sorted(fleet.caches))
            return replace(fleet, caches={name: each for name, each in fleet.caches.items() if name != gone})
        case "an assignment can't be read" if runner is not None:
            runners[index] = replace(runner, assignment=None)
        case "a node is gone" if nodes:
            del nodes[chance.choice(sorted(nodes))]
        case "a node is not Ready" if nodes:
            name = chance.choice(sorted(nodes))
            nodes[name] = make.node(name, gpus=8, cpu="128", memory="2048Gi", ready=chance.random() < 0.5)
        case "a model is gone" if models:
            del models[chance.choice(sorted(models))]
        case "a model is another" if models:
            key = chance.choice(sorted(models))
            models[key] = replace(models[key], hash=chance.choice(["other", models[key].hash]))
        case "a pool is gone" if pools:
            del pools[chance.choice(sorted(pools))]
        case "a pool shrinks" if pools:
            pool_key = chance.choice(sorted(pools))
            pool = pools[pool_key]
            spec = pool.spec.model_copy(update={"replicas": max(0, pool.spec.replicas - 1)})
            pools[pool_key] = replace(pool, spec=spec)
        case "a stranger comes" if nodes:
            pod = make.stranger(f"stranger-{chance.random()}", chance.choice(sorted(nodes)), gpus=1)
            return replace(fleet, strangers=(*fleet.strangers, pod))
        case "a stranger ends" if fleet.strangers:
            return replace(fleet, strangers=fleet.strangers[1:])
        case "runners come in another order":
            chance.shuffle(runners)
        case "other limits" | "other deadlines" | "a start was measured":
            return _with_other_facts(fleet, change, chance)
    return replace(fleet, runners=tuple(runners), models=models, nodes=nodes, pools=pools)


def _with_other_facts(fleet: Fleet, change: str, chance: random.Random) -> Fleet:
    match change:
        case "other deadlines":
            deadlines = {key: make.NOW + timedelta(seconds=chance.randrange(900)) for key in fleet.models}
            return replace(fleet, demand={key: Demand(held=1, deadline=each) for key, each in deadlines.items()})
        case "a start was measured" if fleet.models:
            subject = fleet.models[chance.choice(sorted(fleet.models))].hash
            seconds = {Stage.WEIGHTS_LOADED: Measured(chance.uniform(1, 100), 1)}
            return replace(
                fleet, estimates=Estimates(models={Kind(subject, ANY_NODE, each): seconds for each in StartType})
            )
    return replace(fleet, limits=replace(fleet.limits, trusted_keys=chance.choice([None, ("key",)])))


def _with_state(runner: Runner, state: EngineState) -> Runner:
    if runner.status is None or not runner.status.engines:
        return runner
    first, *others = runner.status.engines
    engines = (msgspec.structs.replace(first, state=state), *others)
    return replace(runner, status=msgspec.structs.replace(runner.status, engines=engines))
