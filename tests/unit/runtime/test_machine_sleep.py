"""The state machine, event by event: sleep and wake, the wait for the zygote, memory outgrown, starts recorded."""

import msgspec
import pytest

from support.machine import CRASH, Machine, assigned, engine
from warmfleet_api.assignment import EngineAssignment, EngineSpec
from warmfleet_api.runner_status import KEPT_STARTS
from warmfleet_api.vocabulary import DesiredState, EngineState, EngineType, Launch, Stage, StartType, WakePolicy
from warmfleet_runtime.link import table_of
from warmfleet_runtime.machine import events
from warmfleet_runtime.machine.state import Limits, Phase, State, start_key
from warmfleet_runtime.machine.view import can_take_engines, is_startup_over, runner_status

LIMITS = Limits(memory_bytes=100, drain_seconds=30, stop_seconds=10, sleepers=frozenset({EngineType.SIMULATED}))


def ordered(content: EngineAssignment) -> EngineAssignment:
    return msgspec.structs.replace(content, state=DesiredState.ASLEEP)


def when_idle(content: EngineAssignment, idle_seconds: int = 10) -> EngineAssignment:
    return msgspec.structs.replace(
        content, state=DesiredState.ASLEEP, wake=WakePolicy.ON_REQUEST, idle_seconds=idle_seconds
    )


def in_place(content: EngineAssignment, kind: EngineType) -> EngineAssignment:
    return msgspec.structs.replace(content, engine=msgspec.structs.replace(content.engine, type=kind))


@pytest.fixture
def machine() -> Machine:
    return Machine(LIMITS)


def put_to_sleep(machine: Machine, content: EngineAssignment, revision: int = 2) -> None:
    """Bring a Ready engine to sleep by an order."""
    name = content.id
    machine.feed(assigned(revision, ordered(content)))
    machine.feed(events.Drained(name, machine.attempt(name)), events.FellAsleep(name, machine.attempt(name)))
    assert machine.engine_state(name) is EngineState.ASLEEP


def route(machine: Machine, name: str) -> dict[str, bool]:
    table = table_of(machine.state, runner_status(machine.state, ""), str, machine.now, max_sequences=lambda _: 0)
    told = msgspec.structs.asdict(table.routes[name])
    return {key: value for key, value in told.items() if value is True}


def test_an_order_drains_before_it_sleeps_and_a_new_one_wakes_the_same_process(machine: Machine) -> None:
    content = engine("m", memory=80)
    machine.feed(assigned(1, content))
    machine.make_ready("m")
    assert machine.feed(assigned(2, ordered(content))) == ()
    assert (machine.engine_state("m"), route(machine, "m")) == (EngineState.DRAINING, {"drains": True})
    assert machine.feed(events.Drained("m", 1)) == (events.Sleep("m", 1),)
    assert (machine.engine_state("m"), route(machine, "m")) == (EngineState.DRAINING, {"sleeps": True})
    machine.feed(events.FellAsleep("m", 1))
    assert (machine.engine_state("m"), route(machine, "m")) == (EngineState.ASLEEP, {})
    assert machine.feed(assigned(3, content)) == (events.Wake("m", 2),)
    assert machine.engine_state("m") is EngineState.STARTING
    assert route(machine, "m") == {"wakes": True, "wakes_on_request": True}
    machine.after(0.5, events.Woken("m", 2, 40))
    assert route(machine, "m") == {"warms_up": True, "wakes_on_request": True}
    machine.after(0.25, events.WarmedUp("m", 2, 7, 60))
    status = runner_status(machine.state, "").engines[0]
    assert (status.state, status.start_type, status.starts) == (EngineState.READY, StartType.HOT, 2)
    assert [(each.name, each.milliseconds, each.cpu_milliseconds) for each in status.stages] == [
        (Stage.WEIGHTS_LOADED, 500, 40),
        (Stage.WARMED_UP, 250, 20),
    ]


def test_requests_that_do_not_end_delay_an_ordered_sleep_for_the_drain_only(machine: Machine) -> None:
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    machine.feed(assigned(2, ordered(engine("m"))))
    assert machine.after(29) == ()
    assert machine.after(2) == (events.Sleep("m", 1),)


