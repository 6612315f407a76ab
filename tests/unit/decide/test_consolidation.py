"""Fragmentation, and runners of pools that move so that a start fits: who, when, where to, and who never does."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import make
from support.sleepers import Sleepers
from warmfleet_api.status import Dormancy
from warmfleet_api.vocabulary import EngineState, Reason
from warmfleet_operator.decide.actions import Decisions, DeleteRunner
from warmfleet_operator.decide.fleet import Model, Pool, Runner
from warmfleet_operator.decide.runners import node_of
from warmfleet_operator.decide.schedule import schedule

LONG = 1000.0


def decide(*parts: object) -> Decisions:
    return schedule(make.fleet(*parts), make.NOW)  # type: ignore[arg-type]


def moved(decisions: Decisions) -> dict[str, str]:
    return {each.pod.metadata.name: each.reason for each in decisions.actions if isinstance(each, DeleteRunner)}


def gpu_pool(gpus: int = 2, replicas: int = 1) -> Pool:
    return make.pool(gpus=gpus, replicas=replicas, cpu="1", memory="8Gi", maxEngines=4)


def empty(pool: Pool, node: str, *, age_seconds: float = LONG, slot: int = 0) -> Runner:
    return make.up(make.pool_runner(pool, node, age_seconds=age_seconds, slot=slot))


def hosts(pool: Pool, node: str, *models: Model, idle: bool = True, state: EngineState = EngineState.READY) -> Runner:
    """A pool's runner with engines, each long awake, and without requests if `idle`."""
    ids = [f"{each.key.name}-0-1" for each in models]
    it = make.hosting(make.pool_runner(pool, node, age_seconds=LONG), *models, states=dict.fromkeys(ids, state))
    if state is not EngineState.READY:
        return it
    return replace(it, awake_seconds=dict.fromkeys(ids, LONG), idle_seconds=dict.fromkeys(ids, LONG) if idle else {})


def dormant(model: Model) -> Model:
    slept = model.status.model_copy(update={"dormant": Dormancy(time=make.ago(60), reason="no request for 300 s")})
    return replace(model, status=slept)


BIG = make.model("big", gpus=4)
NODES = (make.node("a", gpus=4), make.node("b", gpus=4))
STRANGER = make.stranger("s", "b", gpus=2)
"""With it there are two GPUs free on each node."""


def test_an_empty_runner_moves_where_there_is_room_so_that_a_start_fits() -> None:
    pool = gpu_pool()
    decisions = decide(BIG, pool, empty(pool, "a"), STRANGER, *NODES)
    assert moved(decisions) == {
        "pool-0-1": "moves pool-0-1 out of a to b so that default/big, which needs 4 nvidia.com/gpu, "
        "1.0 GiB memory, 1 cpu, fits"
    }
    wait = decisions.waiting[BIG.key]
    assert (wait.reason, wait.place, wait.blocker) == (
        Reason.WAITING_FOR_TURN,
        "a",
        "pool-0-1 moves out of a so that it fits",
    )


def test_it_is_made_anew_there_and_the_start_has_its_room() -> None:
    world = Sleepers()
    world.add(*NODES, STRANGER, pool := gpu_pool(), BIG)
    world.runners["pool-0-1"] = empty(pool, "a")
    world.settle()
    assert {name: node_of(each.pod) for name, each in world.runners.items()} == {"big-0-1": "a", "pool-0-1": "b"}


def test_models_that_are_idle_in_it_sleep_first_and_stay_dormant_when_it_moves() -> None:
    pool, idle = gpu_pool(), make.model("idle", gpus=1, pools=["pool"])
    decisions = decide(BIG, pool, idle, hosts(pool, "a", idle), STRANGER, *NODES)
    assert moved(decisions) == {}
    assert list(decisions.yields) == [idle.key]
    assert decisions.yields[idle.key].startswith("moves pool-0-1 out of a to b so that default/big")
    world = Sleepers(idle={"idle": LONG})
    world.add(*NODES, STRANGER, pool, idle, BIG)
    world.runners["pool-0-1"] = hosts(pool, "a", idle)
    world.settle()
    assert node_of(world.runners["big-0-1"].pod) == "a"
    assert node_of(world.runners["pool-0-1"].pod) == "b"
    assert world.models["idle"].status.dormant is not None


@pytest.mark.parametrize(
    ("runner_of", "model"),
    [
        pytest.param(lambda pool, model: hosts(pool, "a", model, idle=False), {}, id="busy"),
        pytest.param(lambda pool, model: hosts(pool, "a", model), {"idle": {"policy": "Keep"}}, id="a floor of Keep"),
        pytest.param(
            lambda pool, model: replace(hosts(pool, "a", model), awake_seconds={"m-0-1": 20.0}), {}, id="residency"
        ),
        pytest.param(lambda pool, model: hosts(pool, "a", model, state=EngineState.STARTING), {}, id="starting"),
        pytest.param(lambda pool, model: empty(pool, "a", age_seconds=30), {"replicas": 0}, id="it has just come"),
    ],
)
def test_who_stays_where_it_is(runner_of: object, model: dict[str, object]) -> None:
    pool, hosted = gpu_pool(), make.model("m", gpus=1, pools=["pool"], **model)  # type: ignore[arg-type]
    decisions = decide(BIG, pool, hosted, runner_of(pool, hosted), STRANGER, *NODES)  # type: ignore[operator]
    assert (moved(decisions), dict(decisions.yields)) == ({}, {})


