"""A model that can't start says so within 30 s, in words that help, and disturbs no other."""

import json

import pytest

from support.kubeapi import Object
from support.models import model_deployment, simulated, vllm
from support.namespace import Namespace, settled

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

STALLED_SECONDS = 30


def stalled(namespace: Namespace, model: Object, reason: str) -> str:
    """Apply a model and return the message with which it is Stalled."""
    namespace.apply(model)
    found = namespace.wait_condition(model["metadata"]["name"], "Stalled", "True", reason, within=STALLED_SECONDS)
    message: str = found["message"]
    return message


def test_a_crashing_model_is_stalled_and_its_neighbour_serves_on(namespace: Namespace) -> None:
    namespace.apply(simulated("healthy"))
    namespace.wait_ready("healthy")
    neighbour = namespace.runners("healthy")[0]["metadata"]["uid"]
    message = stalled(namespace, simulated("crashing", fault="CrashAtStart"), "EngineCrashing")
    assert "engine.simulated.fault" in message
    namespace.stays("the neighbour serves", lambda: settled(namespace.model("healthy")), 5)
    namespace.apply(simulated("late"))
    namespace.wait_ready("late")
    assert [runner["metadata"]["uid"] for runner in namespace.runners("healthy")] == [neighbour]


def test_a_crashing_model_recovers_once_its_spec_is_mended(namespace: Namespace) -> None:
    stalled(namespace, simulated("mended", fault="CrashAtStart"), "EngineCrashing")
    namespace.change("mended", engine={"simulated": {"fault": None}})
    namespace.wait_ready("mended")
    assert namespace.condition("mended", "Stalled") is None


def test_more_gpus_than_any_node_has_never_fit(namespace: Namespace) -> None:
    message = stalled(namespace, simulated("huge", gpus=64), "NeverFits")
    assert "64" in message
    assert "8" in message
    assert "spec.resources" in message


def test_an_option_vllm_does_not_know_is_named(namespace: Namespace) -> None:
    model = vllm("option", "/srv/models/any", args=["--no-such-option"])
    assert "--no-such-option" in stalled(namespace, model, "InvalidArgs")
    assert not namespace.runners("option")


def test_weights_without_a_store_say_what_is_missing(namespace: Namespace) -> None:
    namespace.apply(vllm("storeless", "/srv/models/any"))
    found = namespace.wait_condition("storeless", "WeightsReady", "False", "NoWeightCache", within=STALLED_SECONDS)
    assert "kubectl get weightcaches" in found["message"]
    assert not namespace.runners("storeless")


def test_a_folder_that_climbs_out_of_its_root_is_refused(namespace: Namespace) -> None:
    stalled(namespace, vllm("climbing", "/srv/models/../../etc"), "ForbiddenSource")
    assert not namespace.runners("climbing")


def test_a_service_of_that_name_is_left_to_its_owner(namespace: Namespace) -> None:
    service = {"metadata": {"name": "taken"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "other"}}}
    namespace.api.create(f"{namespace.core_path}/services", service)
    assert "taken" in stalled(namespace, simulated("taken"), "NameTaken")
    kept = namespace.api.get(f"{namespace.core_path}/services/taken")
    assert kept is not None
    assert kept["spec"]["selector"] == {"app": "other"}
    namespace.api.delete(f"{namespace.core_path}/services/taken")
    namespace.wait_ready("taken")


def test_a_hanging_start_passes_its_deadline(namespace: Namespace) -> None:
    model = simulated("hanging", fault="HangAtStart", rollout={"progressDeadlineSeconds": 3})
    assert "3 s" in stalled(namespace, model, "ProgressDeadlineExceeded")


def test_a_model_without_a_place_says_what_it_waits_for(namespace: Namespace) -> None:
    selector = {"nodeSelector": {"topology.kubernetes.io/zone": "nowhere"}}
    namespace.apply(simulated("placeless", podTemplate=selector))
    found = namespace.wait_condition("placeless", "Scheduled", "False", "NoMatchingNode", within=STALLED_SECONDS)
    assert "nowhere" in found["message"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"model": {"uri": "hf://a/b"}, "engine": {"type": "Simulated"}, "replica": 2}, "replica"),
        ({"model": {"uri": "hf://a/b"}, "engine": {"type": "Imagined"}}, "Simulated"),
        ({"model": {"uri": "hf://a/b"}, "engine": {"type": "Simulated"}, "replicas": -1}, "greater than or equal to 0"),
        ({"model": {"uri": "ftp://a/b"}}, "file:///"),
    ],
)
def test_kubectl_apply_refuses_what_it_can_see(namespace: Namespace, spec: Object, words: str) -> None:
    manifest = model_deployment("refused", spec)
    with pytest.raises(AssertionError, match=words):
        namespace.kubectl("apply", "--server-side", "--filename", "-", stdin=json.dumps(manifest))


def test_a_name_too_long_for_its_runners_is_refused(namespace: Namespace) -> None:
    with pytest.raises(AssertionError, match="50"):
        namespace.kubectl("apply", "--filename", "-", stdin=json.dumps(simulated("x" * 51)))