def test_an_order_that_is_taken_back_while_it_drains_costs_nothing(machine: Machine) -> None:
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    machine.feed(assigned(2, ordered(engine("m"))), assigned(3, engine("m")))
    assert (machine.engine_state("m"), machine.attempt("m")) == (EngineState.READY, 1)


def test_what_falls_asleep_is_woken_only_once_it_sleeps(machine: Machine) -> None:
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    machine.feed(assigned(2, ordered(engine("m"))), events.Drained("m", 1))
    assert machine.feed(assigned(3, engine("m"))) == ()
    assert machine.feed(events.FellAsleep("m", 1)) == (events.Wake("m", 2),)


def test_an_idle_engine_sleeps_by_itself_and_a_busy_one_vetoes(machine: Machine) -> None:
    machine.feed(assigned(1, when_idle(engine("m"))))
    machine.make_ready("m")
    assert machine.feed(events.Heard("m", 1, busy=False, wake_requested=False)) == (), "it has just become Ready"
    assert machine.after(5, events.Heard("m", 1, busy=True, wake_requested=False)) == ()
    assert machine.after(60) == ()
    assert machine.feed(events.Heard("m", 1, busy=False, wake_requested=False)) == (events.Sleep("m", 1),)
    assert route(machine, "m") == {"sleeps": True, "wakes_on_request": True}


def test_a_request_wakes_a_sleeper_without_an_assignment_and_its_memory_is_still_there(machine: Machine) -> None:
    sleeper = when_idle(engine("m", memory=80))
    machine.feed(assigned(1, sleeper))
    machine.make_ready("m")
    machine.after(11, events.Heard("m", 1, busy=False, wake_requested=False), events.FellAsleep("m", 1))
    machine.feed(assigned(2, sleeper, engine("other", memory=30, order=1)))
    assert machine.engine_state("other") is EngineState.FAILED, "the sleeper's memory is not to be had"
    assert machine.feed(events.Heard("m", 1, busy=True, wake_requested=True)) == (events.Wake("m", 2),)


def test_an_order_gives_the_sleepers_memory_away_and_the_wake_waits_for_it(machine: Machine) -> None:
    a, b = engine("a", memory=80, asleep=10), engine("b", memory=80, asleep=10, order=1)
    machine.feed(assigned(1, a))
    machine.make_ready("a")
    put_to_sleep(machine, a)
    assert machine.feed(assigned(3, ordered(a), b))[0] == events.Start(b, 1)
    machine.make_ready("b")
    assert machine.feed(assigned(4, a, ordered(b))) == (), "b still holds what a needs"
    machine.feed(events.Drained("b", 1))
    assert machine.feed(events.FellAsleep("b", 1)) == (events.Wake("a", 2),)


def test_sleep_comes_before_a_start_that_needs_the_room(machine: Machine) -> None:
    a, b = engine("a", memory=80, asleep=10), engine("b", memory=80)
    machine.feed(assigned(1, a))
    machine.make_ready("a")
    assert machine.feed(assigned(2, ordered(a), b)) == ()
    assert machine.feed(events.Drained("a", 1)) == (events.Sleep("a", 1),)
    assert machine.feed(events.FellAsleep("a", 1)) == (events.Start(b, 1),)


def test_a_wake_does_not_wait_for_a_start_but_a_start_for_a_wake(machine: Machine) -> None:
    a, slow, next_one = engine("a", asleep=1), engine("slow", order=1), engine("z", order=2)
    machine.feed(assigned(1, a))
    machine.make_ready("a")
    put_to_sleep(machine, a)
    machine.feed(assigned(3, ordered(a), slow))
    assert machine.feed(assigned(4, a, slow, next_one)) == (events.Wake("a", 2),)
    assert machine.feed(events.Exited("slow", 1, CRASH)) == ()
    machine.feed(events.Woken("a", 2))
    assert machine.feed(events.WarmedUp("a", 2, 1)) == (events.Start(next_one, 1),)


