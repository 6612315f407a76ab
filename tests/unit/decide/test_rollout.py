"""What goes, and when: victims of a scale-down, places given up once weights are near, nodes that are emptied."""

import uuid
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import make, make_weights, stores
from support.world import World
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState, EntryState, Reason, Tier, WeightsProblem
from warmfleet_operator.decide.actions import Decisions, DeleteRunner, PatchRunner
from warmfleet_operator.decide.caches import CachesView, decide_caches
from warmfleet_operator.decide.fleet import Cache, Fleet, Model, Runner
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.records import Node

REPLACING = {"maxSurge": 0, "maxUnavailable": 1}
NODES = [make.node(name) for name in ("a", "b", "c")]


def decide(*parts: object) -> Decisions:
    return schedule(make.fleet(*parts), make.NOW)  # type: ignore[arg-type]


def deletes(decisions: Decisions) -> dict[str, str]:
    return {each.pod.metadata.name: each.reason for each in decisions.actions if isinstance(each, DeleteRunner)}


def with_requests(it: Runner, *, running: int = 0, waiting: int = 0, served: int = 0) -> Runner:
    """The same runner with so many requests at its engine, in front of it, and answered so far."""
    assert it.status is not None
    told = [
        msgspec.structs.replace(each, running=running, waiting=waiting, requests=served) for each in it.status.engines
    ]
    return replace(it, status=msgspec.structs.replace(it.status, engines=tuple(told)))


def replicas(model: Model, *requests: dict[str, int]) -> list[Runner]:
    """One runner that serves for each, on nodes of their own, the later the younger."""
    return [
        with_requests(make.serving(make.runner(model, "abc"[slot], slot=slot, age_seconds=60 - slot)), **each)
        for slot, each in enumerate(requests)
    ]


# Victims of a scale-down ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "goes", "why"),
    [
        (
            ({"running": 2, "waiting": 3}, {"running": 1, "served": 99}, {"running": 4}),
            "llama-1-1",
            "it has the fewest requests: 1, the others 4 and more",
        ),
        (
            ({"running": 1, "served": 50}, {"running": 1, "served": 70}, {"running": 1, "served": 60}),
            "llama-0-1",
            "its cache is the coldest: 50 requests so far, the others had 60 and more",
        ),
        (({}, {}, {}), "llama-2-1", "it is the youngest"),
    ],
    ids=["fewest requests", "coldest cache", "youngest"],
)
def test_scaling_down_lets_that_replica_go_whose_end_costs_the_least(
    requests: tuple[dict[str, int], ...], goes: str, why: str
) -> None:
    found = decide(make.model(replicas=2), *replicas(make.model(replicas=3), *requests), *NODES)
    assert deletes(found) == {goes: f"2 of 3 replicas are wanted, {why}"}


def test_what_does_not_serve_goes_before_what_does_whatever_waits_there() -> None:
    model = make.model(replicas=2)
    first, second, third = replicas(model, {"running": 9}, {"running": 9}, {})
    starting = make.says(make.runner(model, "c", slot=2), EngineState.STARTING)
    assert deletes(decide(model, first, second, starting, *NODES)) == {
        "llama-2-1": "2 of 3 replicas are wanted, it does not serve"
    }
    assert list(deletes(decide(model, first, second, third, *NODES))) == ["llama-2-1"]


def test_a_replica_on_a_node_that_is_emptied_goes_first_though_it_is_the_busiest() -> None:
    model = make.model(replicas=2)
    runners = replicas(model, {}, {"running": 9}, {})
    nodes = [make.node("a"), make.node("b", cordoned_seconds=5), make.node("c")]
    assert list(deletes(decide(model, *runners, *nodes))) == ["llama-1-1"]


@settings(max_examples=10, deadline=None)
@given(counts=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=2, max_size=8))
def test_counts_that_move_while_a_pools_engine_is_handed_over_change_nobody_elses_fate(counts: list[list[int]]) -> None:
    it = World()
    it.add(*(make.node(name) for name in "abcd"), make.pool(replicas=4), make.model(pools=["pool"], replicas=4))
    it.settle()
    it.add(make.model(pools=["pool"], replicas=2))
    gone: set[str] = set()
    for row in counts:
        for name, running in zip(sorted(it.runners), row, strict=True):
            it.change(name, lambda runner, running=running: with_requests(runner, running=running))  # type: ignore[misc]
        decisions = schedule(it.fleet(), make.NOW)
        gone |= {
            patch.pod.metadata.name
            for patch in decisions.actions
            if isinstance(patch, PatchRunner) and patch.labels.get(names.serve_label("llama")) == EngineState.DRAINING
        }
        # No client has heard of it yet: the label stays, and nothing is taken out.
        for action in decisions.actions:
            if isinstance(action, PatchRunner) and action.assignment is None:
                it.carry_out(Decisions((action,)))
    assert len(gone) == 2
    assert len(it.serving("llama")) == 2


# Places that are given up for a changed spec ---------------------------------------------------------------------


def reading(uri: str = make_weights.URI, **fields: object) -> Model:
    return make_weights.model(uri=uri, bytes=4 * make.GIB, **fields)  # type: ignore[arg-type]


