"""What the command `warmfleet` shows of the answers of operator and API server."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from warmfleet_api.operator_api import (
    CachedEntry,
    EngineEntry,
    FleetAnswer,
    NodeEntry,
    PendingEntry,
    QueueAnswer,
    RunnerEntry,
    TierUse,
    WakeAnswer,
)
from warmfleet_api.runner_status import StageTime
from warmfleet_api.vocabulary import EngineState, EntryState, Priority, Reason, Stage, StartType, Tier
from warmfleet_cli import explain, fleet_map, queue, starts, wake, words
from warmfleet_cli.access import ModelObject
from warmfleet_kube.objects import Metadata

GIB = 1024**3


def shown(picture: RenderableType, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(picture)
    return capture.get()


def waiting(model: str, position: int, **changes: Any) -> PendingEntry:
    entry = PendingEntry(
        namespace="default",
        model=model,
        priority=Priority.NORMAL,
        position=position,
        of=3,
        start_type=StartType.WARM,
        stage=Stage.QUEUED,
        reason=Reason.NO_FREE_MEMORY,
        blocker="needs 2.0 GiB memory, at most 1.0 GiB free in default-0-1",
        place="default-0-1",
        waited_seconds=12.0,
        ready_seconds=75.0,
        forecast="room in 70 s, then 5.0 s Warm on n1",
    )
    return msgspec.structs.replace(entry, **changes)


def engine(model: str, state: EngineState, reserved_bytes: int, **changes: Any) -> EngineEntry:
    entry = EngineEntry(id=f"{model}-0-1", model=model, state=state, desired="Ready", reserved_bytes=reserved_bytes)
    return msgspec.structs.replace(entry, **changes)


def fleet(*engines: EngineEntry, gpus: int = 0) -> FleetAnswer:
    runner = RunnerEntry(
        namespace="default", name="default-0-1", pool="default", gpus=gpus, memory_bytes=4 * GIB, engines=engines
    )
    node = NodeEntry(
        name="n1",
        ready=True,
        memory_bytes=16 * GIB,
        memory_used_bytes=5 * GIB,
        runners=(runner,),
        tiers=(TierUse(tier=Tier.MEMORY, capacity_bytes=8 * GIB, used_bytes=GIB),),
        cached=(CachedEntry(key="abc", tier=Tier.MEMORY, state=EntryState.PRESENT, bytes=GIB),),
    )
    empty = NodeEntry(name="n2", ready=True, memory_bytes=16 * GIB)
    return FleetAnswer(time="2026-01-01T00:00:00Z", fragmentation=0.25, nodes=(node, empty))


def model(**status: Any) -> ModelObject:
    spec = {"model": {"uri": "hf://org/b"}, "priority": "Low"}
    return ModelObject(metadata=Metadata(name="b", namespace="default"), spec=spec, status=status)


def test_the_queue_says_of_each_start_when_it_will_be_ready_and_why_it_waits() -> None:
    under_way = waiting("c", 0, reason=None, stage=Stage.WEIGHTS_LOADED, blocker="", forecast="2.0 s left", of=0)
    answer = QueueAnswer(time="now", starts=(waiting("a", 1), waiting("b", 2, ready_seconds=None), under_way))
    text = shown(queue.picture(answer))
    assert "default/a" in text
    assert "1 m 15 s" in text
    assert "NoFreeMemory: needs 2.0 GiB memory" in text
    assert "WeightsLoaded" in text
    assert "2 wait, 1 under way" in text


def test_a_deadline_that_will_be_missed_is_said_with_the_delay() -> None:
    late = waiting("a", 1, deadline_seconds=5.0, misses_deadline_seconds=70.0)
    assert "in 5.0 s, 1 m 10 s late" in shown(queue.picture(QueueAnswer(time="now", starts=(late,))))


def test_an_empty_queue_says_so() -> None:
    assert "nothing waits" in shown(queue.picture(QueueAnswer(time="now")))


def test_the_map_shows_what_engines_reserve_and_what_is_free() -> None:
    answer = fleet(engine("a", EngineState.READY, 2 * GIB, running=3), engine("b", EngineState.ASLEEP, GIB))
    text = shown(fleet_map.picture(fleet_map.narrowed(answer, node="", everything=False), hidden=1))
    assert "default/default-0-1 (pool default)" in text
    assert "a 2.0 GiB 3+0" in text
    assert "1.0 GiB no" in text
    assert "weights in memory: abc" in text
    assert "1 nodes without runners and weights left out" in text
    assert "n2" not in text


def test_the_map_shows_sleepers_beside_the_engine_that_is_awake_on_a_gpu() -> None:
    answer = fleet(
        engine("a", EngineState.READY, GIB, gpus=(0,)), engine("b", EngineState.ASLEEP, GIB, gpus=(0,)), gpus=2
    )
    text = shown(fleet_map.picture(answer))
    assert "0:a" in text
    assert "+1z" in text
    assert "1:free" in text


def last_start(**changes: Any) -> dict[str, Any]:
    stages = [{"name": "Queued", "milliseconds": 1000}, {"name": "WeightsLoaded", "milliseconds": 3000}]
    return {
        "startType": "Warm",
        "result": "Succeeded",
        "durationMilliseconds": 3000,
        "time": "2026-01-01T00:00:00Z",
        "node": "n1",
        "stages": stages,
        "summary": "3.0 s Warm on n1",
        **changes,
    }


def test_a_start_in_full_is_a_waterfall_of_its_stages() -> None:
    line = starts.line_of(model(lastStart=last_start()))
    assert line is not None
    assert [stage.start_milliseconds for stage in line.stages] == [0, 1000]
    text = shown(starts.picture([line], in_full=True))
    queued, loaded = (next(each for each in text.splitlines() if name in each) for name in ("Queued", "WeightsLoaded "))
    assert queued.index("█") < loaded.index("█")


def test_a_start_that_failed_shows_its_error() -> None:
    line = starts.line_of(model(lastStart=last_start(result="Failed", error="EngineCrashing: it exited with 1")))
    assert line is not None
    assert "EngineCrashing: it exited with 1" in shown(starts.picture([line], in_full=True))


def test_a_model_that_never_started_has_no_line() -> None:
    assert starts.line_of(model()) is None
    assert "warmfleet queue" in shown(starts.picture([], in_full=False))


def test_explain_names_who_is_before_a_model_and_when_it_will_be_ready() -> None:
    answer = QueueAnswer(time="now", starts=(waiting("a", 1), waiting("b", 2), waiting("c", 3)))
    explanation = explain.explain(model(), answer, fleet())
    assert explanation.before == ("1. default/a (Normal), ready in 1 m 15 s",)
    assert ("ready in", "1 m 15 s: room in 70 s, then 5.0 s Warm on n1") in explanation.facts


def test_explain_gives_the_advice_of_conditions_that_ask_a_person() -> None:
    conditions = [
        {"type": "Ready", "status": "False", "reason": "NoEngine", "message": "nothing runs"},
        {"type": "Stalled", "status": "True", "reason": "SecretMissing", "message": "create secret hf"},
    ]
    explanation = explain.explain(model(conditions=conditions), QueueAnswer(time="now"), fleet())
    assert explanation.advice == ("Stalled/SecretMissing: create secret hf",)
    assert "create secret hf" in shown(explain.picture(explanation))


def test_explain_says_since_when_and_why_a_model_sleeps_and_where() -> None:
    sleeper = engine("b", EngineState.ASLEEP, GIB)
    dormant = {"time": "2026-01-01T00:00:00Z", "reason": "no request for 300 s"}
    explanation = explain.explain(model(dormant=dormant), QueueAnswer(time="now"), fleet(sleeper))
    facts = dict(explanation.facts)
    assert "no request for 300 s" in facts["asleep"]
    assert facts["engine"].startswith("b-0-1: Asleep in default-0-1 on n1")


def test_explain_tells_who_could_take_over_and_what_is_missing() -> None:
    standby = {"mode": "Warm", "replicas": 2, "readyReplicas": 1, "nodes": ["n2", "n3"], "message": "its weights come"}
    facts = dict(explain.explain(model(standby=standby), QueueAnswer(time="now"), fleet()).facts)
    assert facts["standby"] == "Warm, 1 of 2 could take over on n2, n3: its weights come"


def test_explain_tells_the_wish_of_autoscaling_and_the_last_changes_newest_first() -> None:
    steps = [
        {"time": "2026-01-31T12:00:00Z", "fromReplicas": 0, "toReplicas": 1, "reason": "3 requests are held for it"},
        {"time": "2026-01-31T12:01:00Z", "fromReplicas": 1, "toReplicas": 3, "reason": "57.0 requests on average"},
    ]
    scaled = model(scaling={"wish": 3, "reason": "57.0 requests on average", "replicas": 3, "steps": steps})
    scaled = msgspec.structs.replace(scaled, spec={**scaled.spec, "autoscaling": {"maxReplicas": 9}})
    facts = [
        text for name, text in explain.explain(scaled, QueueAnswer(time="now"), fleet()).facts if name == "scaling"
    ]
    assert facts == [
        "1 to 9 replicas by policy Demand",
        "wish 3: 57.0 requests on average",
        "2026-01-31T12:01:00Z from 1 to 3: 57.0 requests on average",
        "2026-01-31T12:00:00Z from 0 to 1: 3 requests are held for it",
    ]


def test_a_wake_is_told_in_a_sentence() -> None:
    answer = WakeAnswer(
        namespace="default", model="a", state="Waking", start_type=StartType.HOT, ready_seconds=0.4, position=1, of=2
    )
    assert wake.sentence(answer) == "default/a: Waking (1 of 2 in the queue, Hot start, answers in 0.4 s)"


def test_what_machines_read_has_the_names_of_the_wire() -> None:
    line = starts.line_of(model(lastStart=last_start()))
    assert line is not None
    assert set(msgspec.to_builtins(line)) >= {"startType", "milliseconds", "stages", "node"}
    stage = StageTime(name=Stage.QUEUED, milliseconds=5)
    written = msgspec.json.decode(msgspec.json.encode(waiting("a", 1, stages=(stage,))))
    assert written["stages"] == [{"name": "Queued", "milliseconds": 5}]


def test_time_spans_are_short_and_exact_enough() -> None:
    spans = {0.04: "0.0 s", 9.94: "9.9 s", 9.96: "10 s", 59.6: "1 m 00 s", 3599.7: "1 h 00 m", 90_000.0: "1 d 1 h"}
    assert {value: words.seconds(value) for value in spans} == spans
    assert words.seconds(-75.0) == "-1 m 15 s"
    assert words.seconds(None) == "-"


@given(st.lists(st.floats(0, 1e12), max_size=12), st.integers(0, 60))
def test_portions_fill_the_width_and_show_whatever_has_a_size(sizes: list[float], width: int) -> None:
    result = words.portions(sizes, width)
    assert len(result) == len(sizes)
    assert min(result, default=0) >= 0
    if sum(sizes) > 0 and width:
        assert sum(result) == width if sum(size > 0 for size in sizes) <= width else width >= sum(result)
    shown_sizes = [size for size in sizes if size > 0]
    if sum(sizes) > 0 and len(shown_sizes) <= width:
        assert all(part > 0 for part, size in zip(result, sizes, strict=True) if size > 0)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 80))
def test_a_bar_has_its_width_and_is_never_invisible(start: float, length: float, width: int) -> None:
    bar = words.bar(start, start + length, start + length + 1, width)
    assert len(bar) == width
    assert bar.strip()
