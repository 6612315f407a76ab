"""What a WeightCache says of itself, which agents are replaced when, and which events tell of fetches."""

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from support import make, stores
from support.stores import GIB, seen
from warmfleet_api import names
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.status import Condition
from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem
from warmfleet_api.weight_cache import WeightCacheStatus
from warmfleet_api.weights import entry_key
from warmfleet_kube.objects import Metadata
from warmfleet_operator.build.agent import AGENT_MEMORY_BYTES
from warmfleet_operator.decide.caches import CachesView, Trouble, decide_caches
from warmfleet_operator.decide.caches_agents import Replacements, replaceable
from warmfleet_operator.decide.caches_events import entry_events
from warmfleet_operator.decide.caches_groups import Group
from warmfleet_operator.decide.caches_status import cache_status
from warmfleet_operator.records import Container, Pod, PodSpec, ResourceRequirements

NODES = [make.node(name) for name in ("n1", "n2", "n3")]
KEYS = {name: entry_key(f"hf://org/{name}", stores.REVISION) for name in ("big", "small", "lost")}


def status_of(view: CachesView, name: str = "default", **short: int) -> WeightCacheStatus:
    group = next(each for each in view.groups if each.name == name)
    return cache_status(view, decide_caches(view, make.NOW), group, make.NOW, short)


def conditions(status: WeightCacheStatus) -> Mapping[str, Condition]:
    return {each.type: each for each in status.conditions}


def told(view: CachesView, kind: str, name: str = "default", **short: int) -> tuple[str, str, str]:
    condition = conditions(status_of(view, name, **short))[kind]
    return condition.status, condition.reason, condition.message


def listing(*lines: str, memory: str = "10Gi") -> Group:
    return stores.group(memory=memory, models=[stores.line(name, revision=stores.REVISION) for name in lines])


def test_an_empty_list_fits_and_agents_that_work_are_ready() -> None:
    view = stores.view(NODES, [stores.group()])
    assert told(view, "Fits")[:2] == ("True", "Fits")
    assert told(view, "Ready")[:2] == ("True", "AgentsReady")
    status = status_of(view)
    assert (status.nodes, status.ready_nodes) == (3, 3)


def test_models_that_do_not_fit_are_named_with_what_is_missing() -> None:
    known = [seen(KEYS["big"], Tier.REMOTE, EntryState.KNOWN, size=8 * GIB)]
    known.append(seen(KEYS["small"], Tier.REMOTE, EntryState.KNOWN, size=3 * GIB))
    view = stores.view(NODES[:1], [listing("big", "small")], caches=[stores.cache("n1", has=known)])
    status, reason, message = told(view, "Fits")
    assert (status, reason) == ("False", "PreloadExceedsSize")
    assert "small (3.0 GiB) can't be kept in the 2.0 GiB that others leave of memory.size 10.0 GiB" in message
    assert "1.0 GiB too much" in message


def test_the_lowest_class_is_left_out_whatever_the_order_of_the_list() -> None:
    group = stores.group(
        memory="10Gi",
        models=[
            stores.line("big", revision=stores.REVISION, priority="Low"),
            stores.line("small", revision=stores.REVISION, priority="High"),
        ],
    )
    known = [seen(KEYS[name], Tier.REMOTE, EntryState.KNOWN, size=6 * GIB) for name in ("big", "small")]
    view = stores.view(NODES[:1], [group], caches=[stores.cache("n1", has=known)])
    assert told(view, "Fits")[2].startswith("big (6.0 GiB)")


def test_a_size_that_nobody_knows_makes_fits_unknown() -> None:
    view = stores.view(NODES[:1], [listing("big")])
    assert told(view, "Fits")[:2] == ("Unknown", "SizesUnknown")


def test_a_failed_preload_is_said_with_the_node_and_its_words() -> None:
    failed = seen(KEYS["lost"], Tier.REMOTE, problem=WeightsProblem.ACCESS_DENIED)
    view = stores.view(NODES[:1], [listing("lost")], caches=[stores.cache("n1", has=[failed])])
    status, reason, message = told(view, "Ready")
    assert (status, reason) == ("False", "PreloadFailed")
    assert "lost: AccessDenied on n1: so it is" in message


def test_nodes_without_an_agent_that_works_are_named_with_the_reason_and_a_command() -> None:
    caches = [stores.cache("n1", trouble="its agent a-1 is not Ready"), stores.cache("n2")]
    view = stores.view(NODES[:2], [stores.group()], caches=caches)
    status, reason, message = told(view, "Ready")
    assert (status, reason) == ("False", "AgentsMissing")
    assert "1 of 2 nodes have no agent that works: n1 (its agent a-1 is not Ready)" in message
    assert "kubectl -n warmfleet-agents get pods" in message


def test_a_cache_without_nodes_says_how_to_find_some() -> None:
    view = stores.view(NODES, [stores.group(nodeSelector={"gpu": "h100"})], caches=[])
    assert told(view, "Ready")[:2] == ("False", "NoNodes")
    assert "kubectl get nodes -l gpu=h100" in told(view, "Ready")[2]


def test_memory_that_can_not_grow_is_said_with_the_node_and_the_amount() -> None:
    view = stores.view(NODES, [stores.group()])
    status, reason, message = told(view, "Fits", n2=3 * GIB)
    assert (status, reason) == ("False", "NodeMemoryTaken")
    assert "n2 (3.0 GiB more)" in message


