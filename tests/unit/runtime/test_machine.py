"""The runner's state machine, event by event."""

import pytest

from support.machine import CRASH, Machine, assigned, engine
from warmfleet_api.assignment import EngineAssignment, EngineSpec
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import EngineState, EngineType, Reason, Stage
from warmfleet_runtime.machine import events
from warmfleet_runtime.machine.state import Limits, Phase, State
from warmfleet_runtime.machine.view import is_startup_over, runner_status

NO_MODEL = EngineError(reason=Reason.MODEL_NOT_FOUND, message="no config.json")


def test_engines_start_by_ascending_order_one_load_at_a_time() -> None:
    machine = Machine()
    first = machine.feed(assigned(1, engine("late", order=2), engine("early", order=1)))
    assert [action.engine.id for action in first if isinstance(action, events.Start)] == ["early"]
    second = machine.feed(events.WarmedUp("early", 1, 20))
    assert [action.engine.id for action in second if isinstance(action, events.Start)] == ["late"]


def test_an_engine_in_back_off_does_not_hold_up_the_next() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("bad", order=1), engine("good", order=2)))
    actions = machine.feed(events.Exited("bad", 1, CRASH))
    assert [action.engine.id for action in actions if isinstance(action, events.Start)] == ["good"]


def test_back_off_doubles_to_a_minute_and_never_ends() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("bad")))
    waits = []
    for attempt in range(1, 10):
        machine.feed(events.Exited("bad", attempt, CRASH))
        waits.append(round(machine.state.engines["bad"].retry_at - machine.now, 3))
        assert machine.after(waits[-1] - 0.01) == ()
        assert machine.after(0.02) == (
            events.Start(machine.state.engines["bad"].content, attempt + 1, is_fresh=attempt == 2),
        )
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_third_failed_start_in_a_row_makes_the_engine_failed_until_one_succeeds() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("bad")))
    states = []
    for attempt in (1, 2, 3):
        machine.feed(events.Exited("bad", attempt, CRASH))
        states.append(machine.engine_state("bad"))
        machine.after(60)
    assert states == [EngineState.STARTING, EngineState.STARTING, EngineState.FAILED]
    assert machine.state.engines["bad"].phase is Phase.STARTING
    assert machine.engine_state("bad") is EngineState.FAILED, "a try alone is no success"
    machine.make_ready("bad")
    status = runner_status(machine.state, "pod").engines[0]
    assert (status.state, status.error) == (EngineState.READY, None)


def test_a_missing_model_fails_the_engine_at_once_and_is_tried_again() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("bad")))
    machine.feed(events.Exited("bad", 1, NO_MODEL))
    assert machine.engine_state("bad") is EngineState.FAILED
    assert isinstance(machine.after(1.1)[0], events.Start)


def test_a_crash_soon_after_ready_counts_as_a_failed_start_a_late_one_does_not() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("m")))
    for attempt in (1, 2):
        machine.make_ready("m")
        machine.after(5, events.Exited("m", attempt, CRASH))
        assert machine.state.engines["m"].failed_starts == attempt
        machine.after(60)
    machine.make_ready("m")
    machine.after(61)
    machine.after(1, events.Exited("m", 3, CRASH))
    assert machine.state.engines["m"].failed_starts == 1


def test_a_start_without_progress_is_killed_and_counted() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("hung")))
    machine.after(50, events.Progressed("hung", 1, Stage.ENGINE_FORKED))
    assert machine.after(59) == (), "progress renews the budget"
    assert machine.after(2) == (events.Stop("hung", 1, force=True),)
    machine.feed(events.Exited("hung", 1, EngineError(reason=Reason.ENGINE_CRASHING, message="killed by signal 9")))
    failed = machine.state.engines["hung"]
    assert failed.failed_starts == 1
    assert failed.error and "within 60 s (last finished: EngineForked)" in failed.error.message


def test_a_group_that_ignores_sigterm_is_killed() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("m")))
    machine.feed(assigned(2))
    assert machine.actions[-1] == events.Stop("m", 1, force=False)
    assert machine.after(10.1) == (events.Stop("m", 1, force=True),)
    machine.feed(events.Exited("m", 1, CRASH))
    assert machine.state.engines == {}


def test_an_engine_that_is_taken_out_drains_before_it_stops() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    assert machine.feed(assigned(2)) == ()
    assert machine.engine_state("m") is EngineState.DRAINING
    assert machine.feed(events.Drained("m", 1)) == (events.Stop("m", 1, force=False),)


def test_draining_is_bounded() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    machine.feed(assigned(2))
    assert machine.after(29) == ()
    assert machine.after(2) == (events.Stop("m", 1, force=False),)


def test_an_engine_assigned_again_while_it_drains_goes_on_without_a_restart() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    machine.feed(assigned(2), assigned(3, engine("m")))
    assert machine.engine_state("m") is EngineState.READY
    assert machine.state.engines["m"].attempt == 1


