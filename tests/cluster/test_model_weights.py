"""A model that reads weights, from its source's answer to its runner; the test plays the agents of its nodes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from support.cluster import Cluster
from support.kubeapi import Object
from support.models import model_deployment
from support.namespace import Namespace, new_name
from support.operator import ProxiedOperator
from warmfleet_api import assignment, names
from warmfleet_api.weights import entry_key

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

GROUP_PATH = f"apis/{names.API_VERSION}"
REVISION, OTHER = "a" * 40, "b" * 40
GIB = 1024**3
ASKED_SECONDS = 60


@dataclass
class Stores:
    """Two nodes under a label of their own, and the WeightCache that selects them once it is made."""

    cluster: Cluster
    name: str
    """Of the WeightCache."""
    selector: dict[str, str]
    """Labels of the nodes."""
    nodes: tuple[str, str]

    @property
    def uri(self) -> str:
        """What models of this test read: no other test's nodes know it."""
        return f"hf://org/{self.name}"

    @property
    def question(self) -> str:
        """Key under which a node is asked what the source calls current."""
        return entry_key(self.uri, "")

    @property
    def key(self) -> str:
        """Key of the answer."""
        return entry_key(self.uri, REVISION)

    @property
    def path(self) -> str:
        """Path of the WeightCache."""
        return f"{GROUP_PATH}/{names.WEIGHT_CACHE_PLURAL}/{self.name}"

    def make(self, **spec: Any) -> None:
        """Make the WeightCache."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.WEIGHT_CACHE_KIND,
            "metadata": {"name": self.name},
            "spec": {"nodeSelector": self.selector, "memory": {"size": "4Gi"}} | spec,
        }
        self.cluster.api.create(f"{GROUP_PATH}/{names.WEIGHT_CACHE_PLURAL}", body)

    def spec(self, node: str) -> Object:
        """Return what a node is told."""
        found = self.cluster.api.get(f"{GROUP_PATH}/{names.NODE_CACHE_PLURAL}/{node}")
        return found["spec"] if found is not None else {}

    def wanted(self, node: str) -> dict[str, Object]:
        """Return the entries a node is told to keep, by key."""
        return {entry["key"]: entry for entry in self.spec(node).get("entries", [])}

    def say(self, node: str, *entries: Object) -> None:
        """Say what a node has, as its agent does."""
        path = f"{GROUP_PATH}/{names.NODE_CACHE_PLURAL}/{node}/status"
        self.cluster.api.merge(path, {"status": {"entries": list(entries)}})

    def who_is_told(self, key: str) -> list[str]:
        """Return the nodes that are told of an entry."""
        return [node for node in self.nodes if key in self.wanted(node)]


@pytest.fixture
def stores(cluster: Cluster) -> Iterator[Stores]:
    """Two fake nodes that no other test selects."""
    chosen = sorted(node["metadata"]["name"] for node in cluster.api.list("api/v1/nodes"))[:2]
    name = new_name("weights")
    found = Stores(cluster, name, {"test.warmfleet.dev/weights": name}, (chosen[0], chosen[1]))
    for node in chosen:
        cluster.api.merge(f"api/v1/nodes/{node}", {"metadata": {"labels": found.selector}})
    yield found
    if cluster.api.get(found.path) is not None:
        cluster.api.delete(found.path)
    for node in chosen:
        cluster.api.merge(f"api/v1/nodes/{node}", {"metadata": {"labels": dict.fromkeys(found.selector)}})


def reading(name: str, stores: Stores, **model: Any) -> Object:
    """Return a model that reads weights and runs on these nodes only."""
    spec = {
        "model": {"uri": stores.uri} | model,
        "resources": {"cpu": "100m", "memory": "256Mi"},
        "podTemplate": {"nodeSelector": stores.selector},
    }
    return model_deployment(name, spec)


def known(key: str, **fields: Any) -> Object:
    """An entry as a node has it that was asked for it."""
    return {"key": key, "tier": "Remote", "state": "Known", "revision": REVISION, "bytes": GIB} | fields


def assigned(runner: Object) -> assignment.Assignment:
    """Return what a runner is told."""
    return assignment.decode(runner["metadata"]["annotations"][names.ANNOTATION_ASSIGNMENT])


def placed(namespace: Namespace, model: str, count: int = 1) -> list[Object]:
    """Wait until a model has as many runners; return them."""

    def runners() -> list[Object] | None:
        found = namespace.runners(model)
        return found if len(found) == count else None

    return namespace.wait(f"{model} has {count} runners", runners)


def test_a_model_is_asked_for_placed_fetched_and_shown(namespace: Namespace, stores: Stores) -> None:
    namespace.apply(reading("tiny", stores))
    missing = namespace.wait_condition("tiny", "WeightsReady", "False", "NoWeightCache", within=ASKED_SECONDS)
    assert "kubectl get weightcaches" in missing["message"]
    assert namespace.condition("tiny", "Stalled") is None, "a WeightCache may be on its way"
    # 1. With stores it is asked for, on one node, and nothing is placed yet.
    stores.make()
    namespace.wait("a node is asked", lambda: len(stores.who_is_told(stores.question)) == 1, ASKED_SECONDS)
    (asked,) = stores.who_is_told(stores.question)
    assert stores.wanted(asked)[stores.question]["tier"] == "Remote"
    namespace.wait_condition("tiny", "WeightsReady", "Unknown", "WeightsUnknown", within=ASKED_SECONDS)
    assert not namespace.runners("tiny")
    # 2. The answer is frozen, and the model gets its place at once, with a view of the store.
    stores.say(asked, known(stores.question))
    (runner,) = placed(namespace, "tiny")
    (line,) = namespace.model("tiny")["status"]["weights"]
    assert (line["key"], line["revision"], line["bytes"]) == (stores.key, REVISION, GIB)
    assert assigned(runner).engines[0].engine.folder == f"/weights/{stores.key}"
    (volume,) = [each for each in runner["spec"]["volumes"] if "csi" in each]
    assert volume["csi"] == {"driver": names.CSI_DRIVER, "readOnly": True}
    node = namespace.wait("it is bound", lambda: namespace.runners("tiny")[0]["spec"].get("nodeName"))
    # 3. Its node is told to keep the weights in memory, and to show them to this runner.
    namespace.wait(
        "its node is told", lambda: stores.wanted(node).get(stores.key, {}).get("tier") == "Memory", ASKED_SECONDS
    )
    uid = runner["metadata"]["uid"]
    namespace.wait(
        "a view", lambda: {"uid": uid, "keys": [stores.key]} in stores.spec(node).get("views", []), ASKED_SECONDS
    )
    fetching = namespace.wait_condition("tiny", "WeightsReady", "False", "Fetching", within=ASKED_SECONDS)
    assert fetching["message"].startswith("weights: 0 B of 1.0 GiB") or "does not work" in fetching["message"]
    # 4. What the agent says of it is what the model says.
    error = {"reason": "SourceUnreachable", "message": "no route to huggingface.co"}
    stores.say(node, known(stores.key, state="Failed", error=error))
    assert "no route" in namespace.wait_condition("tiny", "WeightsReady", "False", "SourceUnreachable")["message"]
    stores.say(node, known(stores.key, tier="Memory", state="Present", digest="sha256:" + "0" * 64))
    there = namespace.wait_condition("tiny", "WeightsReady", "True", "InMemory")
    assert there["message"] == f"1.0 GiB in memory of {node}"
    status = namespace.model("tiny")["status"]
    assert status["weights"][0]["memoryNodes"] == [node]
    assert status["model"] == {"bytes": GIB, "revision": REVISION, "digest": "sha256:" + "0" * 64}


def test_a_model_scales_out_with_the_weights_it_began_with(namespace: Namespace, stores: Stores) -> None:
    stores.make()
    namespace.apply(reading("tiny", stores))
    namespace.wait("a node is asked", lambda: len(stores.who_is_told(stores.question)) == 1, ASKED_SECONDS)
    (asked,) = stores.who_is_told(stores.question)
    stores.say(asked, known(stores.question))
    placed(namespace, "tiny")
    # The source calls something else current by now.
    stores.say(asked, known(stores.question, revision=OTHER), known(stores.key, tier="Memory", state="Present"))
    namespace.change("tiny", replicas=2)
    runners = placed(namespace, "tiny", 2)
    assert {each.engine.folder for runner in runners for each in assigned(runner).engines} == {f"/weights/{stores.key}"}
    # Asking for a revision is another question, and its answer is rolled out.
    namespace.change("tiny", replicas=1, model={"revision": OTHER})
    pinned = entry_key(stores.uri, OTHER)
    namespace.wait("a node is asked", lambda: stores.who_is_told(pinned), ASKED_SECONDS)
    for node in stores.who_is_told(pinned):
        stores.say(node, known(pinned, revision=OTHER), known(stores.key, tier="Memory", state="Present"))
    folder = f"/weights/{pinned}"
    namespace.wait(
        "the new revision starts",
        lambda: any(assigned(each).engines[0].engine.folder == folder for each in namespace.runners("tiny")),
        30,
    )


def test_an_answer_that_only_a_person_can_mend_stalls_the_model(namespace: Namespace, stores: Stores) -> None:
    stores.make(fileRoots=["/srv/models"])
    namespace.apply(reading("gated", stores), reading("outside", stores, uri="file:///etc/models"))
    namespace.wait("a node is asked", lambda: stores.who_is_told(stores.question), ASKED_SECONDS)
    error = {"reason": "AccessDenied", "message": "accept the licence"}
    for node in stores.who_is_told(stores.question):
        stores.say(node, {"key": stores.question, "tier": "Remote", "state": "Failed", "error": error})
    denied = namespace.wait_condition("gated", "Stalled", "True", "AccessDenied")
    assert denied["message"] == f"{stores.uri}: accept the licence"
    outside = namespace.wait_condition("outside", "Stalled", "True", "ForbiddenSource")
    assert "file:///etc/models is not below /srv/models" in outside["message"]
    assert f"kubectl edit weightcache {stores.name}" in outside["message"]
    assert not namespace.runners()


def test_models_that_read_nothing_need_no_store(namespace: Namespace, operator: ProxiedOperator) -> None:
    spec = {"model": {"uri": "hf://org/nothing"}, "engine": {"type": "Simulated"}, "resources": {"cpu": "10m"}}
    namespace.apply(model_deployment("simulated", spec))
    namespace.wait_ready("simulated")
    (runner,) = namespace.runners("simulated")
    assert not any("csi" in volume for volume in runner["spec"]["volumes"])
