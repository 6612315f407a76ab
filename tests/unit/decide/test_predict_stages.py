"""How long a start will take: from what was measured, declared or assumed, and from where its weights are."""

from typing import Any

import pytest

from support import make, make_weights
from support.starts import last_start
from warmfleet_api import names
from warmfleet_api.agent_status import Transfer
from warmfleet_api.vocabulary import EntryState, Stage, StartType, Tier
from warmfleet_operator.decide.estimates import Estimates
from warmfleet_operator.decide.fleet import Cache, Model
from warmfleet_operator.decide.predict_learn import observe
from warmfleet_operator.decide.predict_links import Links
from warmfleet_operator.decide.predict_stages import CPU_NODE, node_type, phases, stage_seconds, start_seconds
from warmfleet_operator.decide.start_budget import ASSUMED_REMOTE_BYTES_PER_SECOND

N1 = make.node("n1")
NOTHING = Estimates()
MIB = 1024**2


def simulated(name: str = "llama", **milliseconds: int) -> Model:
    return make.model(name, engine={"type": "Simulated", "simulated": milliseconds})


def test_a_node_is_of_its_instance_type_else_of_its_gpu_else_a_cpu() -> None:
    labels = {names.NODE_LABEL_INSTANCE_TYPE: "p5.48xlarge", names.NODE_LABEL_GPU_PRODUCT: "H100"}
    assert node_type(make.node("n", labels=labels)) == "p5.48xlarge"
    assert node_type(make.node("n", labels={names.NODE_LABEL_GPU_PRODUCT: "H100"})) == "H100"
    assert node_type(N1) == CPU_NODE


def test_a_simulated_engine_takes_what_it_declares() -> None:
    model = simulated(
        loadMilliseconds=3000, initializeMilliseconds=2000, firstTokenMilliseconds=500, wakeMilliseconds=700
    )
    warm = stage_seconds(NOTHING, model, StartType.WARM, CPU_NODE)
    assert (warm[Stage.WEIGHTS_LOADED], warm[Stage.CACHE_ALLOCATED], warm[Stage.WARMED_UP]) == (3.0, 2.0, 0.5)
    hot = stage_seconds(NOTHING, model, StartType.HOT, CPU_NODE)
    assert (hot[Stage.WEIGHTS_LOADED], hot[Stage.WARMED_UP]) == (0.7, 0.5)


@pytest.mark.parametrize("start_type", StartType)
@pytest.mark.parametrize("model", [simulated(loadMilliseconds=5000), make_weights.model(bytes=8 * make.GIB)])
def test_phases_stages_and_seconds_of_a_start_agree(model: Model, start_type: StartType) -> None:
    stages = stage_seconds(NOTHING, model, start_type, CPU_NODE)
    assert list(stages) == [stage for stage in Stage if stage in stages]
    assert phases(NOTHING, model, start_type, CPU_NODE).seconds == pytest.approx(sum(stages.values()))
    assert start_seconds(NOTHING, model, start_type, None, {}) == pytest.approx(sum(stages.values()))


def test_a_wake_is_quicker_than_a_warm_start_and_that_than_a_cold_one() -> None:
    for model in (simulated(), make_weights.model(bytes=60 * make.GIB)):
        hot, warm, cold = (start_seconds(NOTHING, model, each, None, {}) for each in StartType)
        assert hot < warm < cold


def test_a_larger_model_is_expected_to_load_longer() -> None:
    small, large = make_weights.model(bytes=make.GIB), make_weights.model(bytes=100 * make.GIB)
    assert start_seconds(NOTHING, small, StartType.WARM, None, {}) < start_seconds(
        NOTHING, large, StartType.WARM, None, {}
    )


def test_a_start_that_was_measured_takes_as_long_again_there_and_elsewhere() -> None:
    model = simulated()
    estimates = observe(NOTHING, model, "h100", last_start(StartType.WARM, WeightsLoaded=9, WarmedUp=1, Routable=0.5))
    assert phases(estimates, model, StartType.WARM, "h100").load_seconds == pytest.approx(9)
    assert phases(estimates, model, StartType.WARM, "a100").load_seconds == pytest.approx(9)


def test_an_engine_loads_in_a_new_runner_as_in_one_that_is_there() -> None:
    model = simulated()
    estimates = observe(NOTHING, model, CPU_NODE, last_start(StartType.WARM, WeightsLoaded=9, WarmedUp=1, Routable=0.5))
    cold = stage_seconds(estimates, model, StartType.COLD, CPU_NODE)
    assert cold[Stage.WEIGHTS_LOADED] == pytest.approx(9)
    assert cold[Stage.WARMED_UP] == pytest.approx(1)
    assert Stage.RUNNER_SCHEDULED in cold
    assert Stage.COMPILED not in cold


