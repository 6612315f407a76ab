"""The state machine, event by event: engines that wait for entries of the weight store."""

import msgspec
import pytest

from support.machine import CRASH, Machine, assigned, engine
from warmfleet_api.assignment import EngineAssignment, EngineSpec, LoraAdapter, Speculative
from warmfleet_api.runner_status import EngineError, EngineStatus
from warmfleet_api.vocabulary import DesiredState, EngineState, EngineType, Reason, Stage, WakePolicy
from warmfleet_runtime.machine import events
from warmfleet_runtime.machine.state import Limits, State, entries_of
from warmfleet_runtime.machine.view import is_startup_over, runner_status
from warmfleet_runtime.machine.weights import readers

LIMITS = Limits(memory_bytes=100, weights_root="/weights")
DAMAGED = EngineError(reason=Reason.MODEL_NOT_FOUND, message="model.safetensors has 3 bytes instead of 4")


@pytest.fixture
def machine() -> Machine:
    return Machine(LIMITS)


def reader(name: str, *keys: str, order: int = 0, spec_hash: str = "h") -> EngineAssignment:
    model, *adapters = (f"/weights/{key}" for key in keys)
    spec = EngineSpec(
        type=EngineType.VLLM,
        uri="hf://a/b",
        folder=model,
        served_names=(name,),
        adapters=tuple(LoraAdapter(name=each, uri="hf://a/lora", folder=each) for each in adapters),
    )
    return msgspec.structs.replace(engine(name, order=order, memory=10, spec_hash=spec_hash), engine=spec)


def seen(*entries: str, missing: tuple[str, ...] = (), error: EngineError | None = None) -> events.WeightsSeen:
    return events.WeightsSeen("m", entries, missing, weight_bytes=0 if missing else 7, error=error)


def status_of(machine: Machine, name: str = "m") -> EngineStatus:
    return next(each for each in runner_status(machine.state, "pod").engines if each.id == name)


def started(actions: tuple[events.Action, ...]) -> list[str]:
    return [action.engine.id for action in actions if isinstance(action, events.Start)]


def test_the_entries_of_an_engine_are_those_of_its_model_its_draft_and_its_adapters() -> None:
    spec = EngineSpec(
        type=EngineType.VLLM,
        uri="hf://a/b",
        folder="/weights/model-1",
        served_names=("m",),
        speculative=Speculative(uri="hf://a/draft", folder="/weights/draft-1", tokens=3),
        adapters=(
            LoraAdapter(name="a", uri="hf://a/lora", folder="/weights/lora-1"),
            LoraAdapter(name="b", uri="hf://a/lora", folder="/weights/lora-1"),
        ),
    )
    content = msgspec.structs.replace(engine("m"), engine=spec)
    assert entries_of(content, "/weights") == ("model-1", "draft-1", "lora-1")
    assert entries_of(content, "/elsewhere") == ()
    assert entries_of(content, "") == (), "a runner without a store"
    simulated = msgspec.structs.replace(spec, type=EngineType.SIMULATED)
    assert entries_of(msgspec.structs.replace(content, engine=simulated), "/weights") == ()
    whole = msgspec.structs.replace(spec, folder="/weights", speculative=None, adapters=())
    assert entries_of(msgspec.structs.replace(content, engine=whole), "/weights") == (), "the folder itself is no entry"


def test_an_engine_starts_once_all_it_reads_is_in_memory_and_the_wait_is_a_stage_of_its_start(machine: Machine) -> None:
    machine.feed(assigned(1))  # a running runner
    assert machine.feed(assigned(2, reader("m", "model", "lora"))) == ()
    status = status_of(machine)
    assert (status.state, status.stage, status.waits_for) == (
        EngineState.STARTING,
        Stage.WEIGHTS_IN_MEMORY,
        ("model", "lora"),
    )
    assert machine.after(2, seen("model", "lora", missing=("lora",))) == ()
    assert status_of(machine).waits_for == ("lora",)
    assert started(machine.after(1, seen("model", "lora"))) == ["m"]
    machine.after(0.5, events.Progressed("m", 1, Stage.ENGINE_FORKED), events.WarmedUp("m", 1, 20))
    status = status_of(machine)
    assert [(each.name.value, each.milliseconds) for each in status.stages] == [
        ("WeightsInMemory", 3000),
        ("EngineForked", 500),
        ("WarmedUp", 0),
    ]
    assert (status.waits_for, status.weight_bytes) == ((), 7)
    assert machine.state.starts[-1].milliseconds == 3500


def test_weights_that_are_there_take_no_time(machine: Machine) -> None:
    machine.state = State(limits=LIMITS, born=99.0)
    machine.feed(assigned(1, reader("m", "model")), seen("model"))
    assert [(each.name.value, each.milliseconds) for each in status_of(machine).stages] == [
        ("RunnerReady", 1000),
        ("WeightsInMemory", 0),
    ]