def test_an_engine_that_can_not_sleep_in_place_is_stopped_and_started_for_a_request(machine: Machine) -> None:
    content = in_place(when_idle(engine("m")), EngineType.VLLM)
    machine.feed(assigned(1, content))
    assert machine.engine_state("m") is EngineState.ASLEEP, "without a process"
    assert is_startup_over(machine.state, machine.now)
    assert route(machine, "m") == {"wakes_on_request": True}
    assert machine.feed(events.Heard("m", 0, busy=True, wake_requested=True)) == (events.Start(content, 1),)
    machine.make_ready("m")
    assert machine.after(11, events.Heard("m", 1, busy=False, wake_requested=False)) == (
        events.Stop("m", 1, force=False),
    )
    machine.feed(events.Exited("m", 1, CRASH))
    assert (machine.engine_state("m"), machine.state.engines["m"].failed_starts) == (EngineState.ASLEEP, 0)


def test_an_engine_that_refuses_to_sleep_is_stopped_which_is_no_failed_start(machine: Machine) -> None:
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    machine.feed(assigned(2, ordered(engine("m"))), events.Drained("m", 1))
    assert machine.feed(events.SleepFailed("m", 1, "tied weights")) == (events.Stop("m", 1, force=True),)
    machine.feed(events.Exited("m", 1, CRASH))
    status = runner_status(machine.state, "").engines[0]
    assert (status.state, status.failed_starts) == (EngineState.ASLEEP, 0)
    assert status.error and "tied weights" in status.error.message
    assert isinstance(machine.feed(assigned(3, engine("m")))[0], events.Start)


def test_a_start_tells_with_what_it_began_and_a_wake_begins_with_nothing(machine: Machine) -> None:
    machine.feed(assigned(1, engine("m")), events.CompileCacheTaken("m", 1, 41))
    machine.make_ready("m")
    put_to_sleep(machine, engine("m"))
    machine.feed(assigned(3, engine("m")), events.Woken("m", 2))
    machine.make_ready("m")
    assert [start.compile_cache_files for start in machine.state.starts] == [41, 0]
    assert runner_status(machine.state, "pod").engines[0].compile_cache_files == 41


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "hangs"])
def test_a_wake_that_does_not_succeed_is_a_failed_start_and_begun_anew(machine: Machine, fails: bool) -> None:
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    put_to_sleep(machine, engine("m"))
    machine.feed(assigned(3, engine("m")))
    stops = machine.feed(events.SleepFailed("m", 2, "no weights")) if fails else machine.after(61)
    assert stops == (events.Stop("m", 2, force=True),)
    machine.feed(events.Exited("m", 2, CRASH))
    record = machine.state.starts[-1]
    assert (record.start_type, record.launch) == (StartType.HOT, None)
    assert (
        record.error and ("could not be woken" if fails else "no stage of the wake progressed") in record.error.message
    )
    assert isinstance(machine.after(1.1)[0], events.Start)


def test_a_sleeper_that_falls_asleep_for_too_long_is_stopped(machine: Machine) -> None:
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    machine.feed(assigned(2, ordered(engine("m"))), events.Drained("m", 1))
    assert machine.after(61) == (events.Stop("m", 1, force=True),)


def test_an_engine_first_assigned_asleep_is_started_for_it_only_into_memory_that_is_nobody_elses(
    machine: Machine,
) -> None:
    small, large = ordered(engine("s", memory=30, asleep=10)), ordered(engine("l", memory=60, asleep=10))
    busy = engine("busy", memory=60, order=5)
    first = machine.feed(assigned(1, small, large, busy))
    assert first == (events.Start(busy, 1),), "who shall serve comes first"
    machine.make_ready("busy")
    assert machine.attempt("s") == 1 and machine.attempt("l") == 0
    assert [machine.engine_state(name) for name in ("s", "l")] == [EngineState.STARTING, EngineState.ASLEEP]
    machine.make_ready("s")
    machine.feed(events.Drained("s", 1), events.FellAsleep("s", 1))
    machine.feed(assigned(2, small, large))
    machine.feed(events.Drained("busy", 1), events.Exited("busy", 1, CRASH))
    assert machine.attempt("l") == 1, "the memory is free now"
    actions = machine.feed(assigned(3, small, large, busy))
    assert events.Stop("l", 1, force=False) in actions, "and is wanted again"


