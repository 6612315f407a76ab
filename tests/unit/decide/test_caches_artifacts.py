"""Compile caches in the plan of the weight stores: taken once, handed on by digest, shown to whom they are for."""

from collections.abc import Mapping
from dataclasses import replace

from msgspec.structs import replace as changed

from support import make, stores
from support.stores import holders, key
from warmfleet_api import artifacts, names
from warmfleet_api.node_cache import EntryProblem, SeenEntry, WantedEntry
from warmfleet_api.runner_status import CompileCacheOffer, RunnerStatus
from warmfleet_api.vocabulary import EntryState, Priority, Tier, WeightsProblem
from warmfleet_operator.decide.caches import CachesPlan, CachesView, Trouble, decide_caches
from warmfleet_operator.decide.fleet import Cache, Model, Runner
from warmfleet_operator.records import Pod

NODES = [make.node(name) for name in ("n1", "n2", "n3")]
DIGEST = f"sha256:{'a' * 64}"
MODEL = stores.model("m", replicas=2)


def device(cache: Cache, name: str = "cpu 1") -> Cache:
    return replace(cache, status=cache.status.model_copy(update={"device": name}))


def name_of(model: Model = MODEL) -> str:
    runner = stores.reading(model, "n1")
    assert runner.assignment is not None
    return artifacts.cache_name(runner.assignment.engines[0].engine)


def key_of(model: Model = MODEL, on: str = "cpu 1") -> str:
    namespace, image = model.key.namespace, make.LIMITS.default_image
    return artifacts.entry_key(name_of(model), namespace=namespace, image=image, device=on)


def compiled(tier: Tier = Tier.MEMORY, key: str = "") -> SeenEntry:
    return SeenEntry(key=key or key_of(), tier=tier, state=EntryState.PRESENT, digest=DIGEST, bytes=1000)


def offering(runner: Runner, name: str = "", milliseconds: int = 61_500) -> Runner:
    uid = runner.pod.metadata.uid
    offers = (CompileCacheOffer(name=name or name_of(), milliseconds=milliseconds),)
    return replace(runner, status=RunnerStatus(pod_uid=uid, offers=offers))


def agent(node: str, ip: str) -> Pod:
    pod = stores.reading(MODEL, node).pod
    return changed(pod, metadata=changed(pod.metadata, name=f"agent-{node}"), status=changed(pod.status, pod_ip=ip))


def view(
    *runners: Runner, caches: Mapping[str, Cache] | None = None, models: tuple[Model, ...] = (MODEL,)
) -> CachesView:
    made = {node.metadata.name: device(stores.cache(node.metadata.name)) for node in NODES} | dict(caches or {})
    agents = {"n1": agent("n1", "10.0.0.1"), "n2": agent("n2", "fd00::2"), "n3": agent("n3", "10.0.0.3")}
    return stores.view(NODES, [stores.group()], models, caches=made.values(), runners=runners, agents=agents)


def entry(plan: CachesPlan, node: str, key: str = "") -> WantedEntry | None:
    return next((each for each in plan.specs[node].entries if each.key == (key or key_of())), None)


def shown(plan: CachesPlan, node: str) -> list[str]:
    return [key for each in plan.specs[node].views for key in each.keys]


def test_what_a_runner_offers_is_taken_by_its_own_node() -> None:
    runner = offering(stores.reading(MODEL, "n2"))
    plan = decide_caches(view(runner, stores.reading(MODEL, "n3")), make.NOW)
    taken = entry(plan, "n2")
    assert taken is not None
    assert taken.uri == f"runner://{MODEL.key.namespace}/{runner.pod.metadata.uid}/{name_of()}"
    assert (taken.tier, taken.saves_seconds, taken.digest) == (Tier.MEMORY, 62, None)
    assert shown(plan, "n2") == [key("m"), key_of()]
    assert holders(plan, key_of()) == {"n2"}
    assert shown(plan, "n3") == [key("m")]


def test_a_name_that_no_engine_of_the_runner_has_is_taken_from_nobody() -> None:
    plan = decide_caches(view(offering(stores.reading(MODEL, "n2"), name="compile--of-another-model")), make.NOW)
    assert shown(plan, "n2") == [key("m")]
    assert [each.key for each in plan.specs["n2"].entries] == [key("m")]


