"""Where models go that read weights: to stores that may hold them, nearest first; and what is said where none may."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import make, make_weights
from warmfleet_api.vocabulary import EntryState, Reason, Tier, WeightsProblem
from warmfleet_operator.decide.actions import CreateRunner, Decisions, PatchRunner, Waiting
from warmfleet_operator.decide.fleet import Cache, Model
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.decide.weights import keys_of
from warmfleet_operator.decide.weights_places import nodes_of

GIB = make.GIB
NODES = tuple(make.node(name) for name in ("a", "b", "c"))
LLAMA = make_weights.model(bytes=4 * GIB)
SEEN = make_weights.seen


def decide(*parts: object) -> Decisions:
    return schedule(make.fleet(*parts), make.NOW)  # type: ignore[arg-type]


def created(decisions: Decisions) -> list[CreateRunner]:
    return [action for action in decisions.actions if isinstance(action, CreateRunner)]


def waits(decisions: Decisions) -> Waiting:
    (waiting,) = decisions.waiting.values()
    return waiting


def place(*caches: Cache, model: Model = LLAMA) -> str:
    (action,) = created(decide(model, *NODES, *caches))
    return action.node


# Which store -------------------------------------------------------------------------------------------------------


def test_a_model_goes_only_where_a_store_is_and_its_runner_sees_it() -> None:
    (action,) = created(decide(LLAMA, *NODES, make_weights.cache("b")))
    assert (action.node, action.sees_weights) == ("b", True)
    assert list(keys_of(action.assignment.engines[0].engine)) == [LLAMA.weights[0].key]


def test_a_model_that_reads_nothing_needs_no_store_and_leaves_the_volume_out() -> None:
    for caches in ((), (make_weights.cache("b"),)):
        (action,) = created(decide(make.model(), *NODES, *caches))
        assert (action.node, action.sees_weights) == ("a", False)


def test_a_pools_runner_uses_a_store_where_there_is_one() -> None:
    (with_store,) = created(decide(make.pool(), *NODES, make_weights.cache("c")))
    assert (with_store.node, with_store.sees_weights) == ("c", True)
    (without,) = created(decide(make.pool(), *NODES))
    assert (without.node, without.sees_weights) == ("a", False)


@pytest.mark.parametrize(
    ("near", "far"),
    [
        (make_weights.cache("c", SEEN(LLAMA)), make_weights.cache("a", SEEN(LLAMA, Tier.DISK))),
        (make_weights.cache("c", SEEN(LLAMA, Tier.DISK)), make_weights.cache("a")),
        (make_weights.cache("c", transfers=(make_weights.transfer(LLAMA, 1),)), make_weights.cache("a")),
        (make_weights.cache("c", memory_bytes=9 * GIB), make_weights.cache("a", memory_bytes=8 * GIB)),
        (make_weights.cache("c", SEEN(LLAMA, Tier.DISK)), make_weights.cache("a", SEEN(LLAMA), trouble="no agent")),
        (
            make_weights.cache("c"),
            make_weights.cache("a", SEEN(LLAMA, Tier.REMOTE, problem=(WeightsProblem.DISK_ERROR, "broken"))),
        ),
    ],
    ids=["memory before disk", "disk before remote", "on its way before remote", "open memory", "trouble", "failed"],
)
def test_the_nearest_weights_win(near: Cache, far: Cache) -> None:
    assert place(near, far) == near.node == "c"


def test_room_is_what_runners_and_administrators_do_not_use() -> None:
    other = make_weights.model("other", uri="hf://org/other", bytes=60 * GIB)
    entry = other.weights[0].wanted(Tier.MEMORY, pinned=True)
    full = make_weights.cache("a", SEEN(other), memory_bytes=64 * GIB, entries=[entry])
    assert place(full, make_weights.cache("b", memory_bytes=32 * GIB)) == "b"
    evictable = make_weights.cache("a", SEEN(other), memory_bytes=64 * GIB)
    assert place(evictable, make_weights.cache("b", memory_bytes=32 * GIB)) == "a"


def test_a_second_replica_goes_to_another_node_though_the_weights_are_here() -> None:
    model = make_weights.model(bytes=4 * GIB, replicas=2)
    actions = created(decide(model, *NODES, make_weights.cache("b", SEEN(model)), make_weights.cache("a")))
    assert [action.node for action in actions] == ["b", "a"]


def test_a_runner_gets_time_for_what_is_still_to_come() -> None:
    fast = {"remoteBytesPerSecond": GIB // 8, "memory": {}}
    (far,) = created(decide(LLAMA, *NODES, make_weights.cache("a", status=fast)))
    (near,) = created(decide(LLAMA, *NODES, make_weights.cache("a", SEEN(LLAMA), status=fast)))
    assert far.start_budget_seconds == near.start_budget_seconds + 2 * 32
    engine = far.assignment.engines[0]
    assert engine.start_budget_seconds == near.start_budget_seconds, "an engine's budget begins when they are there"


# In pools ----------------------------------------------------------------------------------------------------------

POOLED = make_weights.model(bytes=4 * GIB, pools=["pool"])


def hosting_runner(decisions: Decisions) -> str:
    (patch,) = [each for each in decisions.actions if isinstance(each, PatchRunner) and each.assignment is not None]
    return patch.pod.metadata.name


def test_an_engine_starts_in_the_runner_beside_its_weights() -> None:
    pool = make.pool(replicas=2)
    runners = [make.up(make.pool_runner(pool, name, slot=slot, sees_weights=True)) for slot, name in enumerate("ab")]
    for name, runner in (("a", "pool-0-1"), ("b", "pool-1-1")):
        caches = [make_weights.cache(node, *([SEEN(POOLED)] if node == name else [])) for node in "ab"]
        assert hosting_runner(decide(pool, POOLED, *runners, *NODES, *caches)) == runner


def test_an_engine_starts_in_no_runner_that_can_not_get_its_weights() -> None:
    pool = make.pool()
    blind, seeing = (make.up(make.pool_runner(pool, "a", sees_weights=sees)) for sees in (False, True))
    found = decide(pool, POOLED, seeing, *NODES, make_weights.cache("b"))
    assert (
        waits(found).reason is Reason.NO_WEIGHT_CACHE
        and "the nodes that suit have no weight store: a" in waits(found).blocker
    )
    found = decide(pool, POOLED, seeing, *NODES, make_weights.cache("a", memory_bytes=GIB))
    assert waits(found).reason is Reason.NEVER_FITS
    found = decide(pool, POOLED, blind, *NODES, make_weights.cache("a"))
    assert "pool-0-1 was made before its node had a weight store" in waits(found).blocker


def test_a_pools_runner_from_before_its_node_had_a_store_is_replaced() -> None:
    pool = make.pool()
    blind = make.up(make.pool_runner(pool, "a"))
    assert created(decide(pool, blind, *NODES)) == []
    (action,) = created(decide(pool, blind, *NODES, make_weights.cache("a"), make_weights.cache("b")))
    assert (action.node, action.sees_weights) == ("b", True)
    seeing = make.up(make.pool_runner(pool, "a", sees_weights=True))
    assert created(decide(pool, seeing, *NODES)) == [], "a store that is gone makes no runner useless"


# What is said ------------------------------------------------------------------------------------------------------


def said(model: Model, *caches: Cache) -> tuple[Reason, str]:
    decisions = decide(model, *NODES, *caches)
    assert created(decisions) == []
    waiting = waits(decisions)
    assert waiting.is_of_weights and (waiting.position, waiting.of) == (0, 0), "it is not in the queue"
    return waiting.reason, waiting.blocker


def test_without_any_store_the_administrator_is_named() -> None:
    for model in (LLAMA, make_weights.asking()):
        reason, blocker = said(model)
        assert reason is Reason.NO_WEIGHT_CACHE
        assert blocker.startswith("no node has a weight store; let an administrator make a WeightCache")


def test_stores_on_other_nodes_help_nobody() -> None:
    elsewhere = make.node("gpu", labels={"gpu": "yes"})
    model = make_weights.model(podTemplate={"nodeSelector": {"gpu": "yes"}})
    found = waits(decide(model, *NODES, elsewhere, make_weights.cache("a")))
    assert found.reason is Reason.NO_WEIGHT_CACHE and "the nodes that suit have no weight store: gpu" in found.blocker


def test_weights_larger_than_every_store_never_fit_and_say_what_to_raise() -> None:
    small, smaller = (
        make_weights.cache("a", memory_bytes=3 * GIB, group="big"),
        make_weights.cache("b", memory_bytes=GIB),
    )
    reason, blocker = said(LLAMA, small, smaller)
    assert reason is Reason.NEVER_FITS
    assert blocker == "the weights take 4.0 GiB, and the largest weight store that suits has 3.0 GiB memory: a"
    assert waits(decide(LLAMA, *NODES, small)).advice == "raise spec.memory.size: kubectl edit weightcache big"


@pytest.mark.parametrize(
    ("roots", "words"),
    [
        (("/srv/models", "/mnt/nfs"), "is not below /mnt/nfs or /srv/models"),
        ((), "may not be read: no folder of the nodes may"),
    ],
)
def test_a_folder_below_no_root_names_the_roots_and_who_adds_one(roots: tuple[str, ...], words: str) -> None:
    for uri in ("file:///data/x", "file:///srv/models", "file:///srv/models-of-others/x"):
        for model in (make_weights.asking(uri=uri), make_weights.model(uri=uri)):
            reason, blocker = said(model, make_weights.cache("a", file_roots=roots))
            assert reason is Reason.FORBIDDEN_SOURCE
            assert blocker.startswith(f"{uri} {words}")
            assert "spec.fileRoots: kubectl edit weightcache default" in blocker


def test_a_folder_goes_where_its_root_is() -> None:
    model = make_weights.model(uri="file:///mnt/nfs/x")
    assert place(make_weights.cache("a"), make_weights.cache("b", file_roots=("/mnt/nfs",)), model=model) == "b"


def test_nothing_is_placed_before_its_source_has_answered_and_the_question_is_shown() -> None:
    model = make_weights.asking()
    reason, blocker = said(model, make_weights.cache("a"))
    assert (reason, blocker) == (
        Reason.WEIGHTS_UNKNOWN,
        "hf://org/llama is asked which files it has, and how large they are",
    )
    denied = make_weights.cache(
        "a", SEEN(model, Tier.REMOTE, problem=(WeightsProblem.ACCESS_DENIED, "accept its licence"))
    )
    assert said(model, denied) == (Reason.ACCESS_DENIED, "hf://org/llama: accept its licence")


def test_a_folder_that_one_node_has_is_found_though_another_has_not() -> None:
    model = make_weights.asking(uri="file:///srv/models/x")
    fails = make_weights.cache(
        "a", SEEN(model, Tier.REMOTE, problem=(WeightsProblem.MODEL_NOT_FOUND, "no such folder"))
    )
    knows = make_weights.cache("b", SEEN(model, Tier.REMOTE, EntryState.KNOWN, revision="r", bytes=1))
    assert said(model, fails)[0] is Reason.MODEL_NOT_FOUND
    assert said(model, fails, knows)[0] is Reason.WEIGHTS_UNKNOWN, "the answer comes into the status next"


def test_a_model_that_fits_nowhere_says_so_before_its_source_has_answered() -> None:
    found = waits(decide(make_weights.asking(memory="999Gi"), *NODES, make_weights.cache("a")))
    assert found.reason is Reason.NEVER_FITS and not found.is_of_weights


def test_one_models_missing_weights_are_no_other_models_answer() -> None:
    large = make_weights.model("large", uri="hf://org/large", bytes=99 * GIB, age_seconds=200)
    larger = make_weights.model("larger", uri="hf://org/larger", bytes=200 * GIB)
    decisions = decide(large, larger, LLAMA, *NODES, make_weights.cache("a"))
    assert [action.owner.key.name for action in created(decisions)] == ["llama"]
    blockers = {key.name: waiting.blocker for key, waiting in decisions.waiting.items()}
    assert "take 99.0 GiB" in blockers["large"] and "take 200.0 GiB" in blockers["larger"]


# Where weights may be kept -----------------------------------------------------------------------------------------


def candidates(model: Model, *parts: Any) -> list[str]:
    return nodes_of(model, make.fleet(model, *parts))


def test_weights_may_be_kept_where_the_model_could_run_beginning_where_it_runs() -> None:
    stores = [make_weights.cache(name) for name in "abc"]
    assert candidates(LLAMA, *NODES, *stores) == ["a", "b", "c"]
    assert candidates(LLAMA, *NODES, *stores, make.runner(LLAMA, "b")) == ["b", "a", "c"]
    assert candidates(LLAMA, *NODES, make_weights.cache("a", memory_bytes=GIB), stores[2]) == ["c"]
    assert candidates(make.model(), *NODES, *stores) == []
    selective = make_weights.model(podTemplate={"nodeSelector": {"gpu": "yes"}})
    assert candidates(selective, *NODES, make.node("d", labels={"gpu": "yes"}), make_weights.cache("d"), *stores) == [
        "d"
    ]


def test_weights_of_a_pooled_model_may_be_kept_where_its_pools_runners_are_or_could_be() -> None:
    pool = make.pool(nodeSelector={"gpu": "yes"})
    nodes = [make.node(name, labels={"gpu": "yes"}) for name in ("d", "e")]
    stores = [make_weights.cache(name) for name in ("a", "d", "e")]
    assert candidates(POOLED, pool, *NODES, *nodes, *stores, make.pool_runner(pool, "e")) == ["e", "d"]


# Whatever is where -------------------------------------------------------------------------------------------------

sizes = st.integers(1, 9)


@given(
    st.lists(st.tuples(sizes, st.sampled_from([None, *Tier])), min_size=0, max_size=3),
    st.lists(sizes, min_size=1, max_size=4),
)
def test_no_runner_is_ever_created_beside_a_store_that_can_not_hold_its_weights(
    stores: list[tuple[int, Tier | None]], models: list[int]
) -> None:
    wanted = [
        make_weights.model(f"m{number}", uri=f"hf://org/m{number}", bytes=size * GIB)
        for number, size in enumerate(models)
    ]
    caches = {
        node.metadata.name: make_weights.cache(
            node.metadata.name, *([SEEN(wanted[0], tier)] if tier is not None else []), memory_bytes=size * GIB
        )
        for node, (size, tier) in zip(NODES, stores, strict=False)
    }
    decisions = decide(*wanted, *NODES, *caches.values())
    placed = {action.owner.key: action.node for action in created(decisions)}
    for model in wanted:
        possible = [name for name, cache in caches.items() if cache.spec.memory.bytes >= model.weights[0].bytes]
        if possible:
            # More than two fetches only wait for their link.
            assert placed.get(model.key) or decisions.waiting[model.key].place in possible
            assert model.key not in placed or placed[model.key] in possible
        else:
            assert model.key not in placed
            assert decisions.waiting[model.key].is_of_weights