def test_an_engine_that_outgrew_its_memory_is_killed_and_says_so(machine: Machine) -> None:
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    assert machine.feed(events.Outgrown("m", 1, "it outgrew")) == (events.Stop("m", 1, force=True),)
    machine.feed(events.Exited("m", 1, CRASH))
    status = runner_status(machine.state, "").engines[0]
    assert status.error and status.error.message == "it outgrew"
    assert machine.state.engines["m"].retry_at > machine.now


def test_a_vllm_engine_waits_for_the_zygote_and_others_do_not() -> None:
    machine = Machine(LIMITS)
    machine.state = State(limits=LIMITS, born=95.0, zygote_is_importing=True)
    spec = EngineSpec(type=EngineType.VLLM, uri="file:///m", served_names=("v",))
    forked = msgspec.structs.replace(engine("v"), engine=spec)
    assert machine.feed(assigned(1, forked, engine("s", order=1))) == (events.Start(engine("s", order=1), 1),)
    assert not can_take_engines(machine.state)
    machine.make_ready("s")
    machine.now = 105.0
    assert machine.feed(events.ZygoteChanged(is_importing=False)) == (events.Start(forked, 1),)
    assert can_take_engines(machine.state)
    machine.after(1, events.Launched("v", 1, Launch.FORK), events.WarmedUp("v", 1, 5))
    status = next(each for each in runner_status(machine.state, "").engines if each.id == "v")
    assert (status.launch, status.start_type) == (Launch.FORK, StartType.COLD)
    assert (status.stages[0].name, status.stages[0].milliseconds) == (Stage.RUNNER_READY, 10_000)


def test_a_start_that_took_the_container_down_twice_is_tried_again_late() -> None:
    machine = Machine(LIMITS)
    content = engine("m")
    machine.state = State(limits=LIMITS, born=100.0, deaths={start_key(content): 2})
    assert machine.feed(assigned(1, content)) == ()
    assert machine.engine_state("m") is EngineState.FAILED
    assert machine.after(299) == ()
    assert isinstance(machine.after(2)[0], events.Start)


def test_only_the_last_starts_are_kept_and_they_are_counted_on(machine: Machine) -> None:
    machine.state = State(limits=LIMITS, clock_offset_seconds=1_700_000_000.0)
    content = engine("m")
    machine.feed(assigned(1, content))
    machine.make_ready("m")
    for revision in range(2, 2 * KEPT_STARTS + 10, 2):
        put_to_sleep(machine, content, revision)
        machine.feed(assigned(revision + 1, content))
        machine.feed(events.Woken("m", machine.attempt("m")))
        machine.make_ready("m")
    machine.feed(events.Measured({"m": 77}))
    starts = machine.state.starts
    assert [starts[0].sequence, len(starts)] == [starts[-1].sequence - KEPT_STARTS + 1, KEPT_STARTS]
    assert (starts[-1].memory_bytes, starts[-2].memory_bytes) == (77, 0)
    assert starts[-1].ended_time == "2023-11-14T22:15:00.000Z"


def test_memory_is_kept_as_measured_awake_and_asleep(machine: Machine) -> None:
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    machine.feed(events.Measured({"m": 50}))
    put_to_sleep(machine, engine("m"))
    machine.feed(events.Measured({"m": 5}))
    status = runner_status(machine.state, "").engines[0]
    assert (status.awake_memory_bytes, status.asleep_memory_bytes) == (50, 5)


def test_a_sleeper_that_dies_is_started_and_put_to_sleep_again(machine: Machine) -> None:
    machine.feed(assigned(1, engine("m")))
    machine.make_ready("m")
    put_to_sleep(machine, engine("m"))
    machine.feed(events.Exited("m", 1, CRASH))
    assert machine.state.engines["m"].phase is Phase.QUEUED
    assert isinstance(machine.after(1.1)[0], events.Start)
