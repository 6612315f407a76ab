"""What the audit log is read for: the controls that show an inversion and a double booking would be seen."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from localcluster.audit import Request
from support.storm import Booking, Wish, bookings, double_bookings, empty_seconds, given, inversions, labels, mixed
from warmfleet_api import names
from warmfleet_api.assignment import Assignment, EngineAssignment, EngineSpec, encode
from warmfleet_api.vocabulary import DesiredState, EngineType, Priority

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def engine(model: str, *gpus: int, state: DesiredState = DesiredState.READY) -> EngineAssignment:
    spec = EngineSpec(type=EngineType.SIMULATED, uri="hf://x/y", served_names=(model,))
    return EngineAssignment(
        id=f"{model}-0-1", model=model, model_uid="u", hash="h", gpus=gpus, state=state, engine=spec
    )


def told(seconds: float, runner: str, *engines: EngineAssignment) -> Booking:
    return Booking(at(seconds), runner, Assignment(version=1, revision=1, engines=engines))


def wishes(**classes: Priority) -> dict[str, Wish]:
    return {model: Wish(priority, BEGIN) for model, priority in classes.items()}


def test_a_model_that_moves_and_returns_was_given_a_place_twice() -> None:
    history = [
        told(1, "r2", engine("m", 0)),
        told(2, "r1"),
        told(3, "r1", engine("m", 0)),
        told(4, "r1", engine("m", 1)),
    ]
    assert given(history, {"r1": {"m"}}) == {"m": 2}
    assert given(history[:2], {"r1": {"m"}, "r2": {"m"}}) == {}


def test_a_start_before_a_higher_class_is_seen_as_an_inversion() -> None:
    history = [told(1, "r1", engine("low", 0)), told(2, "r1"), told(3, "r1", engine("high", 0))]
    found = inversions(history, wishes(low=Priority.LOW, high=Priority.HIGH))
    assert found == ["low (Low) before high (High) by 2.000 s"]
    assert inversions(history[::-1], wishes(low=Priority.LOW, high=Priority.HIGH)) != []


def test_who_comes_with_a_higher_class_in_one_write_keeps_nobody_waiting() -> None:
    both = told(1, "r1", engine("high", 0), engine("low", 1))
    classes = {"low": Priority.LOW, "high": Priority.HIGH, "other": Priority.HIGH}
    assert inversions([both, told(2, "r2", engine("other", 0))], wishes(**classes)) == []
    assert inversions([both, told(2, "r2", engine("other", 0))], wishes(low=Priority.LOW, other=Priority.HIGH)) != []
    alone = [told(1, "r1", engine("high", 0)), told(2, "r1", engine("high", 0), engine("low", 1))]
    assert inversions([*alone, told(3, "r2", engine("other", 0))], wishes(**classes)) != []


def test_a_start_that_never_came_counts_as_overtaken_too() -> None:
    assert inversions([told(1, "r1", engine("low", 0))], wishes(low=Priority.LOW, high=Priority.HIGH))


def test_strict_order_has_no_inversions() -> None:
    history = [told(1, "r1", engine("high", 0)), told(2, "r2", engine("low", 0))]
    assert inversions(history, wishes(low=Priority.LOW, high=Priority.HIGH)) == []


def test_a_gpu_given_twice_is_seen() -> None:
    assert double_bookings([told(1, "r1", engine("a", 0), engine("b", 0))]) == ["GPU 0 of r1 to a and b"]


def test_a_model_in_two_runners_at_once_is_seen() -> None:
    found = double_bookings([told(1, "r1", engine("a", 0)), told(2, "r2", engine("a", 0))])
    assert found == ["a in r1 and r2"]


def test_a_sleeper_shares_its_gpu_and_one_after_the_other_is_no_double_booking() -> None:
    sleeper = engine("a", 0, state=DesiredState.ASLEEP)
    assert double_bookings([told(1, "r1", sleeper, engine("b", 0)), told(2, "r1"), told(3, "r1", engine("c", 0))]) == []


def test_the_time_without_an_engine_is_measured_per_runner() -> None:
    history = [
        told(0, "r1", engine("a", 0)),
        told(1, "r1"),
        told(1.5, "r2"),
        told(2, "r1"),
        told(4, "r1", engine("b", 0)),
        told(4.5, "r2", engine("c", 0)),
        told(5, "r2"),
        told(5.5, "r2", engine("d", 0)),
    ]
    assert empty_seconds(history) == [3.0, 0.5]


def request(verb: str, body: Any, *, name: str = "r1", code: int = 200) -> Request:
    return Request(
        time=BEGIN,
        verb=verb,
        resource="pods",
        subresource="",
        namespace="ns",
        name=name,
        user="u",
        user_agent="a",
        code=code,
        path="/",
        body=msgspec.json.encode(body),
    )


def test_bookings_are_read_from_creations_and_patches_that_succeeded() -> None:
    value = encode(Assignment(version=1, revision=7, engines=(engine("a", 0),)))
    path = "/metadata/annotations/" + names.ANNOTATION_ASSIGNMENT.replace("/", "~1")
    pod = {"metadata": {"name": "r0", "annotations": {names.ANNOTATION_ASSIGNMENT: value}}}
    patch = [{"op": "test", "path": path, "value": "former"}, {"op": "add", "path": path, "value": value}]
    labels_only = [{"op": "add", "path": "/metadata/labels/x", "value": "y"}]
    found = bookings(
        [
            request("create", pod, name=""),
            request("patch", patch),
            request("patch", patch, code=422),
            request("patch", labels_only),
            request("patch", {"metadata": {}}),
        ],
        "ns",
    )
    assert [(each.runner, each.awake) for each in found] == [("r0", {"a": (0,)}), ("r1", {"a": (0,)})]
    assert bookings([request("patch", patch)], "other") == []


def test_an_unanswered_write_counts_where_a_later_one_was_made_on_it() -> None:
    path = "/metadata/annotations/warmfleet.dev~1assignment"
    first, second = (encode(Assignment(version=1, revision=revision, engines=(engine("m", 0),))) for revision in (1, 2))
    unanswered = request("patch", [{"op": "add", "path": path, "value": first}], code=504)
    on_it = [{"op": "test", "path": path, "value": first}, {"op": "add", "path": path, "value": second}]
    assert [each.assignment.revision for each in bookings([unanswered, request("patch", on_it)], "ns")] == [1, 2]
    assert bookings([unanswered], "ns") == []
    assert [each.runner for each in bookings([unanswered, request("patch", on_it, name="r2")], "ns")] == ["r2"]
    assert bookings([unanswered, request("patch", on_it, code=409)], "ns") == []
    again = request("patch", [{"op": "add", "path": path, "value": first}])
    assert [each.assignment.revision for each in bookings([unanswered, again, request("patch", on_it)], "ns")] == [1, 2]


def test_what_labels_say_of_models_is_read_from_patches_that_succeeded() -> None:
    path = "/metadata/labels/serve.warmfleet.dev~1a"
    found = labels(
        [
            request("patch", [{"op": "add", "path": path, "value": "Ready"}]),
            request("patch", [{"op": "remove", "path": path}]),
            request("patch", [{"op": "add", "path": path, "value": "Lost"}], code=422),
            request("patch", [{"op": "add", "path": "/metadata/labels/x", "value": "y"}]),
            request("patch", {"metadata": {"labels": {"x": "y"}}}),
        ],
        "ns",
    )
    assert [(each.runner, each.model, each.state) for each in found] == [("r1", "a", "Ready")]


def test_the_models_of_a_storm_are_of_all_classes_in_no_order_of_theirs() -> None:
    models = mixed(100)
    ranks = [priority.rank for priority in models.values()]
    assert len(models) == 100
    assert set(ranks) == {0, 1, 2, 3}
    assert ranks != sorted(ranks)
