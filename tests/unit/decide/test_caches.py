"""What every node is told to keep: preloads, runners' weights, questions, and what the rest is worth."""

from dataclasses import replace

import pytest

from support import make, stores
from support.stores import GIB, holders, key, seen, wants
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.status import StandbyStatus
from warmfleet_api.vocabulary import EntryState, Priority, StartType, Tier, WeightsProblem
from warmfleet_api.weight_cache import WeightCacheStatus
from warmfleet_api.weights import entry_key
from warmfleet_operator.decide.caches import LOST_AGENT_SECONDS, CachesView, Trouble, decide_caches
from warmfleet_operator.decide.caches_lines import listed

NODES = [make.node(name, zone=zone) for name, zone in (("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "b"))]
DEFAULT = stores.group()


def told(name: str, tier: Tier = Tier.MEMORY) -> WantedEntry:
    return WantedEntry(key=key(name), uri=f"hf://org/{name}", revision=stores.REVISION, tier=tier)


def test_a_model_is_kept_on_as_many_nodes_as_it_asks_for_spread_over_zones() -> None:
    plan = decide_caches(stores.view(NODES, [DEFAULT], [stores.model("m", preload=2)]), make.NOW)
    assert holders(plan, key("m")) == {"n1", "n3"}
    entry = next(each for each in plan.specs["n1"].entries if each.key == key("m"))
    assert (entry.revision, entry.uri, entry.pinned) == (stores.REVISION, "hf://org/m", False)


def test_nodes_that_have_it_already_come_first() -> None:
    caches = [stores.cache(f"n{number}", has=[seen(key("m"))] if number in {2, 4} else ()) for number in range(1, 5)]
    plan = decide_caches(stores.view(NODES, [DEFAULT], [stores.model("m", preload=2)], caches=caches), make.NOW)
    assert holders(plan, key("m")) == {"n2", "n4"}


def test_where_it_was_put_before_it_stays_though_others_have_it_meanwhile() -> None:
    caches = [
        stores.cache("n1", told=[told("m")]),
        stores.cache("n2", has=[seen(key("m"))]),
        stores.cache("n3"),
        stores.cache("n4"),
    ]
    plan = decide_caches(stores.view(NODES, [DEFAULT], [stores.model("m", preload=1)], caches=caches), make.NOW)
    assert holders(plan, key("m")) == {"n1"}
    assert wants(plan, "n2") == {key("m"): Tier.REMOTE}


def test_a_model_that_waits_for_a_runner_is_kept_on_one_node_at_least_and_none_once_it_is_stopped() -> None:
    waits = decide_caches(stores.view(NODES, [DEFAULT], [stores.model("m", replicas=1)]), make.NOW)
    assert len(holders(waits, key("m"))) == 1
    stopped = decide_caches(stores.view(NODES, [DEFAULT], [stores.model("m", replicas=0)]), make.NOW)
    assert holders(stopped, key("m")) == set()


@pytest.mark.parametrize(("mode", "tier"), [(StartType.WARM, Tier.MEMORY), (StartType.COLD, Tier.DISK)])
def test_a_standby_has_the_weights_where_it_stands_by(mode: StartType, tier: Tier) -> None:
    model = stores.model("m", replicas=1, standby={"mode": mode})
    standby = StandbyStatus(mode=mode, replicas=1, nodes=["n3"])
    model = replace(model, status=model.status.model_copy(update={"standby": standby}))
    runner = stores.reading(model, "n1")
    group = stores.group(disk={"size": "100Gi", "path": "/var/lib/warmfleet"})
    plan = decide_caches(stores.view(NODES, [group], [model], runners=[runner]), make.NOW)
    assert wants(plan, "n3") == {key("m"): tier}
    assert not wants(plan, "n4")


def test_what_a_runner_reads_is_kept_in_memory_and_shown_to_it() -> None:
    model = stores.model("m", replicas=1)
    runner = stores.reading(model, "n2")
    plan = decide_caches(stores.view(NODES, [DEFAULT], [model], runners=[runner]), make.NOW)
    assert holders(plan, key("m")) == {"n2"}
    (view,) = plan.specs["n2"].views
    assert (view.uid, view.keys) == (runner.pod.metadata.uid, [key("m")])


def test_a_node_with_a_runner_counts_among_those_that_keep_it() -> None:
    model = stores.model("m", replicas=1, preload=2)
    plan = decide_caches(stores.view(NODES, [DEFAULT], [model], runners=[stores.reading(model, "n2")]), make.NOW)
    assert holders(plan, key("m")) == {"n2", "n3"}


def test_what_runners_of_a_gone_model_read_stays_until_they_end() -> None:
    model = stores.model("m", replicas=1)
    caches = [stores.cache("n1", told=[told("m")], has=[seen(key("m"))]), stores.cache("n2")]
    runner = stores.reading(model, "n1")
    plan = decide_caches(stores.view(NODES[:2], [DEFAULT], [], caches=caches, runners=[runner]), make.NOW)
    assert wants(plan, "n1") == {key("m"): Tier.MEMORY}
    ended = decide_caches(stores.view(NODES[:2], [DEFAULT], [], caches=caches), make.NOW)
    assert wants(ended, "n1") == {}


def test_a_runner_that_lost_its_engines_is_told_so_and_one_that_never_had_any_is_not_mentioned() -> None:
    model = stores.model("m", replicas=1)
    runner = stores.reading(model, "n1")
    first = stores.view(NODES[:1], [DEFAULT], [model], runners=[runner])
    plan = decide_caches(first, make.NOW)
    emptied = replace(runner, assignment=None)
    after = stores.obeyed(first, plan)
    after = replace(after, fleet=replace(after.fleet, runners=(emptied,)))
    assert [view.keys for view in decide_caches(after, make.NOW).specs["n1"].views] == [[]]
    never = stores.view(NODES[:1], [DEFAULT], [model], runners=[emptied])
    assert decide_caches(never, make.NOW).specs["n1"].views == []


def test_what_nobody_knows_is_asked_for_on_one_node_and_always_the_same() -> None:
    model = stores.model("m", known=False, replicas=1, preload=2)
    first = stores.view(NODES, [DEFAULT], [model])
    plan = decide_caches(first, make.NOW)
    asked = entry_key("hf://org/m", "")
    assert {node: wants(plan, node) for node in plan.specs} == {
        "n1": {asked: Tier.REMOTE},
        "n2": {},
        "n3": {},
        "n4": {},
    }
    caches = [stores.cache("n1"), stores.cache("n2"), *(stores.cache(n, trouble="x") for n in ("n3", "n4"))]
    before = replace(caches[1], spec=plan.specs["n1"])
    again = decide_caches(stores.view(NODES, [DEFAULT], [model], caches=[caches[0], before, *caches[2:]]), make.NOW)
    assert holders(again, asked, Tier.REMOTE) == {"n2"}


def test_what_a_weight_cache_lists_is_asked_for_by_nobody_again() -> None:
    known = {"name": "m", "uri": "hf://org/m", "key": key("m"), "revision": stores.REVISION, "bytes": GIB}
    status = WeightCacheStatus.model_validate({"models": [known]})
    group = stores.group(models=[stores.line("m", preload=False)], status=status)
    caches = [replace(stores.cache(f"n{number}"), listed=listed(group)) for number in range(1, 5)]
    models = [stores.model("m", known=False, replicas=1), stores.model("other", known=False, replicas=1)]
    plan = decide_caches(stores.view(NODES, [group], models, caches=caches), make.NOW)
    assert not holders(plan, entry_key("hf://org/m", ""), Tier.REMOTE)
    assert holders(plan, entry_key("hf://org/other", ""), Tier.REMOTE) == {"n1"}


def test_a_node_that_is_lost_is_asked_no_more() -> None:
    model = stores.model("m", known=False, replicas=1)
    first = decide_caches(stores.view(NODES, [DEFAULT], [model]), make.NOW)
    asked = entry_key("hf://org/m", "")
    caches = [replace(stores.cache("n1"), spec=first.specs["n1"]), *(stores.cache(n) for n in ("n2", "n3", "n4"))]
    nodes = [make.node("n1", ready=False), *NODES[1:]]
    plan = decide_caches(stores.view(nodes, [DEFAULT], [model], caches=caches), make.NOW)
    assert holders(plan, asked, Tier.REMOTE) == {"n2"}


def test_a_folder_that_is_not_on_a_node_is_asked_for_on_the_next_and_not_kept_on_the_first() -> None:
    uri, roots = "file:///srv/models/m", ["/srv/models"]
    default = stores.group(fileRoots=roots)
    ask, known = entry_key(uri, ""), entry_key(uri, stores.REVISION)
    missing = seen(ask, Tier.REMOTE, problem=WeightsProblem.MODEL_NOT_FOUND, revision="", size=0)
    caches = [
        stores.cache("n1", file_roots=roots, has=[missing]),
        stores.cache("n2", file_roots=roots),
    ]
    model = stores.model("m", uri=uri, known=False, replicas=1)
    plan = decide_caches(stores.view(NODES[:2], [default], [model], caches=caches), make.NOW)
    assert holders(plan, ask, Tier.REMOTE) == {"n1", "n2"}
    gone = seen(known, Tier.REMOTE, problem=WeightsProblem.MODEL_NOT_FOUND, size=0)
    caches[0] = stores.cache("n1", file_roots=roots, has=[gone])
    model = stores.model("m", uri=uri, replicas=1)
    plan = decide_caches(stores.view(NODES[:2], [default], [model], caches=caches), make.NOW)
    assert holders(plan, known) == {"n2"}
    assert wants(plan, "n1") == {known: Tier.REMOTE}, "what a node was found not to have is remembered"


def test_a_lost_node_is_replaced_and_not_missed_when_it_comes_back() -> None:
    model = stores.model("m", preload=2)
    first = stores.view(NODES[:3], [DEFAULT], [model])
    plan = decide_caches(first, make.NOW)
    assert holders(plan, key("m")) == {"n1", "n3"}
    second = stores.obeyed(first, plan, fetched=True)
    lost = {**second.fleet.nodes, "n1": make.node("n1", ready=False, zone="a")}
    plan = decide_caches(replace(second, fleet=replace(second.fleet, nodes=lost)), make.NOW)
    assert holders(plan, key("m")) == {"n2", "n3"}
    third = stores.obeyed(second, plan, fetched=True)
    assert holders(decide_caches(third, make.NOW), key("m")) == {"n2", "n3"}


@pytest.mark.parametrize(("seconds", "kept"), [(1.0, {"n1"}), (LOST_AGENT_SECONDS + 1, {"n2"})])
def test_an_agent_that_restarts_keeps_its_entries_and_one_that_is_gone_loses_them(
    seconds: float, kept: set[str]
) -> None:
    caches = [
        stores.cache("n1", told=[told("m")], has=[seen(key("m"))], trouble="no agent runs there"),
        stores.cache("n2"),
    ]
    view = stores.view(NODES[:2], [DEFAULT], [stores.model("m", preload=1)], caches=caches)
    view = replace(view, troubles={"n1": Trouble("no agent runs there", seconds)})
    plan = decide_caches(view, make.NOW)
    assert holders(plan, key("m")) == kept
    assert plan.recheck_seconds == (pytest.approx(LOST_AGENT_SECONDS - 1) if seconds == 1 else None)


def test_a_cordoned_node_gets_nothing_new_and_keeps_nothing_for_later() -> None:
    caches = [stores.cache("n1", told=[told("m")]), stores.cache("n2")]
    nodes = [make.node("n1", cordoned_seconds=5), NODES[1]]
    plan = decide_caches(stores.view(nodes, [DEFAULT], [stores.model("m", preload=1)], caches=caches), make.NOW)
    assert holders(plan, key("m")) == {"n2"}


def test_models_that_do_not_fit_together_go_by_class_and_the_rest_to_disk() -> None:
    group = stores.group(memory="10Gi", disk={"size": "100Gi"})
    models = [
        stores.model("low", size=6 * GIB, preload=1, priority="Low", age_seconds=900),
        stores.model("high", size=8 * GIB, preload=1, priority="High", age_seconds=10),
    ]
    plan = decide_caches(
        stores.view(NODES[:1], [group], models, caches=[stores.cache("n1", memory=10 * GIB)]), make.NOW
    )
    assert wants(plan, "n1") == {key("high"): Tier.MEMORY, key("low"): Tier.DISK}


def test_preloaded_models_of_the_administrator_come_before_those_of_models_and_are_pinned_everywhere() -> None:
    asked = entry_key("hf://org/own", "")
    group = stores.group(memory="10Gi", models=[stores.line("own")])
    first = stores.view(NODES[:2], [group], [])
    plan = decide_caches(first, make.NOW)
    assert holders(plan, asked, Tier.REMOTE) == {"n1"}
    answer = seen(asked, Tier.REMOTE, EntryState.KNOWN, size=7 * GIB)
    caches = [stores.cache("n1", memory=10 * GIB, has=[answer]), stores.cache("n2", memory=10 * GIB)]
    models = [stores.model("m", size=4 * GIB, preload=2, priority="Critical")]
    plan = decide_caches(stores.view(NODES[:2], [group], models, caches=caches), make.NOW)
    assert holders(plan, key("own")) == {"n1", "n2"}
    assert all(entry.pinned for node in plan.specs for entry in plan.specs[node].entries if entry.key == key("own"))
    assert holders(plan, key("m")) == set()


def test_a_line_that_is_not_preloaded_raises_the_class_of_a_model_that_reads_the_same() -> None:
    group = stores.group(models=[stores.line("m", preload=False, priority="High")])
    plan = decide_caches(stores.view(NODES[:1], [group], [stores.model("m", preload=1, priority="Low")]), make.NOW)
    (entry,) = plan.specs["n1"].entries
    assert (entry.priority, entry.pinned) == (Priority.HIGH, False)


def test_what_else_a_node_has_is_told_its_worth_and_what_nobody_knows_is_not_mentioned() -> None:
    has = [seen(key("m")), seen(key("stranger"))]
    models = [stores.model("m", recent=[60, 600, 6000, 90_000], priority="Low")]
    plan = decide_caches(stores.view(NODES[:1], [DEFAULT], models, caches=[stores.cache("n1", has=has)]), make.NOW)
    (entry,) = plan.specs["n1"].entries
    assert (entry.key, entry.tier, entry.uses_per_day, entry.priority) == (key("m"), Tier.REMOTE, 2, Priority.LOW)


def test_all_that_a_model_reads_is_kept_together() -> None:
    sql = "hf://org/sql"
    model = stores.model("m", preload=1, adapters=[sql])
    plan = decide_caches(stores.view(NODES, [DEFAULT], [model]), make.NOW)
    assert holders(plan, key("m")) == holders(plan, entry_key(sql, stores.REVISION)) == {"n1"}


def test_a_node_is_told_no_more_memory_than_its_present_agent_was_given() -> None:
    view = replace(stores.view(NODES[:2], [DEFAULT]), allotted_bytes={"n1": 5 * GIB})
    plan = decide_caches(view, make.NOW)
    assert [plan.specs[node].memory.bytes for node in ("n1", "n2")] == [5 * GIB, 64 * GIB]


def test_a_node_cache_goes_when_nobody_names_its_node_any_more() -> None:
    view = stores.view(NODES[:2], [stores.group(nodeSelector={"topology.kubernetes.io/zone": "b"})])
    plan = decide_caches(view, make.NOW)
    assert [(record.metadata.name, reason) for record, reason in plan.removals] == [
        ("n1", "no WeightCache names node n1"),
        ("n2", "no WeightCache names node n2"),
    ]
    assert plan.specs == {}


def test_nodes_of_a_cache_that_can_not_be_read_are_left_as_they_are() -> None:
    caches = [stores.cache("n1", of="strange"), stores.cache("n2")]
    view = replace(stores.view(NODES[:2], [DEFAULT], caches=caches), unreadable=frozenset({"strange"}))
    plan = decide_caches(view, make.NOW)
    assert (set(plan.specs), plan.removals, plan.agents) == ({"n2"}, (), ())


def test_no_agent_is_made_for_folders_that_none_can_work_with() -> None:
    view = replace(stores.view(NODES[:1], [DEFAULT]), unusable={"default": "memory.path hides /usr"})
    plan = decide_caches(view, make.NOW)
    assert (plan.specs, plan.agents, plan.removals) == ({}, (), ())


def told_again(view: CachesView) -> bool:
    plan = decide_caches(view, make.NOW)
    return decide_caches(stores.obeyed(view, plan), make.NOW).specs == plan.specs


def test_a_round_over_its_own_result_changes_nothing() -> None:
    models = [stores.model(f"m{at}", size=(at + 1) * GIB, preload=at % 3, replicas=at % 2) for at in range(8)]
    group = stores.group(memory="12Gi", disk={"size": "20Gi"}, models=[stores.line("m1"), stores.line("other")])
    caches = [stores.cache(node.metadata.name, memory=12 * GIB) for node in NODES]
    runners = [stores.reading(models[3], "n2"), stores.reading(models[5], "n2")]
    assert told_again(stores.view(NODES, [group], models, caches=caches, runners=runners))