def waits(decisions: Decisions) -> tuple[Reason, str] | None:
    return next(((each.reason, each.blocker) for each in decisions.waiting.values()), None)


OLD = reading()
NEW = reading("hf://org/llama-2", rollout=REPLACING)


@pytest.mark.parametrize(
    "cache",
    [
        make_weights.cache("a", make_weights.seen(OLD)),
        make_weights.cache("a", make_weights.seen(OLD), make_weights.seen(NEW, Tier.DISK)),
        make_weights.cache("a", make_weights.seen(OLD), make_weights.seen(NEW), trouble="its agent does not run"),
    ],
    ids=["not there", "only on disk", "there, but the store does not work"],
)
def test_a_former_spec_keeps_its_place_until_the_weights_of_the_new_one_are_near(cache: Cache) -> None:
    elsewhere = make_weights.cache("b", make_weights.seen(NEW))
    found = decide(NEW, make.serving(make.runner(OLD, "a"), protected=True), make.node("a"), cache, elsewhere)
    assert found.actions == ()
    reason, words = waits(found) or (None, "")
    assert (reason, words.startswith("the former spec keeps its place on a until")) == (Reason.WAITING_FOR_TURN, True)


@pytest.mark.parametrize(
    "cache",
    [
        make_weights.cache("a", make_weights.seen(OLD), make_weights.seen(NEW)),
        make_weights.cache("a", make_weights.seen(OLD), memory_bytes=5 * make.GIB),
        make_weights.cache(
            "a",
            make_weights.seen(OLD),
            make_weights.seen(NEW, Tier.DISK),
            memory_bytes=5 * make.GIB,
            disk={"bytes": 9 * make.GIB, "path": "/d"},
        ),
    ],
    ids=["in memory", "memory can't hold both", "on disk, as memory can't hold both"],
)
def test_it_gives_its_place_up_where_they_are_as_near_as_they_can_be(cache: Cache) -> None:
    told = cache.spec.model_copy(
        update={"entries": [each.wanted(Tier.MEMORY) for each in OLD.weights] + list(cache.spec.entries)}
    )
    found = decide(NEW, make.serving(make.runner(OLD, "a")), make.node("a"), replace(cache, spec=told))
    assert deletes(found) == {"llama-0-1": "enough others serve"}


def test_a_revision_that_does_not_exist_takes_nobodys_place() -> None:
    asked = make_weights.asking(uri="hf://org/none", rollout=REPLACING)
    cache = make_weights.cache(
        "a",
        make_weights.seen(OLD),
        make_weights.seen(
            asked.weights[0].key, Tier.REMOTE, problem=(WeightsProblem.MODEL_NOT_FOUND, "no such repository")
        ),
    )
    found = decide(asked, make.serving(make.runner(OLD, "a"), protected=True), make.node("a"), cache)
    assert (found.actions, (waits(found) or (None,))[0]) == ((), Reason.MODEL_NOT_FOUND)


def test_a_fetch_that_is_refused_is_a_matter_for_a_person_while_the_former_spec_serves() -> None:
    refused = make_weights.seen(
        NEW, Tier.REMOTE, EntryState.FAILED, problem=(WeightsProblem.ACCESS_DENIED, "the licence is not accepted")
    )
    cache = make_weights.cache("a", make_weights.seen(OLD), refused)
    found = decide(NEW, make.serving(make.runner(OLD, "a"), protected=True), make.node("a"), cache)
    assert (found.actions, (waits(found) or (None,))[0]) == ((), Reason.ACCESS_DENIED)


def test_a_former_spec_on_a_cordoned_node_goes_whatever_is_there() -> None:
    found = decide(
        NEW, make.serving(make.runner(OLD, "a")), make.node("a", cordoned_seconds=5), make_weights.cache("a")
    )
    assert list(deletes(found)) == ["llama-0-1"]


def test_the_weights_of_a_changed_spec_are_fetched_where_its_former_spec_gives_its_place_up() -> None:
    old, new = stores.model("m", replicas=2, uri="hf://org/m"), stores.model("m", replicas=2, uri="hf://org/new")
    runners = [stores.reading(old, "n1"), stores.reading(old, "n3")]
    nodes = [make.node(name) for name in ("n1", "n2", "n3")]
    wanted = {}
    for name, rollout in (("beside", {}), ("in place", REPLACING)):
        model = replace(new, spec=new.spec.model_copy(update={"rollout": _rollout(rollout)}))
        plan = decide_caches(stores.view(nodes, [stores.group()], [model], runners=runners), make.NOW)
        wanted[name] = stores.holders(plan, stores.key("new"))
    assert (len(wanted["beside"]), wanted["in place"]) == (1, {"n1", "n3"})