def test_the_budget_of_changes_holds_for_moves() -> None:
    pool, idle = gpu_pool(), make.model("idle", gpus=1, pools=["pool"])
    fleet = make.fleet(BIG, pool, idle, hosts(pool, "a", idle), STRANGER, *NODES)
    spent = replace(fleet, switches={"pool-0-1": tuple(float(each) for each in range(500))})
    assert dict(schedule(spent, make.NOW).yields) == {}


def test_nobody_moves_without_room_elsewhere_or_where_it_would_not_be_enough() -> None:
    pool = gpu_pool()
    full = make.stranger("s", "b", gpus=3)
    assert moved(decide(BIG, pool, empty(pool, "a"), full, *NODES)) == {}
    small = gpu_pool(gpus=1)
    taken = make.stranger("t", "a", gpus=2)
    assert moved(decide(BIG, small, empty(small, "a"), taken, make.node("a", gpus=4), make.node("c", gpus=3))) == {}


def test_nobody_moves_while_most_of_what_is_free_is_of_use_to_others_who_wait() -> None:
    pool = gpu_pool()
    # They wait for something else than GPUs, but of the size that the free GPUs have.
    others = [make.model(f"m-{each}", gpus=2, memory="999Gi", priority="Low") for each in range(9)]
    nodes = (make.node("a", gpus=4, memory="100Gi"), make.node("b", gpus=4, memory="100Gi"))
    large = make.node("c", gpus=8, memory="1000Gi")
    rest = (empty(pool, "a"), STRANGER, *nodes, make.stranger("t", "c", gpus=7), large)
    assert moved(decide(BIG, pool, *others, *rest)) == {}
    assert list(moved(decide(BIG, pool, *rest))) == ["pool-0-1"]


def test_what_is_idle_gives_way_before_runners_move_and_runners_move_before_the_busy_give_way() -> None:
    pool, own = gpu_pool(), make.model("own", gpus=2, priority="Low")
    big = make.model("big", gpus=4, priority="High")
    serving = make.serving(make.runner(own, "b"))
    busy = replace(serving, awake_seconds={"own-0": LONG})
    idle = replace(busy, idle_seconds={"own-0": LONG})
    assert list(decide(big, pool, own, empty(pool, "a"), idle, *NODES).yields) == [own.key]
    decisions = decide(big, pool, own, empty(pool, "a"), busy, *NODES)
    assert (list(moved(decisions)), decisions.preemptions) == (["pool-0-1"], ())


def test_fragmentation_is_the_share_that_those_who_wait_cannot_use() -> None:
    halves = [make.stranger("s", "a", gpus=2), make.stranger("t", "b", gpus=2)]
    assert decide(BIG, *NODES, *halves).fragmentation == 1.0
    assert decide(*NODES, *halves).fragmentation == 0.0
    three = make.model("three", gpus=3)
    serves = make.serving(make.runner(three, "a"))
    # One GPU is free on a, four on b: of five, three can be used by the usual size.
    assert decide(three, serves, *NODES).fragmentation == pytest.approx(2 / 5)


def test_memory_of_pools_without_gpus_is_counted_in_buckets() -> None:
    pool = make.pool(replicas=2, memory="7Gi")
    waits = make.model("waits", memory="5Gi", pools=["pool"])
    small = [make.model(f"m-{each}", memory="3Gi", pools=["pool"]) for each in range(2)]
    runners = [
        make.hosting(make.pool_runner(pool, "a", slot=slot, age_seconds=LONG), (each, f"{each.key.name}-0-1"))
        for slot, each in enumerate(small)
    ]
    assert decide(waits, pool, *small, *runners, make.node("a")).fragmentation == 1.0


@settings(max_examples=60, deadline=None)
@given(
    nodes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    pool_gpus=st.integers(1, 3),
    big=st.integers(1, 4),
    where=st.lists(st.integers(0, 3), max_size=4),
    is_idle=st.lists(st.sampled_from(["empty", "idle", "busy", "keep"]), min_size=4, max_size=4),
)
def test_moves_end_cost_no_busy_engine_and_give_no_gpu_twice(
    nodes: list[int], pool_gpus: int, big: int, where: list[int], is_idle: list[str]
) -> None:
    world = Sleepers()
    world.add(*(make.node(f"n{each}", gpus=gpus) for each, gpus in enumerate(nodes)))
    free = dict(enumerate(nodes))
    pool = gpu_pool(pool_gpus, replicas=max(1, len(where)))
    world.add(pool)
    for slot, (node, kind) in enumerate(zip(where, is_idle, strict=False)):
        if free.get(node, 0) < pool_gpus:
            continue
        free[node] -= pool_gpus
        it = make.pool_runner(pool, f"n{node}", slot=slot, age_seconds=LONG)
        if kind == "empty":
            world.runners[it.pod.metadata.name] = make.up(it)
            continue
        policy = "Keep" if kind == "keep" else "Yield"
        world.add(model := make.model(f"m{slot}", gpus=1, pools=["pool"], idle={"policy": policy}))
        world.runners[it.pod.metadata.name] = make.hosting(it, model)
        if kind != "busy":
            world.idle[f"m{slot}"] = LONG
    stays = {name: world.members(name)[0].node for name in world.models if name not in world.idle}
    stays |= {
        name: world.members(name)[0].node for name, each in world.models.items() if each.spec.idle.policy == "Keep"
    }
    world.add(make.model("big", gpus=big, idle={"policy": "Keep"}))
    world.settle()
    assert world.over_committed() == {}
    for name, stayed in stays.items():
        assert [each.node for each in world.serving(name)] == [stayed], name
    for decisions in (world.round(),):
        assert 0.0 <= decisions.fragmentation <= 1.0
        assert decisions.actions == ()