def test_one_of_two_offers_is_taken_and_the_other_once_that_one_failed() -> None:
    runners = offering(stores.reading(MODEL, "n1")), offering(stores.reading(MODEL, "n2"))
    first = decide_caches(view(*runners), make.NOW)
    assert holders(first, key_of()) == {"n1"}
    again = stores.obeyed(view(*runners), first).fleet.caches["n1"]
    error = EntryProblem(reason=WeightsProblem.UNSAFE_FORMAT, message="no pack")
    failed = SeenEntry(key=key_of(), tier=Tier.REMOTE, state=EntryState.FAILED, error=error)
    caches = {"n1": device(replace(again, seen={failed.key: failed}))}
    assert holders(decide_caches(view(*runners, caches=caches), make.NOW), key_of()) == {"n2"}


def test_other_nodes_that_run_the_model_get_it_by_digest_from_the_agent_that_has_it() -> None:
    caches = {"n2": device(stores.cache("n2", has=[compiled()]))}
    runner = stores.reading(MODEL, "n1")
    plan = decide_caches(view(runner, caches=caches), make.NOW)
    handed_on = entry(plan, "n1")
    assert handed_on is not None
    assert (handed_on.uri, handed_on.digest) == (f"agent://[fd00::2]:{names.AGENT_PORT}/{key_of()}", DIGEST)
    assert shown(plan, "n1") == [key("m"), key_of()]
    assert entry(plan, "n3") is None


def test_a_model_that_waits_for_a_runner_has_its_compile_cache_where_its_weights_are_kept() -> None:
    caches = {"n3": device(stores.cache("n3", has=[compiled(Tier.DISK)]))}
    model = stores.model("m", replicas=1, preload=2, priority="High", recent=(60, 120))
    plan = decide_caches(view(caches=caches, models=(model,)), make.NOW)
    near = holders(plan, key("m"))
    assert len(near) == 2
    assert holders(plan, key_of()) == near
    told = [entry(plan, node) for node in near]
    assert {(each.priority, each.uses_per_day) for each in told if each is not None} == {(Priority.HIGH, 2)}


def test_another_device_another_namespace_and_another_image_see_nothing_of_it() -> None:
    has = device(stores.cache("n1", has=[compiled()]))
    other = device(stores.cache("n2"), "NVIDIA H200 2")
    runner = stores.reading(MODEL, "n2")
    assert shown(decide_caches(view(runner, caches={"n1": has, "n2": other}), make.NOW), "n2") == [key("m")]
    elsewhere = stores.model("m", replicas=1, namespace="other")
    runner = stores.reading(elsewhere, "n2")
    assert shown(decide_caches(view(runner, caches={"n1": has}, models=(elsewhere,)), make.NOW), "n2") == [key("m")]
    newer = stores.model("m", replicas=1, podTemplate={"image": "registry.example/warmfleet-runtime:2"})
    runner = stores.reading(newer, "n2")
    assert shown(decide_caches(view(runner, caches={"n1": has}, models=(newer,)), make.NOW), "n2") == [key("m")]


def test_an_agent_that_does_not_work_is_not_asked() -> None:
    caches = {"n2": device(stores.cache("n2", has=[compiled()]))}
    lost = replace(view(stores.reading(MODEL, "n1"), caches=caches), troubles={"n2": Trouble("lost")})
    assert shown(decide_caches(lost, make.NOW), "n1") == [key("m")]


def test_a_round_over_its_own_result_changes_nothing_and_worth_stays_when_the_runner_is_gone() -> None:
    runner = offering(stores.reading(MODEL, "n2"))
    first = view(runner, stores.reading(MODEL, "n1"))
    plan = decide_caches(first, make.NOW)
    taken = device(stores.obeyed(first, plan).fleet.caches["n2"])
    taken = replace(taken, seen={each.key: each for each in (compiled(), stores.seen(key("m")))})
    quiet = [replace(each, status=None) for each in first.fleet.runners]
    second = view(*quiet, caches={"n2": taken})
    plan = decide_caches(second, make.NOW)
    caches = {name: device(each) for name, each in stores.obeyed(second, plan).fleet.caches.items()}
    caches["n2"] = replace(caches["n2"], seen=taken.seen)
    assert decide_caches(view(*quiet, caches=caches), make.NOW).specs == plan.specs
    idle = decide_caches(view(caches=caches, models=(stores.model("m"),)), make.NOW)
    left = entry(idle, "n2")
    assert left is not None
    assert (left.tier, left.saves_seconds) == (Tier.REMOTE, 62)
    gone = decide_caches(view(caches=caches, models=()), make.NOW)
    assert entry(gone, "n2") is None