def test_a_model_that_never_started_takes_what_others_have_in_common() -> None:
    known, new = simulated("known"), simulated("new", loadMilliseconds=4000)
    measured = last_start(StartType.COLD, RunnerScheduled=1, ImagePulled=20, RunnerReady=3, WeightsLoaded=9, Routable=2)
    estimates = observe(NOTHING, known, CPU_NODE, measured)
    stages = stage_seconds(estimates, new, StartType.COLD, CPU_NODE)
    assert stages[Stage.IMAGE_PULLED] == pytest.approx(20)
    assert stages[Stage.WEIGHTS_LOADED] == 4.0, "declared by its own spec"


def test_a_stage_that_no_engine_of_the_type_had_is_not_assumed_of_the_next_model() -> None:
    known, new = make_weights.model("known"), make_weights.model("new", uri="hf://org/new")
    assert Stage.COMPILED in stage_seconds(NOTHING, new, StartType.WARM, "h100")
    estimates = observe(NOTHING, known, "h100", last_start(StartType.WARM, EngineForked=1, WeightsLoaded=7, Routable=1))
    assert Stage.COMPILED not in stage_seconds(estimates, new, StartType.WARM, "h100")


def test_the_speed_at_which_one_model_loads_tells_how_long_another_will() -> None:
    known = make_weights.model("known", bytes=10 * make.GIB)
    new = make_weights.model("new", uri="hf://org/new", bytes=20 * make.GIB)
    estimates = observe(NOTHING, known, "h100", last_start(StartType.WARM, WeightsLoaded=7, Routable=0.5))
    assert phases(estimates, new, StartType.WARM, "h100").load_seconds == pytest.approx(14)


def cache(*seen: Any, **fields: Any) -> dict[str, Cache]:
    status = {"disk": {"bytesPerSecond": 100 * MIB}, "remoteBytesPerSecond": 10 * MIB}
    return {"n1": make_weights.cache("n1", *seen, status=status, **fields)}


def test_weights_cost_what_their_tier_and_the_nodes_links_say() -> None:
    model = make_weights.model(bytes=1000 * MIB)
    there = start_seconds(NOTHING, model, StartType.WARM, N1, cache(make_weights.seen(model, Tier.MEMORY)))
    disk = start_seconds(NOTHING, model, StartType.WARM, N1, cache(make_weights.seen(model, Tier.DISK)))
    remote = start_seconds(NOTHING, model, StartType.WARM, N1, cache())
    assert there == pytest.approx(start_seconds(NOTHING, model, StartType.WARM, None, {}))
    before = phases(NOTHING, model, StartType.WARM, CPU_NODE).before_seconds
    assert disk - there == pytest.approx(10 - before), "the runner is told meanwhile"
    assert remote - there == pytest.approx(100 - before)
    assert start_seconds(NOTHING, model, StartType.HOT, N1, {}) < there, "a wake reads nothing"


def test_a_limit_of_the_administrators_counts_as_the_links_speed() -> None:
    model = make_weights.model(bytes=1000 * MIB)
    limited = start_seconds(NOTHING, model, StartType.WARM, N1, cache(bytesPerSecond=MIB))
    assert limited > 900


def test_without_a_store_that_tells_all_comes_from_afar() -> None:
    model = make_weights.model(bytes=10 * ASSUMED_REMOTE_BYTES_PER_SECOND)
    before = phases(NOTHING, model, StartType.COLD, CPU_NODE).before_seconds
    there = start_seconds(NOTHING, model, StartType.COLD, None, {})
    assert start_seconds(NOTHING, model, StartType.COLD, N1, {}) - there == pytest.approx(max(0.0, 10 - before))


def on_its_way(model: Model, *, done: int, speed: int, target: Tier = Tier.MEMORY) -> Transfer:
    entry = model.weights[0]
    return Transfer(
        key=entry.key,
        source=Tier.REMOTE,
        target=target,
        state=EntryState.FETCHING,
        bytes=entry.bytes,
        done_bytes=done,
        bytes_per_second=speed,
    )


def test_what_is_on_its_way_comes_at_its_own_speed_and_others_after_it() -> None:
    first = make_weights.model("first", bytes=1000 * MIB)
    second = make_weights.model("second", uri="hf://org/second", bytes=500 * MIB)
    links = Links(cache(transfers=(on_its_way(first, done=600 * MIB, speed=20 * MIB),))["n1"])
    assert links.add(first.weights) == pytest.approx(20)
    assert links.add(second.weights) == pytest.approx(20 + 50), "behind it, over the same link"
    assert links.add(second.weights) == pytest.approx(20 + 50), "asked for already"


def test_what_goes_to_disk_first_has_a_second_way_to_go() -> None:
    model = make_weights.model(bytes=1000 * MIB)
    links = Links(cache(transfers=(on_its_way(model, done=900 * MIB, speed=10 * MIB, target=Tier.DISK),))["n1"])
    assert links.add(model.weights) == pytest.approx(10 + 10)


def test_a_transfer_that_has_not_moved_yet_is_expected_to_come_as_fast_as_others_did() -> None:
    model = make_weights.model(bytes=1000 * MIB)
    links = Links(cache(transfers=(on_its_way(model, done=0, speed=0),))["n1"])
    assert links.add(model.weights) == pytest.approx(100)
