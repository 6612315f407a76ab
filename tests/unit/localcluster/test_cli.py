import json
from pathlib import Path

import pytest

from localcluster.cli import main
from localcluster.kind import kind_config
from localcluster.paths import ClusterFiles
from localcluster.record import Record
from localcluster.views import node_state, table

COMMANDS = [
    "up",
    "down",
    "status",
    "nodes",
    "load",
    "kill-node",
    "start-node",
    "fake-nodes",
    "kill-zone",
    "start-zone",
    "kubeconfig",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMFLEET_CACHE", str(tmp_path))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--name" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["nodes"], ["status"], ["kubeconfig"], ["kill-node", "1"], ["kill-zone", "a"]])
def test_a_cluster_that_is_not_there_is_named_with_the_next_command(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--name", "nowhere", "--provider", "local"]) == 1
    assert "hack/cluster up --name nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("memory", ["80G", "-1Gi", "80 Gi", "lots"])
def test_a_size_without_binary_unit_is_refused(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["up", f"--gpu-memory={memory}"])
    assert "e.g. 80Gi" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "-a", "a" * 40])
def test_a_name_that_could_leave_its_directory_is_refused(name: str) -> None:
    with pytest.raises(SystemExit):
        main(["nodes", f"--name={name}"])


def test_another_provider_than_the_cluster_was_made_with_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Record("local", 0).save(tmp_path / "clusters" / "mine" / "cluster.json")
    assert main(["up", "--name", "mine", "--provider", "kind"]) == 1
    assert "hack/cluster down --name mine" in capsys.readouterr().err


def test_nodes_are_shown_in_columns() -> None:
    node = {
        "metadata": {"name": "n1", "labels": {"nvidia.com/gpu.memory": "81920"}},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown"}],
            "allocatable": {"nvidia.com/gpu": "2"},
            "addresses": [{"type": "InternalIP", "address": "172.30.0.101"}],
        },
    }
    header, row = table([node_state(node, "Real", "Off")]).splitlines()
    assert header.split() == ["NAME", "KIND", "POWER", "READY", "ADDRESS", "ZONE", "GPUS", "GPU-MEMORY-MEBIBYTES"]
    assert row.split() == ["n1", "Real", "Off", "Unknown", "172.30.0.101", "-", "2", "81920"]


def test_kind_gets_the_nodes_the_audit_log_and_the_fast_node_loss(tmp_path: Path) -> None:
    slow = kind_config(Record("kind", -1, nodes=2), ClusterFiles(tmp_path))
    fast = kind_config(Record("kind", -1, nodes=2, fast_node_loss=True), ClusterFiles(tmp_path))
    assert [node["role"] for node in slow["nodes"]] == ["control-plane", "worker", "worker"]
    patches = [json.loads(patch) for patch in fast["kubeadmConfigPatches"]]
    assert "audit-log-path" in str(patches[0])
    assert "node-monitor-grace-period" in str(patches)
    assert "node-monitor-grace-period" not in str(slow)