class StoredWorld(World):
    """A world whose nodes have weight stores that bring everything they are told within a round."""

    def __init__(self, memory: str, disk: str | None) -> None:
        super().__init__()
        self.group = stores.group(memory=memory, disk={"size": disk, "path": "/d"} if disk else None)
        self.caches = {name: stores.cache(name) for name in ("a", "b", "c")}
        self.add(*NODES)

    def fleet(self) -> Fleet:
        return replace(super().fleet(), caches=self.caches)

    def fetch(self) -> None:
        """Plan the stores, and have the agents bring it all."""
        records = {name: stores.record(each) for name, each in self.caches.items()}
        view = CachesView(fleet=self.fleet(), groups=(self.group,), records=records)
        self.caches = dict(stores.obeyed(view, decide_caches(view, make.NOW), fetched=True).fleet.caches)

    def round(self) -> Decisions:
        decisions = super().round()
        for name, runner in self.runners.items():
            # As Kubernetes makes them: the stores take no other.
            uid = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
            metadata = msgspec.structs.replace(runner.pod.metadata, uid=uid)
            status = msgspec.structs.replace(runner.status, pod_uid=uid) if runner.status is not None else None
            pod = msgspec.structs.replace(runner.pod, metadata=metadata)
            self.runners[name] = replace(runner, pod=pod, status=status)
        return decisions


@settings(max_examples=15, deadline=None)
@given(
    replicas=st.integers(1, 3),
    rollout=st.sampled_from(
        [{}, REPLACING, {"maxSurge": 1, "maxUnavailable": 1}, {"maxSurge": 0, "maxUnavailable": 2}]
    ),
    memory=st.sampled_from(["1536Mi", "2560Mi", "64Gi"]),
    disk=st.sampled_from([None, "1536Mi", "64Gi"]),
    pooled=st.booleans(),
)
def test_a_rollout_ends_whatever_room_the_stores_have_and_keeps_its_promise(
    replicas: int, rollout: dict[str, int], memory: str, disk: str | None, pooled: bool
) -> None:
    it = StoredWorld(memory, disk)
    if pooled:
        it.add(make.pool(replicas=3, memory="8Gi"))

    def model(uri: str) -> Model:
        return stores.model("m", uri=uri, replicas=replicas, rollout=rollout, pools=["pool"] if pooled else [])

    def run(promised: int) -> None:
        for _ in range(80):
            acted = bool(it.round().actions)
            assert len(it.serving("m")) >= promised
            before = it.caches
            it.fetch()
            if not it.progress() and not acted and it.caches == before:
                return
        raise AssertionError("still acting")

    it.add(model("hf://org/old"))
    run(0)
    new = model("hf://org/new")
    it.add(new)
    run(replicas - min(replicas, rollout.get("maxUnavailable", 0)))
    assert [member.hash for member in it.serving("m")] == [new.hash] * replicas


def _rollout(fields: dict[str, int]) -> object:
    return make.model(rollout=fields).spec.rollout


# Nodes that are emptied ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"])
def test_a_node_that_an_autoscaler_takes_away_is_left_as_a_cordoned_one(key: str) -> None:
    model = make.model()
    here = make.serving(make.runner(model, "a"), protected=True)
    nodes = [make.node("a", taints=({"key": key, "effect": "NoSchedule"},)), make.node("b")]
    first = decide(model, here, *nodes)
    assert [getattr(each, "node", "") for each in first.actions] == ["b"]
    second = decide(model, here, make.serving(make.runner(model, "b", attempt=2)), *nodes)
    assert list(deletes(second)) == ["llama-0-1"]


def test_the_drain_deadline_counts_from_the_time_that_the_autoscaler_wrote_into_its_taint() -> None:
    model = make.model(gpus=1)
    here = make.serving(make.runner(model, "a"), protected=True)

    def removed_for(seconds: float) -> Node:
        since = str(int(make.NOW.timestamp() - seconds))
        taint = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": since}
        return make.node("a", gpus=1, taints=(taint,))

    assert decide(model, here, removed_for(make.LIMITS.drain_deadline_seconds - 60)).recheck_seconds == 60
    (patch,) = decide(model, here, removed_for(make.LIMITS.drain_deadline_seconds)).actions
    assert isinstance(patch, PatchRunner)
    assert patch.labels == {names.LABEL_PROTECTED: None}


def test_a_pools_runner_with_several_models_is_emptied_before_it_goes_and_a_sleeper_just_ends() -> None:
    it = World()
    it.add(make.node("a"), make.pool(replicas=1), *(make.model(name, pools=["pool"]) for name in ("one", "two")))
    it.add(make.model("sleeper", pools=["pool"]))
    it.settle()
    asleep = {"dormant": {"reason": "nobody asked", "time": make.ago(60)}}
    it.add(make.model("sleeper", pools=["pool"], status=asleep))
    it.settle()
    (former,) = it.runners
    it.add(make.node("a", cordoned_seconds=5), make.node("b"))
    for _ in range(30):
        decisions = it.round()
        for name in ("one", "two"):
            assert it.serving(name), f"{name} serves nowhere"
            last = [member for member in it.serving(name) if member.is_protected]
            assert len(it.serving(name)) > 1 or last, f"the last Ready engine of {name} may be evicted"
        if not decisions.actions and not it.progress():
            break
        it.progress()
    assert former not in it.runners
    assert not it.members("sleeper")