def test_a_changed_engine_replaces_its_process_and_starts_with_a_clean_record() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("m")), events.Exited("m", 1, NO_MODEL))
    actions = machine.feed(assigned(2, engine("m", spec_hash="mended")))
    assert [action.engine.hash for action in actions if isinstance(action, events.Start)] == ["mended"]
    assert machine.state.engines["m"].failed_starts == 0


def test_a_late_event_of_a_former_process_touches_nothing() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("m")), events.Exited("m", 1, CRASH))
    machine.after(1.1)
    before = machine.state
    machine.feed(events.WarmedUp("m", 1, 20), events.Exited("m", 1, CRASH))
    assert machine.state == before


def test_a_lower_revision_is_refused_in_words() -> None:
    machine = Machine()
    machine.feed(assigned(7, engine("m")), assigned(6))
    assert "m" in machine.state.engines
    assert machine.state.error == "refused assignment revision 6: revision 7 is in force"
    machine.feed(assigned(8, engine("m")))
    assert machine.state.error == ""


@pytest.mark.parametrize("engines", [("m", "m"), ("../m",), ("",), ("m" * 64,)])
def test_ids_that_could_not_be_told_apart_or_name_a_file_are_refused(engines: tuple[str, ...]) -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("good")), assigned(2, *map(engine, engines)))
    assert machine.state.error.startswith("refused assignment revision 2: ")
    assert list(machine.state.engines) == ["good"]


def test_what_does_not_fit_is_refused_and_the_rest_runs() -> None:
    machine = Machine(Limits(memory_bytes=100))
    machine.feed(assigned(1, engine("a", memory=60, order=1), engine("b", memory=60, order=2)))
    machine.make_ready("a")
    status = runner_status(machine.state, "pod")
    assert [each.state for each in status.engines] == [EngineState.READY, EngineState.FAILED]
    assert status.engines[1].error and status.engines[1].error.reason is Reason.NEVER_FITS
    assert "b: needs 60 bytes of memory beside 60 bytes of other engines, the limit is 100" in status.error


def test_an_engine_waits_until_the_memory_of_its_predecessor_is_free() -> None:
    machine = Machine(Limits(memory_bytes=100))
    machine.feed(assigned(1, engine("old", memory=100)))
    machine.make_ready("old")
    machine.feed(assigned(2, engine("new", memory=100)))
    machine.feed(events.Drained("old", 1))
    assert not any(isinstance(each, events.Start) and each.engine.id == "new" for each in machine.actions)
    machine.feed(events.Exited("old", 1, CRASH))
    assert isinstance(machine.actions[-1], events.Start)


@pytest.mark.parametrize(("engine_type", "refused"), [(EngineType.VLLM, True), (EngineType.SIMULATED, False)])
def test_only_a_simulated_engine_needs_no_device_for_its_gpu(engine_type: EngineType, refused: bool) -> None:
    spec = EngineSpec(type=engine_type, uri="file:///m", served_names=("m",))
    on_gpu = EngineAssignment(id="m", model="m", model_uid="u", hash="h", gpus=(0,), engine=spec)
    machine = Machine(Limits(gpus=0))
    machine.feed(assigned(1, on_gpu))
    assert (machine.engine_state("m") is EngineState.FAILED) == refused


def test_termination_drains_everything_then_finishes() -> None:
    machine = Machine()
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    machine.feed(events.Terminate())
    assert runner_status(machine.state, "pod").draining
    machine.feed(assigned(2, engine("m"), engine("another")), events.Drained("m", 1))
    assert machine.feed(events.Exited("m", 1, CRASH)) == (events.Finish(),)
    assert not any(isinstance(each, events.Start) and each.engine.id == "another" for each in machine.actions)


def test_stages_are_measured_one_after_the_other() -> None:
    machine = Machine()
    machine.state = State(limits=Limits(), born=99.5)
    machine.feed(assigned(1, engine("m")))
    machine.after(2, events.Progressed("m", 1, Stage.ENGINE_FORKED))
    machine.after(1, events.Progressed("m", 1, Stage.WEIGHTS_LOADED))
    assert runner_status(machine.state, "pod").engines[0].stage is Stage.CACHE_ALLOCATED
    machine.after(0.25, events.WarmedUp("m", 1, 20))
    status = runner_status(machine.state, "pod").engines[0]
    assert [(each.name.value, each.milliseconds) for each in status.stages] == [
        ("RunnerReady", 500),
        ("EngineForked", 2000),
        ("WeightsLoaded", 1000),
        ("WarmedUp", 250),
    ]
    assert status.first_request_milliseconds == 20


def test_the_startup_probe_waits_for_the_first_ready_but_not_beyond_the_budget() -> None:
    machine = Machine()
    machine.state = State(limits=Limits(), born=100)
    assert not is_startup_over(machine.state, 100), "nothing assigned yet"
    machine.feed(assigned(1, engine("m")))
    assert not is_startup_over(machine.state, 130)
    assert is_startup_over(machine.state, 145), "from here on the state machine alone judges the start"
    machine.make_ready("m")
    machine.feed(events.Exited("m", 1, CRASH))
    assert is_startup_over(machine.state, 131), "it was Ready once"
