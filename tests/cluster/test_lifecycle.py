"""What a person does to a model with kubectl, and what becomes of it."""

import json

import pytest

from support.endstate import wait_tidy
from support.models import simulated
from support.namespace import Namespace, settled
from support.operator import ProxiedOperator
from warmfleet_api import names

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]


def test_the_smallest_simulated_model_becomes_ready_and_says_how(namespace: Namespace) -> None:
    namespace.apply(simulated("small"))
    namespace.wait_ready("small")
    status = namespace.model("small")["status"]
    assert status["endpoint"] == f"http://small.{namespace.name}.svc/v1"
    assert status["lastStart"]["result"] == "Succeeded"
    assert {stage["name"] for stage in status["lastStart"]["stages"]} >= {"Queued", "RunnerReady", "Routable"}
    assert [engine["state"] for engine in status["engines"]] == ["Ready"]


def test_kubectl_wait_returns_when_a_model_is_ready(namespace: Namespace) -> None:
    namespace.apply(simulated("awaited"))
    assert "condition met" in namespace.kubectl("wait", "--for=condition=Ready", "mdl/awaited", "--timeout=240s")


def test_kubectl_scale_adds_and_takes_away_runners(namespace: Namespace) -> None:
    namespace.apply(simulated("scaled"))
    namespace.wait_ready("scaled")
    first = namespace.runners("scaled")[0]["metadata"]["uid"]
    namespace.kubectl("scale", "mdl/scaled", "--replicas=3")
    namespace.wait_ready("scaled")
    assert len(namespace.runners("scaled")) == 3
    selector = namespace.model("scaled")["status"]["selector"]
    assert len(namespace.api.list(f"{namespace.core_path}/pods", labelSelector=selector)) == 3
    namespace.kubectl("scale", "mdl/scaled", "--replicas=1")
    namespace.wait("one runner is left", lambda: len(namespace.runners("scaled")) == 1)
    assert namespace.runners("scaled")[0]["metadata"]["uid"] == first
    namespace.wait_ready("scaled")


def test_a_model_of_no_replicas_is_stopped_and_comes_back(namespace: Namespace) -> None:
    namespace.apply(simulated("stopped"))
    namespace.wait_ready("stopped")
    namespace.kubectl("scale", "mdl/stopped", "--replicas=0")
    namespace.wait_condition("stopped", "Ready", "False", "Stopped")
    namespace.wait("no runner is left", lambda: not namespace.runners("stopped"))
    namespace.kubectl("scale", "mdl/stopped", "--replicas=1")
    namespace.wait_ready("stopped")


def test_a_changed_spec_rolls_out_while_the_model_stays_ready(namespace: Namespace) -> None:
    namespace.apply(simulated("rolled"))
    namespace.wait_ready("rolled")
    before = namespace.runners("rolled")[0]["metadata"]
    namespace.change("rolled", engine={"simulated": {"tokensPerSecond": 321}})
    seen: set[str] = set()

    def replaced() -> bool:
        model = namespace.model("rolled")
        conditions = {each["type"]: each["status"] for each in model["status"]["conditions"]}
        seen.add(conditions["Ready"])
        uids = {runner["metadata"]["uid"] for runner in namespace.runners("rolled")}
        return settled(model) and len(uids) == 1 and before["uid"] not in uids

    namespace.wait("the new spec serves and the old runner is gone", replaced)
    assert seen == {"True"}
    after = namespace.runners("rolled")[0]["metadata"]
    assert after["labels"][names.LABEL_TEMPLATE_HASH] != before["labels"][names.LABEL_TEMPLATE_HASH]


