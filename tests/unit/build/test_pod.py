"""The runner's pod: as written down, as Kubernetes takes it, and as the decisions read it back."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from support import make
from warmfleet_api import assignment, names
from warmfleet_operator.build.pod import runner_pod
from warmfleet_operator.decide.actions import CreateRunner
from warmfleet_operator.decide.assign import assignment_of, pooled_engine, whole
from warmfleet_operator.decide.fleet import Model, Owner
from warmfleet_operator.decide.runners import member_of, node_of, owner_of

KUBERNETES = "1.35"
GOLDEN = Path(__file__).parent / "golden"

SMALL = make.model("llama")
LARGE = make.model(
    "qwen",
    engine={"type": "VLLM", "maxModelLen": 8192, "args": ["--enforce-eager"]},
    model={"uri": "file:///srv/models/qwen3-0-6b", "servedNames": ["qwen", "qwen3"]},
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
    return runner_pod(CreateRunner(owner, 0, 1, "n1", assignment, 60, "made for a test"), make.LIMITS)


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.key.name)
def test_the_pod_is_the_one_written_down(owner: Owner) -> None:
    """The pod's template is a promise to running fleets; write the new file by hand if the promise changes."""
    written = yaml.safe_load((GOLDEN / f"{owner.key.name}.yaml").read_text())
    assert pod(owner) == written


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.key.name)
def test_kubernetes_knows_every_field_of_the_pod(owner: Owner) -> None:
    kubernetes_validate.validate(pod(owner), KUBERNETES, strict=True)


def test_an_own_runner_sees_each_folder_its_model_names_where_the_assignment_says() -> None:
    engine = assignment_of(LARGE, 1).engines[0].engine
    mounts = {each["mountPath"]: each for each in pod(LARGE)["spec"]["containers"][0]["volumeMounts"]}
    assert mounts[engine.folder]["readOnly"] is True
    volumes = {each["name"]: each for each in pod(LARGE)["spec"]["volumes"]}
    assert volumes[mounts[engine.folder]["name"]] == {
        "name": mounts[engine.folder]["name"],
        "hostPath": {"path": "/srv/models/qwen3-0-6b"},
    }


def test_a_pools_runner_sees_the_roots_below_which_every_model_lies() -> None:
    engine = pooled_engine(LARGE, 0, 1, (2, 3), make.LIMITS)
    assert engine.engine.folder == "/weights/roots-0/qwen3-0-6b"
    mounts = {each["mountPath"] for each in pod(POOL)["spec"]["containers"][0]["volumeMounts"]}
    assert "/weights/roots-0" in mounts


def test_a_simulated_runner_keeps_to_pod_security_restricted() -> None:
    spec = pod(SMALL)["spec"]
    assert {next(iter(set(volume) - {"name"})) for volume in spec["volumes"]} == {"downwardAPI", "emptyDir"}
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
