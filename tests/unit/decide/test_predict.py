"""When every start will be done: the plan of a round, run forward."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from math import inf
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import make, make_weights
from warmfleet_api.status import PendingStart
from warmfleet_api.vocabulary import EngineState, Reason, Stage, StartType, Tier, WeightsProblem
from warmfleet_operator.decide.actions import Forecast, Waiting
from warmfleet_operator.decide.estimates import Estimates
from warmfleet_operator.decide.fleet import Demand, Fleet, Model, ModelKey, OwnerKey, Runner
from warmfleet_operator.decide.predict import Placed, forecast
from warmfleet_operator.decide.predict_stages import phases, start_seconds
from warmfleet_operator.decide.runners import Member, members_of, node_of

POOL = make.pool("pool", replicas=2, cpu="1", memory="64Gi")
N1, N2 = make.node("n1"), make.node("n2")
NOTHING = Estimates()
LOAD, INIT, ANSWER = 10.0, 2.0, 1.0
BUSY = LOAD + INIT + ANSWER + 0.1
"""For how long a runner has no turn for another."""


def model(name: str, *, pools: Any = ("pool",), **fields: Any) -> Model:
    simulated = {"loadMilliseconds": LOAD * 1000, "initializeMilliseconds": INIT * 1000}
    simulated |= {"firstTokenMilliseconds": ANSWER * 1000, "wakeMilliseconds": 3000}
    return make.model(name, pools=list(pools), engine={"type": "Simulated", "simulated": simulated}, **fields)


def own(name: str, **fields: Any) -> Model:
    return model(name, pools=(), **fields)


def hosts(*models: Model, slot: int = 0, on: str = "n1", state: EngineState = EngineState.STARTING) -> Runner:
    """A runner of the pool whose engines are in this state, none of them with its turn."""
    states = {f"{each.key.name}-0-1": state for each in models}
    return make.hosting(make.pool_runner(POOL, on, slot=slot), *models, states=states)


def at_stage(runner: Runner, name: str, stage: Stage, *, seen: float = 0.0, **fields: Any) -> Runner:
    """The same runner telling that one of its engines has come to a stage, seen for so many seconds."""
    assert runner.status is not None
    id_ = f"{name}-0-1"
    engines = tuple(
        msgspec.structs.replace(each, stage=stage, **fields) if each.id == id_ else each
        for each in runner.status.engines
    )
    status = msgspec.structs.replace(runner.status, engines=engines)
    return replace(runner, status=status, stage_seconds={id_: seen})


def members(fleet: Fleet) -> Mapping[ModelKey, list[Member]]:
    found: defaultdict[ModelKey, list[Member]] = defaultdict(list)
    for runner in fleet.runners:
        for member in members_of(runner, fleet.nodes):
            found[member.model].append(member)
    return found


def foretell(fleet: Fleet, *waiting: Waiting, placed: tuple[Placed, ...] = ()) -> Mapping[ModelKey, Forecast]:
    plan: dict[OwnerKey, Waiting] = {each.owner: each for each in waiting}
    homes = {each.pod.metadata.name: node_of(each.pod) for each in fleet.runners}
    return forecast(fleet, members(fleet), plan, placed, homes, make.NOW)


def seconds(fleet: Fleet, *waiting: Waiting, placed: tuple[Placed, ...] = ()) -> dict[str, float]:
    """In how many seconds each is done; infinite: nobody can tell."""
    told = foretell(fleet, *waiting, placed=placed)
    return {key.name: inf if each.ready_seconds is None else each.ready_seconds for key, each in told.items()}


def waits(
    of: Model,
    place: str,
    available: float | None,
    *,
    kind: StartType | None = StartType.WARM,
    reason: Reason = Reason.NO_FREE_MEMORY,
) -> Waiting:
    return Waiting(
        of.key, 1, 1, reason, "needs 1 GPU, none is free", start_type=kind, place=place, available_seconds=available
    )


A, B, C = model("a"), model("b"), model("c")


def test_a_fleet_at_rest_has_no_forecasts() -> None:
    assert foretell(make.fleet(N1, POOL, A, hosts(A, state=EngineState.READY))) == {}


def test_engines_of_one_runner_start_one_after_another() -> None:
    found = seconds(make.fleet(N1, POOL, A, B, C, hosts(A, B, C)))
    assert found["a"] == pytest.approx(start_seconds(NOTHING, A, StartType.WARM, N1, {}))
    assert found["b"] == pytest.approx(found["a"] + BUSY)
    assert found["c"] == pytest.approx(found["a"] + 2 * BUSY)


def test_the_one_that_has_its_turn_is_first_and_a_higher_class_before_others() -> None:
    high = model("z", priority="High")
    found = seconds(make.fleet(N1, POOL, A, B, high, at_stage(hosts(A, B, high), "b", Stage.ENGINE_FORKED)))
    assert found["b"] < found["z"] < found["a"]


def test_what_is_behind_a_start_is_no_part_of_its_forecast() -> None:
    loading = seconds(make.fleet(N1, POOL, A, at_stage(hosts(A), "a", Stage.WEIGHTS_LOADED, seen=4.0)))
    assert loading["a"] == pytest.approx(LOAD - 4 + INIT + ANSWER + 0.3)
    answering = seconds(make.fleet(N1, POOL, A, at_stage(hosts(A), "a", Stage.WARMED_UP)))
    assert answering["a"] == pytest.approx(ANSWER + 0.3)


def test_a_stage_that_takes_longer_than_expected_is_expected_to_take_longer_still() -> None:
    late = [
        seconds(make.fleet(N1, POOL, A, at_stage(hosts(A), "a", Stage.WEIGHTS_LOADED, seen=each)))["a"]
        for each in (9.0, 20.0, 100.0)
    ]
    assert late == sorted(late)
    assert late[0] > INIT + ANSWER


def test_a_wake_waits_for_no_start() -> None:
    awake = hosts(A, B, state=EngineState.STARTING)
    woken = at_stage(awake, "b", Stage.WEIGHTS_LOADED, start_type=StartType.HOT)
    found = foretell(make.fleet(N1, POOL, A, B, woken))
    assert found[B.key].start_type is StartType.HOT
    assert found[B.key].ready_seconds == pytest.approx(3 + ANSWER + 0.3)
    assert found[A.key].ready_seconds == pytest.approx(start_seconds(NOTHING, A, StartType.WARM, N1, {}))


def test_engines_of_two_runners_share_the_link_of_their_node_while_both_read() -> None:
    apart = seconds(make.fleet(N1, N2, POOL, A, B, hosts(A), hosts(B, slot=1, on="n2")))
    assert apart["a"] == apart["b"] == pytest.approx(start_seconds(NOTHING, A, StartType.WARM, N1, {}))
    same = seconds(make.fleet(N1, POOL, A, B, hosts(A), hosts(B, slot=1)))
    assert same["a"] == same["b"] == pytest.approx(apart["a"] + LOAD)


def test_an_engine_that_is_nearly_done_with_reading_leaves_the_link_to_the_other() -> None:
    nearly = at_stage(hosts(A), "a", Stage.WEIGHTS_LOADED, seen=LOAD - 2)
    found = seconds(make.fleet(N1, POOL, A, B, nearly, hosts(B, slot=1)))
    alone = seconds(make.fleet(N1, POOL, A, B, hosts(B, slot=1)))
    assert found["a"] == pytest.approx(2 + 1.6 + INIT + ANSWER + 0.3), "1.6 s of it beside the other"
    assert found["b"] == pytest.approx(alone["b"] + 1.6)


def test_a_new_runner_has_its_own_stages_left() -> None:
    cold = own("cold")
    just_made = seconds(make.fleet(N1, cold, make.runner(cold, "n1", age_seconds=0)))
    assert just_made["cold"] == pytest.approx(start_seconds(NOTHING, cold, StartType.COLD, N1, {}))
    pulled = make.running(make.scheduled(make.runner(cold, "n1")), seconds_ago=0)
    assert seconds(make.fleet(N1, cold, pulled))["cold"] == pytest.approx(just_made["cold"] - 2.0)


def test_a_failed_engine_has_no_forecast_and_the_reason_is_told() -> None:
    cold = own("cold")
    failed = make.says(make.runner(cold, "n1"), EngineState.FAILED, error=(Reason.ENGINE_CRASHING, "it crashed"))
    found = foretell(make.fleet(N1, cold, failed))[cold.key]
    assert found.ready_seconds is None
    assert "it crashed" in found.reason


def test_a_start_that_was_just_placed_stands_behind_those_of_its_runner() -> None:
    fleet = make.fleet(N1, POOL, A, B, hosts(A))
    place = Placed(B.key, StartType.WARM, "n1", fleet.runners[0].pod.metadata.name)
    found = seconds(fleet, placed=(place,))
    assert found["b"] == pytest.approx(found["a"] + BUSY)


def test_a_start_that_waits_begins_when_its_room_is_free() -> None:
    fleet = make.fleet(N1, POOL, A)
    found = foretell(fleet, waits(A, "n1", 12.0))[A.key]
    assert found.ready_seconds == pytest.approx(12 + start_seconds(NOTHING, A, StartType.WARM, N1, {}))
    assert found.reason == "room on n1 in 12.0 s, then 13.7 s Warm"


def test_starts_that_wait_for_the_same_runner_come_one_after_another() -> None:
    fleet = make.fleet(N1, POOL, A, B, C, hosts(A))
    place = fleet.runners[0].pod.metadata.name
    found = seconds(fleet, waits(B, place, 0.0), waits(C, place, 0.0))
    assert found["b"] == pytest.approx(found["a"] + BUSY)
    assert found["c"] == pytest.approx(found["a"] + 2 * BUSY)


def test_what_waits_for_its_turn_begins_when_the_link_will_be_free_by_the_time_it_needs_it() -> None:
    cold, other = own("cold"), own("other")
    fleet = make.fleet(N1, cold, other, make.runner(cold, "n1", age_seconds=0))
    turn = foretell(fleet, waits(other, "n1", 0.0, kind=StartType.COLD, reason=Reason.WAITING_FOR_TURN))
    assert turn[other.key].ready_seconds == pytest.approx((turn[cold.key].ready_seconds or 0) + LOAD)


def test_nobody_can_tell_when_a_start_is_done_whose_room_nobody_can_tell() -> None:
    found = foretell(make.fleet(N1, POOL, A), waits(A, "", None))[A.key]
    assert found.ready_seconds is None
    assert "needs 1 GPU" in found.reason


def test_of_a_model_with_several_starts_the_one_that_waits_counts_else_the_first_to_be_done() -> None:
    fleet = make.fleet(N1, N2, POOL, A, B, hosts(A), hosts(B, A, slot=1, on="n2"))
    assert seconds(fleet)["a"] == pytest.approx(start_seconds(NOTHING, A, StartType.WARM, N1, {}))
    assert seconds(fleet, waits(A, "", None))["a"] == inf


def test_weights_on_their_way_put_a_start_off_and_hold_up_no_other() -> None:
    first = make_weights.model("first", bytes=make.GIB, pools=["pool"], priority="High")
    second = make_weights.model("second", uri="hf://org/second", bytes=make.GIB, pools=["pool"])
    cache = make_weights.cache(
        "n1", make_weights.seen(second, Tier.MEMORY), status={"remoteBytesPerSecond": make.GIB // 100}
    )
    fleet = make.fleet(N1, POOL, first, second, hosts(first, second), cache)
    found = foretell(fleet)
    assert found[second.key].ready_seconds == pytest.approx(
        start_seconds(NOTHING, second, StartType.WARM, N1, {"n1": cache})
    )
    load = phases(NOTHING, first, StartType.WARM, "cpu")
    assert found[first.key].ready_seconds == pytest.approx(100 + load.seconds - load.before_seconds)
    assert "weights in 100.0 s" in found[first.key].reason


def test_what_would_take_longer_than_a_month_has_no_forecast() -> None:
    model_ = make_weights.model("first", bytes=60 * make.GIB, pools=["pool"])
    crawling = make_weights.cache("n1", status={"remoteBytesPerSecond": 1})
    found = foretell(make.fleet(N1, POOL, model_, hosts(model_), crawling))[model_.key]
    assert found.ready_seconds is None
    assert found.reason.startswith("longer than anybody can tell: ")


def deadline(of: Model, *, queued_ago: float | None) -> Model:
    pending = None
    if queued_ago is not None:
        pending = PendingStart(
            position=1,
            of=1,
            start_type=StartType.WARM,
            stage=Stage.QUEUED,
            queued_time=make.ago(queued_ago),
            summary="",
        )
    return replace(of, status=of.status.model_copy(update={"pending_start": pending}))


@pytest.mark.parametrize(
    ("queued_ago", "available", "late"),
    [(None, 0.0, None), (10.0, 0.0, 3.7), (None, 10.0, 3.7), (25.0, None, 5.0), (5.0, None, None)],
)
def test_a_forecast_says_by_how_much_a_deadline_is_missed(
    queued_ago: float | None, available: float | None, late: float | None
) -> None:
    urgent = deadline(model("urgent", coldStart={"deadlineSeconds": 20}), queued_ago=queued_ago)
    found = foretell(make.fleet(N1, POOL, urgent), waits(urgent, "n1", available))[urgent.key]
    assert found.misses_deadline_seconds == (None if late is None else pytest.approx(late))


def test_the_deadline_of_held_requests_counts_too() -> None:
    asked = Demand(held=1, deadline=make.NOW + timedelta(seconds=4))
    fleet = replace(make.fleet(N1, POOL, A), demand={A.key: asked})
    assert foretell(fleet, waits(A, "n1", 0.0))[A.key].misses_deadline_seconds == pytest.approx(9.7)


@settings(max_examples=30, deadline=None)
@given(
    rooms=st.lists(st.one_of(st.none(), st.floats(0, 1e5)), min_size=1, max_size=8),
    kinds=st.lists(st.sampled_from([None, *StartType]), min_size=8, max_size=8),
    places=st.lists(st.sampled_from(["n1", "n2", "gone", "", "pool-0-1"]), min_size=8, max_size=8),
    reasons=st.lists(st.sampled_from([Reason.WAITING_FOR_TURN, Reason.NO_FREE_MEMORY, Reason.FLOORS_HELD]), min_size=8),
)
def test_every_start_gets_a_forecast_that_is_no_sooner_than_its_room_and_its_own_time(
    rooms: list[float | None], kinds: list[StartType | None], places: list[str], reasons: list[Reason]
) -> None:
    models = [model(f"m{number}") for number in range(len(rooms))]
    fleet = make.fleet(N1, N2, POOL, A, *models, hosts(A))
    asked = [waits(each, places[i], rooms[i], kind=kinds[i], reason=reasons[i]) for i, each in enumerate(models)]
    found = foretell(fleet, *asked)
    assert set(found) == {A.key, *(each.key for each in models)}
    for each, wait in zip(models, asked, strict=True):
        got = found[each.key]
        assert (got.ready_seconds is None) == (wait.available_seconds is None)
        if got.ready_seconds is not None and wait.available_seconds is not None:
            least = start_seconds(NOTHING, each, got.start_type, None, {})
            assert got.ready_seconds >= wait.available_seconds + least - 1e-6


def test_nobody_can_tell_when_weights_come_for_which_a_full_store_has_no_room() -> None:
    fleets = []
    other = make_weights.model("other", uri="hf://org/other", bytes=3 * make.GIB, pools=["pool"])
    first = make_weights.model("first", bytes=2 * make.GIB, pools=["pool"])
    wanted = other.weights[0].wanted(Tier.MEMORY)
    for keys in ([wanted.key], []):
        view = {"uid": "0" * 8 + "-0000-0000-0000-" + "0" * 12, "keys": keys}
        cache = make_weights.cache(
            "n1",
            make_weights.seen(other, Tier.MEMORY),
            memory_bytes=4 * make.GIB,
            entries=[wanted.model_dump(mode="json", by_alias=True)],
            views=[view],
        )
        fleets.append(make.fleet(N1, POOL, first, other, hosts(first), cache))
    read, idle = (foretell(fleet)[first.key] for fleet in fleets)
    assert read.ready_seconds is None
    assert "full of weights that others read" in read.reason
    assert idle.ready_seconds is not None, "what nobody reads gives way"
    assert foretell(fleets[0], waits(first, "n1", 3.0))[first.key].ready_seconds is None


def test_a_source_that_failed_says_why_nobody_can_tell() -> None:
    model_ = make_weights.model("first", bytes=make.GIB, pools=["pool"])
    failed = make_weights.seen(model_, Tier.REMOTE, problem=(WeightsProblem.SOURCE_UNREACHABLE, "no route to host"))
    found = foretell(make.fleet(N1, POOL, model_, hosts(model_), make_weights.cache("n1", failed)))
    assert found[model_.key].ready_seconds is None
    assert "no route to host" in found[model_.key].reason