def test_a_changed_spec_that_fails_leaves_the_old_one_serving(namespace: Namespace) -> None:
    namespace.apply(simulated("kept"))
    namespace.wait_ready("kept")
    before = namespace.runners("kept")[0]["metadata"]["uid"]
    namespace.change("kept", engine={"simulated": {"fault": {"kind": "CrashAtStart"}}})
    namespace.wait_condition("kept", "Stalled", "True", "EngineCrashing")
    conditions = {each["type"]: each["status"] for each in namespace.model("kept")["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    assert before in {runner["metadata"]["uid"] for runner in namespace.runners("kept")}


def test_a_lost_runner_is_replaced_in_its_slot(namespace: Namespace) -> None:
    namespace.apply(simulated("lost"))
    namespace.wait_ready("lost")
    lost = namespace.runners("lost")[0]["metadata"]
    namespace.api.delete(f"{namespace.core_path}/pods/{lost['name']}", gracePeriodSeconds=0)

    def replaced() -> bool:
        uids = [runner["metadata"]["uid"] for runner in namespace.runners("lost")]
        return bool(uids) and lost["uid"] not in uids and settled(namespace.model("lost"))

    namespace.wait("another runner serves", replaced)
    found = namespace.runners("lost")[0]["metadata"]
    assert found["labels"][names.LABEL_SLOT] == lost["labels"][names.LABEL_SLOT]


def test_a_deleted_service_comes_back(namespace: Namespace) -> None:
    namespace.apply(simulated("routed"))
    namespace.wait_ready("routed")
    path = f"{namespace.core_path}/services/routed"
    before = namespace.api.get(path)
    assert before is not None
    namespace.api.delete(path)
    namespace.wait("the Service is there again", lambda: (namespace.api.get(path) or before) != before)


def test_deletion_of_a_model_leaves_nothing(namespace: Namespace) -> None:
    namespace.apply(simulated("gone", replicas=2), simulated("kept"))
    namespace.wait_ready("gone", "kept")
    namespace.kubectl("delete", "mdl/gone", "--timeout=120s")
    namespace.wait("its runners are gone", lambda: not namespace.runners("gone"))
    namespace.wait("its Service is gone", lambda: namespace.api.get(f"{namespace.core_path}/services/gone") is None)
    wait_tidy(namespace)
    namespace.kubectl("delete", "mdl/kept", "--timeout=120s")
    budgets = f"apis/policy/v1/namespaces/{namespace.name}/poddisruptionbudgets"
    namespace.wait("runners and budget are gone", lambda: not namespace.runners() and not namespace.api.list(budgets))


def test_a_model_recreated_under_its_name_gets_new_runners(namespace: Namespace) -> None:
    namespace.apply(simulated("again"))
    namespace.wait_ready("again")
    old = namespace.runners("again")[0]["metadata"]["uid"]
    namespace.remove("again")
    namespace.apply(simulated("again"))

    def only_new() -> bool:
        runners = namespace.runners("again")
        return settled(namespace.model("again")) and len(runners) == 1 and runners[0]["metadata"]["uid"] != old

    namespace.wait("only a new runner is left", only_new)
    wait_tidy(namespace)


def test_columns_say_what_a_person_looks_for(namespace: Namespace) -> None:
    namespace.apply(simulated("columns", priority="Low"))
    namespace.wait_ready("columns")
    header, row = namespace.kubectl("get", "mdl").splitlines()
    assert header.split() == [
        "NAME",
        "READY",
        "STATUS",
        "DESIRED",
        "SERVING",
        "PRIORITY",
        "PENDING",
        "LAST-START",
        "AGE",
    ]
    assert row.split()[:6] == ["columns", "True", "Serving", "1", "1", "Low"]
    wide = namespace.kubectl("get", "mdl", "--output", "wide").splitlines()[0].split()
    assert wide[9:] == ["MODEL", "CANARY", "GPUS", "NODE", "READY-AT", "BLOCKER", "ENDPOINT"]
    assert "columns" in namespace.kubectl("get", "warmfleet")


@pytest.mark.parametrize("field", ["spec", "spec.model", "spec.engine.simulated", "spec.resources", "status.lastStart"])
def test_kubectl_explain_describes_every_field(namespace: Namespace, field: str) -> None:
    text = namespace.kubectl("explain", f"mdl.{field}")
    assert "FIELDS:" in text
    assert "<no description>" not in text


def test_events_tell_the_story_of_a_start_in_words(namespace: Namespace) -> None:
    namespace.apply(simulated("told"))
    namespace.wait_ready("told")

    def started() -> bool:
        return any(
            each["reason"] == "StartSucceeded" and each["regarding"]["name"] == "told" for each in namespace.events()
        )

    namespace.wait("the event StartSucceeded", started)


def test_runners_carry_no_rights_and_no_secret(namespace: Namespace) -> None:
    namespace.apply(simulated("bare"))
    namespace.wait_ready("bare")
    spec = namespace.runners("bare")[0]["spec"]
    assert spec["automountServiceAccountToken"] is False
    container = spec["containers"][0]["securityContext"]
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"]["drop"] == ["ALL"]
    assert "secret" not in json.dumps(spec["volumes"])


def test_a_model_shares_nodes_by_their_gpus(namespace: Namespace, operator: ProxiedOperator) -> None:
    namespace.apply(*(simulated(f"half-{number}", gpus=4) for number in range(4)), simulated("whole", gpus=8))
    namespace.wait_ready("whole", *(f"half-{number}" for number in range(4)))
    held: dict[str, int] = {}
    for runner in namespace.runners():
        node = runner["spec"]["nodeName"]
        held[node] = held.get(node, 0) + int(runner["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert max(held.values()) <= 8
    assert operator.running
