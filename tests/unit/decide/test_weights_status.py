"""What a model's status says of its weights, from the first question to the last byte, and whose turn it is to act."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from support import make, make_weights, stores
from warmfleet_api.status import Condition, ModelDeploymentStatus, WeightsStatus
from warmfleet_api.vocabulary import EngineState, EntryState, Reason, Stage, Tier, WeightsProblem
from warmfleet_api.weight_cache import WeightCacheStatus
from warmfleet_api.weights import entry_key
from warmfleet_operator.decide.actions import Waiting
from warmfleet_operator.decide.caches_lines import listed
from warmfleet_operator.decide.events import EventReason
from warmfleet_operator.decide.fleet import Cache, Model, Runner
from warmfleet_operator.decide.model import FETCH_RECHECK_SECONDS, ModelDecision, ModelView, decide_model
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.decide.weights import needed_entries

GIB = make.GIB
NODES = {name: make.node(name, gpus=8) for name in ("n1", "n2")}
LLAMA = make_weights.model(bytes=4 * GIB)
SEEN = make_weights.seen


def decide(
    model: Model, *parts: Runner | Cache, later_seconds: float = 0, waiting: Waiting | None = None
) -> ModelDecision:
    view = ModelView(
        model=model,
        runners=tuple(part for part in parts if isinstance(part, Runner)),
        nodes=NODES,
        waiting=waiting,
        caches={part.node: part for part in parts if isinstance(part, Cache)},
    )
    return decide_model(view, make.NOW + timedelta(seconds=later_seconds))


def queued(model: Model, *caches: Cache) -> Waiting | None:
    """What the fleet pass says of the model."""
    return schedule(make.fleet(model, *NODES.values(), *caches), make.NOW).waiting.get(model.key)


def unplaced(model: Model, *caches: Cache, later_seconds: float = 0) -> ModelDecision:
    return decide(model, *caches, waiting=queued(model, *caches), later_seconds=later_seconds)


def parsed(model: Model, decision: ModelDecision) -> Model:
    """The model as it is read once its status was written."""
    weights = needed_entries(model.key.namespace, model.spec, decision.status)
    return replace(model, status=decision.status, weights=weights)


def condition(status: ModelDeploymentStatus, kind: str) -> Condition | None:
    return next((each for each in status.conditions if each.type == kind), None)


def weights_ready(decision: ModelDecision) -> tuple[str, str, str]:
    found = condition(decision.status, "WeightsReady")
    assert found is not None
    return found.status, found.reason, found.message


def stalled(decision: ModelDecision) -> tuple[str, str] | None:
    found = condition(decision.status, "Stalled")
    return (found.reason, found.message) if found is not None else None


def starting(model: Model, stage: Stage = Stage.WEIGHTS_IN_MEMORY, on: str = "n1") -> Runner:
    return make.says(make.runner(model, on), EngineState.STARTING, stage=stage)


# The question and its answer ---------------------------------------------------------------------------------------


def test_while_the_source_is_asked_nobody_knows() -> None:
    decision = unplaced(make_weights.asking(), make_weights.cache("n1"))
    assert weights_ready(decision)[:2] == ("Unknown", Reason.WEIGHTS_UNKNOWN)
    assert decision.status.weights == []
    scheduled = condition(decision.status, "Scheduled")
    assert scheduled is not None and (scheduled.status, scheduled.reason) == ("False", Reason.WEIGHTS_UNKNOWN)
    assert stalled(decision) is None


def test_the_answer_is_frozen_and_the_model_is_placed_by_it() -> None:
    asking = make_weights.asking()
    known = SEEN(asking, Tier.REMOTE, EntryState.KNOWN, revision=make_weights.REVISION, bytes=4 * GIB)
    decision = unplaced(asking, make_weights.cache("n1", known))
    (line,) = decision.status.weights
    assert line == WeightsStatus.model_validate(make_weights.known(bytes=4 * GIB))
    assert decision.status.model is not None
    assert (decision.status.model.bytes, decision.status.model.revision) == (4 * GIB, make_weights.REVISION)
    model = parsed(asking, decision)
    assert model.knows_weights and model.hash == asking.hash
    assert queued(model, make_weights.cache("n1")) is None


def test_only_an_agent_that_was_asked_and_works_answers() -> None:
    asking = make_weights.asking()
    known = SEEN(asking, Tier.REMOTE, EntryState.KNOWN, revision=make_weights.REVISION, bytes=4 * GIB)
    for left_behind in (make_weights.cache("n1", known, entries=[]), make_weights.cache("n1", known, trouble="gone")):
        decision = unplaced(asking, left_behind)
        assert decision.status.weights == []
        assert weights_ready(decision)[:2] == ("Unknown", Reason.WEIGHTS_UNKNOWN)
    refused = SEEN(asking, Tier.REMOTE, problem=(WeightsProblem.ACCESS_DENIED, "no"))
    assert stalled(unplaced(asking, make_weights.cache("n1", refused, entries=[]))) is None


def test_who_has_an_entry_whole_need_not_have_been_asked() -> None:
    pinned = make_weights.asking(model={"uri": make_weights.URI, "revision": make_weights.REVISION})
    whole = SEEN(pinned, Tier.DISK, revision=make_weights.REVISION, bytes=4 * GIB)
    (line,) = unplaced(pinned, make_weights.cache("n1", whole, trouble="gone")).status.weights
    assert (line.revision, line.bytes) == (make_weights.REVISION, 4 * GIB)


def test_what_a_weight_cache_lists_is_frozen_at_once_for_who_asks_with_the_same_credential() -> None:
    def weights(model: Model, line: Mapping[str, Any], scope: str = "") -> list[tuple[str, int]]:
        known = {"name": "llama", "key": entry_key(make_weights.URI, make_weights.REVISION, scope)}
        status = {"models": [make_weights.known(bytes=4 * GIB) | known | {"requested": line.get("revision", "")}]}
        group = stores.group(
            models=[stores.line("llama", make_weights.URI, **line)], status=WeightCacheStatus.model_validate(status)
        )
        cache = replace(make_weights.cache("n1"), listed=listed(group))
        return [(each.revision, each.bytes) for each in unplaced(model, cache).status.weights]

    answered = [(make_weights.REVISION, 4 * GIB)]
    uri, secret = {"uri": make_weights.URI}, {"name": "token", "namespace": "default"}
    with_secret = make_weights.asking(model=uri | {"secretRef": {"name": "token"}})
    assert weights(make_weights.asking(), {}) == answered
    assert weights(make_weights.asking(model=uri | {"revision": "main"}), {"revision": "main"}) == answered
    assert weights(make_weights.asking(model=uri | {"revision": "main"}), {}) == []
    assert weights(with_secret, {"secretRef": secret}, "default") == answered
    assert weights(with_secret, {"secretRef": secret | {"name": "another"}}, "default") == []
    assert weights(with_secret, {}) == []
    assert weights(make_weights.asking(), {"secretRef": secret}, "default") == []


def test_a_source_that_calls_something_else_current_by_now_changes_nothing() -> None:
    newer = SEEN("llama-of-another", Tier.REMOTE, EntryState.KNOWN, revision="f" * 40, bytes=9)
    asked_again = SEEN(make_weights.asking(), Tier.REMOTE, EntryState.KNOWN, revision="f" * 40, bytes=9)
    decision = unplaced(LLAMA, make_weights.cache("n1", newer, asked_again))
    assert [(line.revision, line.bytes) for line in decision.status.weights] == [(make_weights.REVISION, 4 * GIB)]


def test_what_a_former_spec_reads_stays_frozen_as_long_as_a_runner_reads_it() -> None:
    old = make.serving(make.runner(LLAMA, "n1"))
    changed = make_weights.asking(uri="hf://org/other", status={"weights": [make_weights.known(bytes=4 * GIB)]})
    kept = decide(changed, old, make_weights.cache("n1", SEEN(LLAMA))).status.weights
    assert [(line.uri, line.memory_nodes) for line in kept] == [(make_weights.URI, ["n1"])]
    back = parsed(LLAMA, decide(changed, old, make_weights.cache("n1")))
    assert back.knows_weights, "going back asks nobody, so the old runner and a new one can't differ"
    assert decide(changed, make_weights.cache("n1", SEEN(LLAMA))).status.weights == []


def test_the_status_lists_the_nodes_of_each_tier_and_the_digest_that_the_first_node_found() -> None:
    digest = "sha256:" + "1" * 64
    stores = [
        make_weights.cache("n2", SEEN(LLAMA, digest=digest)),
        make_weights.cache("n1", SEEN(LLAMA)),
        make_weights.cache("n3", SEEN(LLAMA, Tier.DISK)),
        make_weights.cache("n4", SEEN(LLAMA, Tier.REMOTE, EntryState.WAITING)),
    ]
    decision = decide(LLAMA, *stores)
    (line,) = decision.status.weights
    assert (line.memory_nodes, line.disk_nodes, line.digest) == (["n1", "n2"], ["n3"], digest)
    assert decision.status.model is not None and decision.status.model.digest == digest
    later = decide(parsed(LLAMA, decision), make_weights.cache("n1", SEEN(LLAMA, digest="sha256:" + "2" * 64)))
    assert later.status.weights[0].digest == digest


def test_lists_stay_bounded_on_many_nodes() -> None:
    stores = [make_weights.cache(f"n{number:03}", SEEN(LLAMA)) for number in range(100)]
    assert len(decide(LLAMA, *stores).status.weights[0].memory_nodes) == 64


# On the way --------------------------------------------------------------------------------------------------------


def test_a_start_says_how_much_is_there_and_until_when() -> None:
    coming = make_weights.transfer(LLAMA, GIB, bytes_per_second=GIB // 4, seconds_left=12)
    decision = decide(LLAMA, starting(LLAMA), make_weights.cache("n1", transfers=(coming,)))
    said = "weights: 1.0 GiB of 4.0 GiB in memory of n1, 256.0 MiB/s, until 2026-01-31T12:00:12Z"
    assert weights_ready(decision) == ("False", Reason.FETCHING, said)
    pending = decision.status.pending_start
    assert pending is not None and (pending.stage, pending.blocker) == (Stage.WEIGHTS_IN_MEMORY, said)
    assert (pending.fetched_bytes, pending.weights_time) == (GIB, "2026-01-31T12:00:12Z")
    ready = condition(decision.status, "Ready")
    assert ready is not None and (ready.status, ready.reason) == ("False", Reason.FETCHING_WEIGHTS)
    assert decision.recheck_seconds == FETCH_RECHECK_SECONDS


@pytest.mark.parametrize(
    ("later_seconds", "done", "left", "is_written"),
    [(10, 2, 41, False), (10, 2, 55, True), (10, 1, 30, True), (40, 7, 5, False), (40, 7, 1, True)],
    ids=["as expected", "slower", "faster", "nearly there", "nearly there and faster"],
)
def test_progress_is_written_only_when_the_end_moved(
    later_seconds: float, done: int, left: int, is_written: bool
) -> None:
    def decided(model: Model, gib: int, seconds_left: int, later: float) -> ModelDecision:
        coming = make_weights.transfer(LLAMA, gib * GIB // 2, bytes_per_second=GIB // 13, seconds_left=seconds_left)
        return decide(model, starting(LLAMA), make_weights.cache("n1", transfers=(coming,)), later_seconds=later)

    first = decided(LLAMA, 0, 50, 0)
    second = decided(parsed(LLAMA, first), done, left, later_seconds)
    assert (second.status != first.status) is is_written
    assert weights_ready(second)[1] == Reason.FETCHING
    pending = second.status.pending_start
    assert pending is not None and pending.blocker == weights_ready(second)[2]


def test_a_fetch_that_nobody_hears_of_is_still_on_its_way() -> None:
    decision = decide(LLAMA, starting(LLAMA), make_weights.cache("n1"))
    assert weights_ready(decision)[1:] == (Reason.FETCHING, "weights: 0 B of 4.0 GiB in memory of n1")
    decision = decide(LLAMA, starting(LLAMA), make_weights.cache("n1", trouble="its agent is not Ready"))
    assert weights_ready(decision)[1:] == (
        Reason.FETCHING,
        "the weight store of n1 does not work: its agent is not Ready",
    )


def test_the_fetch_is_told_of_while_the_pod_is_still_coming() -> None:
    pod = make.container_waits(make.runner(LLAMA, "n1"), "ContainerCreating")
    decision = decide(LLAMA, pod, make_weights.cache("n1"))
    pending = decision.status.pending_start
    assert pending is not None and pending.stage is Stage.IMAGE_PULLED and pending.blocker.startswith("weights: 0 B")
    assert pending.summary == "Cold: ImagePulled on n1, weights: 0 B of 4.0 GiB in memory of n1"


def test_with_the_weights_in_memory_nothing_of_them_waits() -> None:
    decision = decide(LLAMA, starting(LLAMA, Stage.WEIGHTS_LOADED), make_weights.cache("n1", SEEN(LLAMA)))
    assert weights_ready(decision) == ("True", Reason.IN_MEMORY, "4.0 GiB in memory of n1")
    pending = decision.status.pending_start
    assert pending is not None and (pending.blocker, pending.weights_time) == ("", None)
    assert condition(decision.status, "Ready").reason == Reason.STARTING  # type: ignore[union-attr]


def test_without_a_start_any_node_counts() -> None:
    assert weights_ready(decide(LLAMA, make_weights.cache("n1", SEEN(LLAMA, Tier.DISK))))[:2] == (
        "True",
        Reason.ON_DISK,
    )
    assert weights_ready(decide(LLAMA, make_weights.cache("n1")))[:2] == ("False", Reason.QUEUED)
    both = [make_weights.known(), make_weights.known("hf://org/draft")]
    model = make_weights.asking(
        status={"weights": both}, engine={"speculative": {"uri": "hf://org/draft", "tokens": 1}}
    )
    main, draft = (SEEN(entry.key) for entry in model.weights)
    assert weights_ready(decide(model, make_weights.cache("n1", main)))[:2] == ("False", Reason.QUEUED)
    found = weights_ready(decide(model, make_weights.cache("n1", main, draft)))
    assert found == ("True", Reason.IN_MEMORY, "2.0 GiB in memory of n1")


# What passes by itself, and what does not --------------------------------------------------------------------------


def failing(problem: WeightsProblem, node: str = "n1") -> Cache:
    return make_weights.cache(node, SEEN(LLAMA, Tier.REMOTE, problem=(problem, "what to do")))


PASSING = (
    WeightsProblem.CACHE_FULL,
    WeightsProblem.SOURCE_UNREACHABLE,
    WeightsProblem.DAMAGED,
    WeightsProblem.DISK_ERROR,
)


@pytest.mark.parametrize("problem", WeightsProblem)
def test_every_problem_of_weights_is_shown_under_its_own_word(problem: WeightsProblem) -> None:
    decision = decide(LLAMA, starting(LLAMA), failing(problem))
    assert weights_ready(decision) == ("False", problem.value, "hf://org/llama on n1: what to do")
    later = decide(parsed(LLAMA, decision), starting(LLAMA), failing(problem), later_seconds=61)
    is_lasting = problem not in PASSING
    assert (stalled(later) is not None) is is_lasting
    assert [event.reason for event in decision.events].count(EventReason.FETCH_FAILED) == (not is_lasting)
    assert later.events == () or is_lasting, "told once"


def test_a_full_store_is_told_while_the_entry_waits() -> None:
    waiting = SEEN(
        LLAMA, Tier.REMOTE, EntryState.WAITING, error={"reason": "CacheFull", "message": "3.0 GiB are missing"}
    )
    decision = decide(LLAMA, starting(LLAMA), make_weights.cache("n1", waiting))
    assert weights_ready(decision)[1] == Reason.CACHE_FULL and "3.0 GiB are missing" in weights_ready(decision)[2]
    assert stalled(decision) is None


@pytest.mark.parametrize(
    "problem", [WeightsProblem.MODEL_NOT_FOUND, WeightsProblem.ACCESS_DENIED, WeightsProblem.UNSAFE_FORMAT]
)
def test_an_answer_that_only_a_person_can_mend_stalls_the_model_at_once(problem: WeightsProblem) -> None:
    asking = make_weights.asking()
    cache = make_weights.cache("n1", SEEN(asking, Tier.REMOTE, problem=(problem, "correct model.uri")))
    decision = unplaced(asking, cache)
    assert stalled(decision) == (problem.value, "hf://org/llama: correct model.uri")
    assert weights_ready(decision)[:2] == ("False", problem.value)
    assert EventReason.START_FAILED in [event.reason for event in decision.events]


def test_a_missing_secret_gets_a_minute() -> None:
    asking = make_weights.asking(model={"uri": make_weights.URI, "secretRef": {"name": "token"}})
    problem = (WeightsProblem.SECRET_MISSING, "kubectl -n default create secret generic token")
    cache = make_weights.cache("n1", SEEN(asking, Tier.REMOTE, problem=problem))
    first = unplaced(asking, cache)
    assert stalled(first) is None and first.recheck_seconds == 60
    assert weights_ready(first)[:2] == ("False", Reason.SECRET_MISSING)
    written = parsed(asking, first)
    assert stalled(unplaced(written, cache, later_seconds=59)) is None
    late = unplaced(written, cache, later_seconds=60)
    assert stalled(late) == (Reason.SECRET_MISSING, f"hf://org/llama: {problem[1]}")
    assert stalled(unplaced(parsed(asking, late), cache, later_seconds=90)) is not None, "it stays until it is mended"


def test_a_missing_weight_cache_gets_a_minute() -> None:
    first = unplaced(LLAMA)
    assert stalled(first) is None and weights_ready(first)[:2] == ("False", Reason.NO_WEIGHT_CACHE)
    late = unplaced(parsed(LLAMA, first), later_seconds=60)
    assert stalled(late) is not None and stalled(late)[0] == Reason.NO_WEIGHT_CACHE  # type: ignore[index]


def test_weights_that_never_fit_stall_and_say_what_to_raise() -> None:
    decision = unplaced(LLAMA, make_weights.cache("n1", memory_bytes=GIB))
    assert stalled(decision) == (
        Reason.NEVER_FITS,
        "the weights take 4.0 GiB, and the largest weight store that suits has 1.0 GiB memory: n1; "
        "raise spec.memory.size: kubectl edit weightcache default",
    )
    assert weights_ready(decision)[:2] == ("False", Reason.NEVER_FITS)


def test_what_the_engine_finds_missing_reads_like_what_the_agent_finds() -> None:
    failed = make.says(
        make.runner(LLAMA, "n1"), EngineState.FAILED, error=(Reason.MODEL_NOT_FOUND, "no config.json"), failed_starts=1
    )
    decision = decide(LLAMA, failed, make_weights.cache("n1", SEEN(LLAMA)))
    assert stalled(decision) is not None and stalled(decision)[0] == Reason.MODEL_NOT_FOUND  # type: ignore[index]
    assert weights_ready(decision)[:2] == ("False", Reason.MODEL_NOT_FOUND)


def test_the_progress_deadline_stands_still_while_weights_are_on_their_way() -> None:
    model = make_weights.model(bytes=4 * GIB, rollout={"progressDeadlineSeconds": 30})
    runner, fetching = starting(model), make_weights.cache("n1")
    first = decide(model, runner, fetching)
    written = parsed(model, first)
    assert stalled(decide(written, runner, fetching, later_seconds=9_000)) is None
    there = decide(written, runner, make_weights.cache("n1", SEEN(model)), later_seconds=9_000)
    arrived = parsed(model, there)
    in_time = decide(arrived, runner, make_weights.cache("n1", SEEN(model)), later_seconds=9_029)
    assert stalled(in_time) is None and in_time.recheck_seconds == 1
    late = decide(arrived, runner, make_weights.cache("n1", SEEN(model)), later_seconds=9_030)
    assert stalled(late) is not None and stalled(late)[0] == Reason.PROGRESS_DEADLINE_EXCEEDED  # type: ignore[index]


def test_starts_that_succeeded_are_remembered_and_the_list_stays_short() -> None:
    runner = make.serving(make.runner(LLAMA, "n1"))
    store = make_weights.cache("n1", SEEN(LLAMA))
    assert decide(LLAMA, runner, store).status.recent_starts == ["2026-01-31T12:00:00Z"]
    many = replace(LLAMA, status=LLAMA.status.model_copy(update={"recent_starts": [make.ago(9)] * 16}))
    assert decide(many, runner, store).status.recent_starts == [make.ago(9)] * 15 + ["2026-01-31T12:00:00Z"]


def test_the_same_stores_give_the_same_status_at_any_later_time() -> None:
    views: list[tuple[Model, tuple[Any, ...]]] = [
        (make_weights.asking(), (make_weights.cache("n1"),)),
        (LLAMA, (make_weights.cache("n1", SEEN(LLAMA)),)),
        (LLAMA, (starting(LLAMA), make_weights.cache("n1"))),
        (LLAMA, (starting(LLAMA), failing(WeightsProblem.SOURCE_UNREACHABLE))),
        (LLAMA, (make.serving(make.runner(LLAMA, "n1")), make_weights.cache("n1", SEEN(LLAMA)))),
    ]
    for model, parts in views:
        first = decide(model, *parts)
        second = decide(parsed(model, first), *parts, later_seconds=600)
        assert (second.status, second.events) == (first.status, ())
