"""Properties of the plan of weight stores, over fleets that hypothesis makes up."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from support import make, stores
from support.stores import GIB, holders, key, seen
from warmfleet_api.vocabulary import Tier
from warmfleet_operator.decide.caches import CachesPlan, CachesView, decide_caches
from warmfleet_operator.decide.fleet import Model

MEMORY = 10 * GIB
SHARED = [f"hf://org/shared-{number}" for number in range(3)]
_slow = settings(max_examples=40, deadline=None)
_sizes = st.integers(1, 12).map(lambda gib: gib * GIB)
_classes = st.sampled_from(["Critical", "High", "Normal", "Low"])


@st.composite
def models(draw: st.DrawFn) -> list[Model]:
    return [
        stores.model(
            f"m{number}",
            size=draw(_sizes),
            preload=draw(st.integers(0, 4)),
            replicas=draw(st.integers(0, 1)),
            priority=draw(_classes),
            age_seconds=draw(st.integers(0, 5)),
            adapters=draw(st.lists(st.sampled_from(SHARED), unique=True, max_size=2)),
            recent=draw(st.lists(st.integers(0, 100_000), max_size=3)),
        )
        for number in range(draw(st.integers(0, 6)))
    ]


@st.composite
def views(draw: st.DrawFn) -> CachesView:
    count = draw(st.integers(1, 5))
    nodes = [
        make.node(
            f"n{number}",
            zone=draw(st.sampled_from(["a", "b"])),
            ready=draw(st.integers(0, 5)) > 0,
            cordoned_seconds=5 if draw(st.integers(0, 7)) == 0 else None,
        )
        for number in range(count)
    ]
    fleet = draw(models())
    group = stores.group(
        memory="10Gi",
        models=[stores.line(f"m{number}") for number in draw(st.sets(st.integers(0, 3), max_size=2))],
        disk={"size": "15Gi"} if draw(st.booleans()) else None,
    )
    caches = [
        stores.cache(
            node.metadata.name,
            memory=MEMORY,
            has=[
                seen(each.weights[0].key, draw(st.sampled_from([Tier.MEMORY, Tier.DISK])), size=each.weights[0].bytes)
                for each in fleet
                if draw(st.integers(0, 3)) == 0
            ],
            trouble="no agent runs there" if draw(st.integers(0, 6)) == 0 else "",
        )
        for node in nodes
    ]
    runners = [
        stores.reading(each, f"n{draw(st.integers(0, count - 1))}") for each in fleet if draw(st.integers(0, 2)) == 0
    ]
    return stores.view(nodes, [group], fleet, caches=caches, runners=runners)


def memory_of(plan: CachesPlan, view: CachesView, node: str) -> Mapping[str, int]:
    sizes = {entry.key: entry.bytes for model in view.fleet.models.values() for entry in model.weights}
    sizes |= {line.entry.key: line.entry.bytes for lines in plan.lines.values() for line in lines}
    return {each.key: sizes.get(each.key, 0) for each in plan.specs[node].entries if each.tier is Tier.MEMORY}


@_slow
@given(views())
def test_deciding_again_on_the_result_changes_nothing(view: CachesView) -> None:
    plan = decide_caches(view, make.NOW)
    again = decide_caches(stores.obeyed(view, plan), make.NOW)
    assert again.specs == plan.specs


@_slow
@given(views())
def test_nothing_moves_because_it_has_arrived(view: CachesView) -> None:
    plan = decide_caches(view, make.NOW)
    arrived = stores.obeyed(view, plan, fetched=True)
    again = decide_caches(arrived, make.NOW)
    assert {name: again.places[name] for name in plan.places} == plan.places


@_slow
@given(views())
def test_no_node_is_to_keep_more_than_it_has_room_for_save_what_runners_read(view: CachesView) -> None:
    plan = decide_caches(view, make.NOW)
    for node, spec in plan.specs.items():
        planned = memory_of(plan, view, node)
        read = {key for each in spec.views for key in each.keys}
        pinned = {each.key for each in spec.entries if each.pinned}
        kept = sum(planned[key] for key in planned if key in read | pinned)
        assert sum(planned.values()) <= max(MEMORY, kept)
        assert sum(planned[key] for key in planned if key in pinned) <= MEMORY


@_slow
@given(views())
def test_what_runners_read_is_in_memory_of_their_node(view: CachesView) -> None:
    plan = decide_caches(view, make.NOW)
    for spec in plan.specs.values():
        entries = {each.key: each.tier for each in spec.entries}
        assert {entries[key] for each in spec.views for key in each.keys} <= {Tier.MEMORY}


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 8))
def test_every_preload_has_its_nodes_where_they_exist(nodes: int, wanted: int) -> None:
    view = stores.view(
        [make.node(f"n{number}") for number in range(nodes)], [stores.group()], [stores.model("m", preload=wanted)]
    )
    assert len(holders(decide_caches(view, make.NOW), key("m"))) == min(nodes, wanted)


@_slow
@given(views(), st.integers(0, 4))
def test_after_a_node_is_lost_the_others_keep_what_they_kept(view: CachesView, lost: int) -> None:
    plan = decide_caches(view, make.NOW)
    view = stores.obeyed(view, plan, fetched=True)
    name = f"n{lost}"
    if name not in view.fleet.nodes:
        return
    nodes = {**view.fleet.nodes, name: make.node(name, ready=False)}
    fleet = type(view.fleet)(
        models=view.fleet.models,
        nodes=nodes,
        runners=view.fleet.runners,
        caches=view.fleet.caches,
        limits=view.fleet.limits,
    )
    after = decide_caches(
        CachesView(fleet=fleet, groups=view.groups, records=view.records, troubles=view.troubles), make.NOW
    )
    classes = {str(model.key): model.spec.priority.rank for model in view.fleet.models.values()}
    lowest = min((classes[load] for load, kept in plan.places.items() if name in kept), default=9)
    for load, kept in plan.places.items():
        # What was lost may push lower classes aside, and only those.
        if classes[load] <= lowest:
            assert set(kept) - {name} <= set(after.places[load])