def test_the_same_facts_later_give_the_same_status() -> None:
    view = stores.view(NODES, [listing("big")])
    first = status_of(view)
    (group,) = view.groups
    later = replace(view, groups=(Group(group.metadata, group.spec, first),))
    assert status_of(later) == first


def agent(node: str, hash_: str, memory_bytes: int) -> Pod:
    requests = ResourceRequirements(requests={"memory": memory_bytes + AGENT_MEMORY_BYTES})
    return Pod(
        metadata=Metadata(
            name=f"agent-{node}",
            namespace=names.AGENT_NAMESPACE,
            labels={names.LABEL_CACHE: "default", names.LABEL_TEMPLATE_HASH: hash_},
        ),
        spec=PodSpec(node_name=node, containers=(Container(name="agent", resources=requests),)),
    )


def replaced(
    hashes: Mapping[str, str], *, had: int = 64 * GIB, troubled: tuple[str, ...] = (), free: str = "256Gi"
) -> Replacements:
    nodes = [make.node(name, memory=free) for name in hashes]
    agents = {node: agent(node, hash_, had) for node, hash_ in hashes.items()}
    view = stores.view(nodes, [stores.group(memory="64Gi")])
    view = replace(
        view,
        fleet=replace(view.fleet, strangers=tuple(agents.values())),
        agents=agents,
        agent_hashes={"default": "new"},
        allotted_bytes=dict.fromkeys(agents, had),
        troubles={node: Trouble("it fails") for node in troubled},
    )
    return replaceable(view, decide_caches(view, make.NOW))


def test_agents_of_a_former_spec_go_one_at_a_time_while_all_others_work() -> None:
    assert replaced({"n1": "new", "n2": "new"}) == Replacements()
    assert [pod.metadata.name for pod, _ in replaced({"n1": "new", "n2": "old", "n3": "old"}).pods] == ["agent-n2"]
    assert replaced({"n1": "new", "n2": "old", "n3": "old"}, troubled=("n1",)).pods == ()
    broken = replaced({"n1": "old", "n2": "old", "n3": "old"}, troubled=("n3",))
    assert [pod.metadata.name for pod, _ in broken.pods] == ["agent-n3"]


def test_agents_that_still_work_as_a_former_spec_says_are_counted_with_the_command_that_replaces_them() -> None:
    agents = {name: agent(name, hash_, 64 * GIB) for name, hash_ in (("n1", "new"), ("n2", "old"))}
    view = replace(stores.view(NODES[:2], [stores.group()]), agents=agents, agent_hashes={"default": "new"})
    status, reason, message = told(view, "Ready")
    assert (status, reason) == ("True", "AgentsReady")
    assert "2 of 2 agents work, 1 of them as a former spec or version says (n2)" in message
    selector = f"{names.LABEL_CACHE}=default,{names.LABEL_TEMPLATE_HASH}!=new"
    assert f"kubectl -n {names.AGENT_NAMESPACE} delete pods -l {selector}" in message
    assert "former" not in told(replace(view, agents={"n1": agents["n1"]}), "Ready")[2]


def test_an_agent_that_is_to_get_more_memory_goes_only_where_its_node_has_it() -> None:
    short = replaced({"n1": "old"}, had=32 * GIB, free="50Gi")
    assert short.pods == ()
    assert short.short == {"default": {"n1": 64 * GIB - 50 * GIB + AGENT_MEMORY_BYTES}}
    assert len(replaced({"n1": "old"}, had=32 * GIB, free="80Gi").pods) == 1
    assert len(replaced({"n1": "old"}, had=96 * GIB, free="97Gi").pods) == 1, "a smaller one fits anyway"


def test_an_agent_that_ends_already_is_not_ended_again() -> None:
    pod = agent("n1", "old", 64 * GIB)
    ending = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, deletion_timestamp="now"))
    view = replace(stores.view(NODES[:1], [stores.group()]), agents={"n1": ending}, agent_hashes={"default": "new"})
    assert replaceable(view, decide_caches(view, make.NOW)) == Replacements()


def test_events_tell_of_a_fetch_that_failed_and_of_weights_that_came() -> None:
    key = KEYS["big"]
    wanted = {key: WantedEntry(key=key, uri="hf://org/big", tier=Tier.MEMORY)}
    waits = {key: seen(key, Tier.REMOTE, EntryState.FETCHING)}
    there = {key: seen(key, Tier.MEMORY, size=3 * GIB).model_copy(update={"bytes_per_second": GIB})}
    failed = {key: seen(key, Tier.REMOTE, problem=WeightsProblem.SOURCE_UNREACHABLE)}
    (came,) = entry_events("n1", wanted, waits, there)
    assert (came.reason, came.message) == ("Fetched", "hf://org/big is in memory on n1: 3.0 GiB at 1.0 GiB/s")
    (told_,) = entry_events("n1", wanted, waits, failed)
    assert (told_.type, told_.message) == ("Warning", "hf://org/big on n1: SourceUnreachable: so it is")
    assert list(entry_events("n1", wanted, failed, failed)) == []
    assert list(entry_events("n1", {}, waits, failed)) == []
