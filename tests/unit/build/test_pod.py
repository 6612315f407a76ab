"""The runner's pod: as written down, as Kubernetes takes it, and as the decisions read it back."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from support import make, make_weights
from warmfleet_api import assignment, names
from warmfleet_operator.build.pod import runner_pod
from warmfleet_operator.decide.actions import CreateRunner
from warmfleet_operator.decide.assign import assignment_of, pooled_engine, whole
from warmfleet_operator.decide.fleet import Model, Owner
from warmfleet_operator.decide.runners import member_of, node_of, owner_of

KUBERNETES = "1.35"
GOLDEN = Path(__file__).parent / "golden"

SMALL = make.model("llama")
LARGE = make_weights.model(
    "qwen",
    uri="hf://Qwen/Qwen3-0.6B",
    engine={"type": "VLLM", "maxModelLen": 8192, "args": ["--enforce-eager"]},
    model={"uri": "hf://Qwen/Qwen3-0.6B", "servedNames": ["qwen", "qwen3"]},
    resources={"gpus": 2, "gpuMemory": "40Gi", "cpu": "4", "memory": "16Gi"},
    podTemplate={
        "image": "registry.example/own:2",
        "nodeSelector": {"pool": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "registry"}],
    },
)


POOL = make.pool("h100", gpus=8, cpu="32", memory="512Gi", nodeSelector={"pool": "h100"}, runtimeClassName="nvidia")
OWNERS: tuple[Owner, ...] = (SMALL, LARGE, POOL)


def pod(owner: Owner) -> dict[str, Any]:
    assignment = assignment_of(owner, 1) if isinstance(owner, Model) else whole(1, (), ())
    sees_weights = owner is not SMALL
    return runner_pod(CreateRunner(owner, 0, 1, "n1", assignment, 60, "made for a test", sees_weights), make.LIMITS)


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.key.name)
def test_the_pod_is_the_one_written_down(owner: Owner) -> None:
    """The pod's template is a promise to running fleets; write the new file by hand if the promise changes."""
    written = yaml.safe_load((GOLDEN / f"{owner.key.name}.yaml").read_text())
    assert pod(owner) == written


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.key.name)
def test_kubernetes_knows_every_field_of_the_pod(owner: Owner) -> None:
    kubernetes_validate.validate(pod(owner), KUBERNETES, strict=True)


@pytest.mark.parametrize("owner", [LARGE, POOL], ids=["own runner", "runner of a pool"])
def test_a_runner_has_one_volume_for_whatever_it_will_read(owner: Owner) -> None:
    spec = pod(owner)["spec"]
    (volume,) = [each for each in spec["volumes"] if "csi" in each]
    assert volume["csi"] == {"driver": "weights.warmfleet.dev", "readOnly": True}
    (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == volume["name"]]
    assert (mount["mountPath"], mount["readOnly"]) == ("/weights", True)
    assert not any("hostPath" in each for each in spec["volumes"])


def test_an_engine_reads_its_entries_wherever_it_runs() -> None:
    own, pooled = assignment_of(LARGE, 1).engines[0].engine, pooled_engine(LARGE, 0, 1, (2, 3)).engine
    assert own.folder == pooled.folder == f"/weights/{LARGE.weights[0].key}"
    assert assignment_of(SMALL, 1).engines[0].engine.folder == "/weights", "it reads nothing"


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.key.name)
def test_a_runner_keeps_to_pod_security_restricted(owner: Owner) -> None:
    spec = pod(owner)["spec"]
    kinds = {next(iter(set(volume) - {"name"})) for volume in spec["volumes"]}
    assert kinds == {"downwardAPI", "emptyDir"} | (set() if owner is SMALL else {"csi"})
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_startup_probe_waits_as_long_as_the_start_may_take() -> None:
    action = CreateRunner(SMALL, 0, 1, "n1", assignment_of(SMALL, 1), 290, "made for a test")
    probe = runner_pod(action, make.LIMITS)["spec"]["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 290


def test_decisions_read_back_what_was_built() -> None:
    runner = make.reassigned(make.runner(LARGE, "n1", slot=3, attempt=12))
    member = member_of(runner, {"n1": make.node("n1")})
    assert (member.node, member.slot, member.attempt, member.hash) == ("n1", 3, 12, LARGE.hash)
    assert owner_of(runner.pod) == LARGE.key
    assert node_of(runner.pod) == node_of(make.scheduled(runner).pod) == "n1"
    assert runner.pod.metadata.controller_uid == LARGE.metadata.uid
    assert runner.assignment == assignment_of(LARGE, 1)


def test_the_assignment_carries_no_more_than_an_annotation_may() -> None:
    value = pod(LARGE)["metadata"]["annotations"][names.ANNOTATION_ASSIGNMENT]
    assert len(value) <= assignment.MAX_BYTES
