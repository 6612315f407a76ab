"""In which order the writes of a round are made."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import make
from warmfleet_api import assignment, names
from warmfleet_api.vocabulary import EngineState, Priority
from warmfleet_operator.decide.actions import Action, CreateRunner, DeleteRunner, PatchRunner
from warmfleet_operator.decide.assign import assignment_of, pooled_engine, whole
from warmfleet_operator.decide.write_order import rank_of, turns

POOL = make.pool()
PROTECTED = names.LABEL_PROTECTED
CLASSES = list(Priority)


def patch(number: int, starts: Priority | None = None, protected: str | None = "", **labels: str | None) -> PatchRunner:
    """Change a runner of the pool: start a model of a class there, set or remove its protecting label, others."""
    runner = make.up(make.pool_runner(POOL, "a", slot=number))
    told = None
    if starts is not None:
        model = make.model(f"m-{number}", pools=["pool"], priority=starts)
        told = whole(2, [pooled_engine(model, 0, 1, range(0))], ())
    kept = {PROTECTED: protected} if protected != "" else {}
    return PatchRunner(runner.pod, told, {**labels, **kept}, "why")


def written(actions: Sequence[Action]) -> list[list[tuple[str, dict[str, str | None]]]]:
    """Name and labels of what is written at once, turn after turn."""
    return [
        [(each.pod.metadata.name, dict(each.labels)) for each in turn if isinstance(each, PatchRunner)]
        for turn in turns(actions)
    ]


def test_a_higher_class_is_started_before_a_lower_one_and_what_starts_nothing_before_both() -> None:
    low, high, label = patch(0, Priority.LOW), patch(1, Priority.HIGH), patch(2, lost="yes")
    assert written([low, high, label]) == [[("pool-2-1", {"lost": "yes"})], [("pool-1-1", {})], [("pool-0-1", {})]]


def serving(number: int, priority: Priority, state: str, starts: Priority | None = None) -> PatchRunner:
    """Say what a model of a class does in a runner that was told to serve it, and perhaps start another there."""
    model = make.model(f"m-{number}", pools=["pool"], priority=priority)
    runner = make.hosting(make.pool_runner(POOL, "a", slot=number), model)
    told = None
    if starts is not None and runner.assignment is not None:
        other = make.model(f"n-{number}", pools=["pool"], priority=starts)
        told = whole(3, [*runner.assignment.engines, pooled_engine(other, 0, 1, range(0))], ())
    return PatchRunner(runner.pod, told, {names.serve_label(model.key.name): state}, "why")


def order(*actions: Action) -> list[list[str]]:
    return [[name for name, _ in turn] for turn in written(actions)]


def test_clients_hear_of_the_ready_engines_of_a_higher_class_first() -> None:
    low, high = serving(0, Priority.LOW, EngineState.READY), serving(1, Priority.HIGH, EngineState.READY)
    starts = patch(2, Priority.NORMAL)
    assert order(low, starts, high) == [["pool-1-1"], ["pool-2-1"], ["pool-0-1"]]


def test_a_start_keeps_its_turn_where_its_runner_says_of_a_higher_class_that_it_is_ready() -> None:
    low, normal = serving(0, Priority.HIGH, EngineState.READY, starts=Priority.LOW), patch(1, Priority.NORMAL)
    assert order(low, normal) == [["pool-1-1"], ["pool-0-1"]]


@pytest.mark.parametrize("state", [EngineState.DRAINING, names.SERVE_LOST])
def test_clients_hear_of_what_serves_no_more_before_all_whatever_its_class(state: str) -> None:
    low, high = serving(0, Priority.LOW, state), serving(1, Priority.HIGH, EngineState.READY)
    assert order(high, low) == [["pool-0-1"], ["pool-1-1"]]


def test_a_lower_class_that_starts_where_a_label_begins_to_protect_is_not_before_a_higher_one() -> None:
    low, high = patch(0, Priority.LOW, "true"), patch(1, Priority.HIGH)
    assert [[name for name, _ in turn] for turn in written([low, high])] == [["pool-1-1"], ["pool-0-1"]]


def test_a_label_that_protects_stands_before_another_runner_loses_its_own() -> None:
    protects, unprotects = patch(0, protected="true"), patch(1, protected=None)
    assert written([unprotects, protects]) == [[("pool-0-1", {PROTECTED: "true"})], [("pool-1-1", {PROTECTED: None})]]


def test_clients_hear_of_a_lost_runner_first_and_it_is_unprotected_last() -> None:
    lost, low = patch(0, protected=None, serves="Lost"), patch(1, Priority.LOW, "true")
    assert written([lost, low]) == [
        [("pool-0-1", {"serves": "Lost"})],
        [("pool-1-1", {PROTECTED: "true"})],
        [("pool-0-1", {PROTECTED: None})],
    ]


def test_what_is_written_apart_tests_what_the_first_part_wrote() -> None:
    started, low = patch(0, Priority.HIGH, None), patch(1, Priority.LOW, "true")
    *_, (last,) = turns([started, low])
    assert isinstance(last, PatchRunner) and started.assignment is not None
    assert last.pod.metadata.annotations[names.ANNOTATION_ASSIGNMENT] == assignment.encode(started.assignment)


def test_kinds_come_in_the_order_in_which_they_were_decided() -> None:
    model, pod = make.model(), make.pool_runner(POOL, "a").pod
    create = CreateRunner(model, 0, 1, "n1", assignment_of(model, 1), 60, "starts")
    delete = DeleteRunner(pod, "gone")
    label = patch(0, lost="yes")
    assert list(turns([label, delete, create])) == [[label], [delete], [create]]


_starts = st.one_of(st.none(), st.sampled_from(CLASSES))
_patches = st.lists(st.tuples(_starts, st.sampled_from(["true", "", None]), st.booleans()), max_size=6)


@given(_patches)
def test_whatever_is_decided_is_written_whole_in_class_order_with_protection_first(
    drawn: list[tuple[Priority | None, str | None, bool]],
) -> None:
    actions = [
        patch(number, starts, protected, **({"serves": "Lost"} if is_lost else {}))
        for number, (starts, protected, is_lost) in enumerate(drawn)
    ]
    actions = [each for each in actions if each.labels or each.assignment is not None]
    wrote = [each for turn in turns(actions) for each in turn if isinstance(each, PatchRunner)]
    by_name = {each.pod.metadata.name: each for each in actions}
    for name, action in by_name.items():
        parts = [each for each in wrote if each.pod.metadata.name == name]
        assert {label: value for each in parts for label, value in each.labels.items()} == dict(action.labels)
        assert [each.assignment for each in parts if each.assignment is not None] == (
            [action.assignment] if action.assignment is not None else []
        )
    ranks = [rank_of(each) for each in wrote if each.assignment is not None]
    assert ranks == sorted(ranks)
    labels = [each.labels.get(PROTECTED, "") for each in wrote]
    if None in labels and "true" in labels:
        assert labels.index(None) > len(labels) - 1 - labels[::-1].index("true")
