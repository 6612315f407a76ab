"""Nodes that Kubernetes still takes for Ready and that answer nobody: nothing new goes there."""

from dataclasses import replace

from support import make
from warmfleet_api.vocabulary import Reason
from warmfleet_operator.decide.actions import CreateRunner, Decisions
from warmfleet_operator.decide.fleet import Runner
from warmfleet_operator.decide.schedule import schedule


def gone(runner: Runner) -> Runner:
    return replace(make.silent(runner), is_gone=True)


def serving(name: str, on: str) -> tuple[object, Runner]:
    model = make.model(name)
    return model, make.serving(make.runner(model, on))


def decide(*parts: object) -> Decisions:
    return schedule(make.fleet(*parts), make.NOW)  # type: ignore[arg-type]


def created(decisions: Decisions) -> dict[str, str]:
    return {each.owner.key.name: each.node for each in decisions.actions if isinstance(each, CreateRunner)}


def test_nothing_new_goes_to_a_node_whose_runners_answer_nobody() -> None:
    model, runner = serving("m", "a")
    decisions = decide(make.node("a"), model, gone(runner), make.model("new"))
    assert created(decisions) == {}
    waiting = decisions.waiting[make.model("new").key]
    assert waiting.reason is Reason.NO_MATCHING_NODE
    assert waiting.blocker.endswith("only on a, cordoned, not Ready or out of reach now")


def test_a_runner_that_is_only_silent_does_not_close_its_node() -> None:
    model, runner = serving("m", "a")
    assert created(decide(make.node("a"), model, make.silent(runner), make.model("new")))["new"] == "a"


def test_a_node_where_anybody_is_heard_is_there() -> None:
    (one, lost), (other, there) = serving("one", "a"), serving("other", "a")
    assert created(decide(make.node("a"), one, gone(lost), other, there, make.model("new")))["new"] == "a"


def test_a_runner_that_is_being_deleted_says_nothing_of_its_node() -> None:
    model, runner = serving("m", "a")
    assert created(decide(make.node("a"), model, make.terminating(gone(runner)), make.model("new")))["new"] == "a"


def test_a_zone_is_lost_when_several_of_its_nodes_are_and_none_speaks() -> None:
    nodes = [make.node(name, zone=name[0]) for name in ("a1", "a2", "a3", "b1")]
    (one, first), (two, second) = serving("one", "a1"), serving("two", "a2")
    assert set(created(decide(*nodes, one, gone(first), two, gone(second), make.model("new"))).values()) == {"b1"}


def test_one_lost_node_is_no_lost_zone() -> None:
    model, runner = serving("m", "a1")
    assert created(decide(make.node("a1", zone="a"), make.node("a2", zone="a"), model, gone(runner))) == {"m": "a2"}


def test_a_zone_of_which_one_node_speaks_is_there() -> None:
    nodes = [make.node(name, zone="a") for name in ("a1", "a2", "a3", "a4")]
    (one, first), (two, second), (three, third) = (serving(f"m-{name}", name) for name in ("a1", "a2", "a3"))
    found = created(decide(*nodes, one, gone(first), two, gone(second), three, third))
    assert set(found) == {"m-a1", "m-a2"}
    assert set(found.values()) <= {"a3", "a4"}


def test_nodes_without_a_zone_are_no_zone() -> None:
    nodes = [make.node(name) for name in ("n1", "n2", "n3")]
    (one, first), (two, second) = serving("one", "n1"), serving("two", "n2")
    assert set(created(decide(*nodes, one, gone(first), two, gone(second))).values()) == {"n3"}