def test_time_that_passes_until_its_turn_is_no_wait_for_weights(machine: Machine) -> None:
    machine.feed(assigned(1, reader("first", "a"), reader("m", "model", order=1)))
    machine.feed(events.WeightsSeen("first", ("a",)))
    machine.after(2, seen("model"))
    assert status_of(machine).stage is Stage.QUEUED, "its weights are there, its turn is not"
    machine.after(5, events.WarmedUp("first", 1, 20))
    assert {each.name: each.milliseconds for each in status_of(machine).stages}[Stage.WEIGHTS_IN_MEMORY] == 2000


def test_an_engine_that_waits_for_weights_holds_up_no_other(machine: Machine) -> None:
    assert started(machine.feed(assigned(1, reader("m", "model"), engine("other", order=1)))) == ["other"]


def test_the_wait_costs_neither_budget_nor_tries_and_does_not_hold_the_startup_probe(machine: Machine) -> None:
    machine.state = State(limits=LIMITS, born=100.0)
    machine.feed(assigned(1, reader("m", "model")))
    assert machine.after(3600) == ()
    assert (status_of(machine).starts, status_of(machine).failed_starts) == (0, 0)
    assert is_startup_over(machine.state, machine.now)
    assert started(machine.feed(seen("model"))) == ["m"]
    assert machine.after(59) == (), "the whole budget is left"
    assert machine.after(2) == (events.Stop("m", 1, force=True),)


@pytest.mark.parametrize("end", [assigned(2), events.Terminate()])
def test_the_wait_ends_with_the_assignment_and_with_the_runner(machine: Machine, end: events.Event) -> None:
    machine.feed(assigned(1, reader("m", "model")))
    machine.feed(end)
    assert machine.state.engines == {}
    assert started(machine.feed(seen("model"))) == []


def test_other_weights_under_the_same_id_are_waited_for_anew(machine: Machine) -> None:
    machine.feed(assigned(1, reader("m", "model-1")))
    machine.after(10, assigned(2, reader("m", "model-2", spec_hash="h2")))
    assert machine.feed(seen("model-1")) == (), "news of weights it does not read any more"
    assert started(machine.after(1, seen("model-2"))) == ["m"]
    assert status_of(machine).stages[-1].milliseconds == 1000


def test_an_engine_that_crashed_looks_for_its_weights_anew(machine: Machine) -> None:
    machine.feed(assigned(1, reader("m", "model")), seen("model"), events.Exited("m", 1, CRASH))
    assert readers(machine.state, machine.now) == {}, "in back-off nothing is locked"
    assert machine.feed(seen("model")) == ()
    assert machine.after(1.1) == ()
    assert list(readers(machine.state, machine.now)) == ["m"]
    assert started(machine.feed(seen("model"))) == ["m"]


def test_an_engine_that_sleeps_without_a_process_needs_no_weights_until_it_is_woken(machine: Machine) -> None:
    content = reader("m", "model")
    asleep = msgspec.structs.replace(content, state=DesiredState.ASLEEP, wake=WakePolicy.ON_REQUEST)
    machine.feed(assigned(1, asleep))
    assert machine.engine_state("m") is EngineState.ASLEEP
    assert readers(machine.state, machine.now) == {}
    machine.feed(events.Heard("m", 0, busy=True, wake_requested=True))
    assert list(readers(machine.state, machine.now)) == ["m"]
    assert started(machine.feed(seen("model"))) == ["m"]


def test_damaged_weights_fail_the_engine_in_words_and_are_looked_at_again(machine: Machine) -> None:
    machine.feed(assigned(1, reader("m", "model")))
    assert machine.feed(seen("model", missing=("model",), error=DAMAGED)) == ()
    status = status_of(machine)
    assert (status.state, status.error, status.failed_starts, status.starts) == (EngineState.FAILED, DAMAGED, 1, 0)
    assert readers(machine.state, machine.now) == {}
    machine.after(1.1)
    assert started(machine.feed(seen("model"))) == ["m"]
    machine.feed(events.WarmedUp("m", 1, 20))
    assert status_of(machine).state is EngineState.READY


def test_a_process_that_is_going_keeps_its_locks(machine: Machine) -> None:
    machine.feed(assigned(1, reader("m", "model")), seen("model"))
    machine.make_ready("m")
    machine.feed(assigned(2), events.Drained("m", 1))
    assert list(readers(machine.state, machine.now)) == ["m"]
    machine.feed(events.Exited("m", 1, CRASH))
    assert readers(machine.state, machine.now) == {}
