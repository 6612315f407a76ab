"""Settings of the agent: typed, and each mistake is said with the variable that made it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from warmfleet_agent import settings
from warmfleet_kube.errors import BadSetting


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("WARMFLEET_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WARMFLEET_NODE_NAME", "node-1")


def test_what_the_daemonset_sets_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMFLEET_CACHE", "default")
    monkeypatch.setenv("WARMFLEET_MEMORY_PATH", "/dev/shm/cache")
    monkeypatch.setenv("WARMFLEET_DISK_PATH", "/var/lib/cache")
    monkeypatch.setenv("WARMFLEET_KUBELET_PATH", "/var/lib/k0s/kubelet")
    monkeypatch.setenv("WARMFLEET_MEMORY_LIMIT_BYTES", "1073741824")
    found = settings.load()
    assert found.node_name == "node-1"
    assert found.memory_path == Path("/dev/shm/cache")
    assert found.disk_path == Path("/var/lib/cache")
    assert found.kubelet_path == Path("/var/lib/k0s/kubelet")
    assert found.memory_limit_bytes == 1 << 30


def test_empty_paths_mean_no_disk_and_no_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMFLEET_DISK_PATH", "")
    monkeypatch.setenv("WARMFLEET_KUBELET_PATH", "")
    found = settings.load()
    assert found.disk_path is None
    assert found.kubelet_path is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WARMFLEET_MEMORY_PATH", "cache", "WARMFLEET_MEMORY_PATH"),
        ("WARMFLEET_MEMORY_PATH", "/a/../etc", "WARMFLEET_MEMORY_PATH"),
        ("WARMFLEET_MEMORY_PATH", "/", "WARMFLEET_MEMORY_PATH"),
        ("WARMFLEET_DISK_PATH", "/dev/shm/model_cache/disk", "lie in each other"),
        ("WARMFLEET_PORT", "many", "WARMFLEET_PORT"),
        ("WARMFLEET_MEMORY_MOUNT", "Maybe", "WARMFLEET_MEMORY_MOUNT"),
    ],
)
def test_a_mistake_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=says):
        settings.load()


def test_a_node_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WARMFLEET_NODE_NAME")
    with pytest.raises(BadSetting, match="WARMFLEET_NODE_NAME is not set"):
        settings.load()


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("WARMFLEET_", "KUBE"))}
    return subprocess.run(
        [sys.executable, "-m", "warmfleet_agent"],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_process_ends_with_2_and_one_line_for_what_a_person_has_to_set() -> None:
    done = run(WARMFLEET_NODE_NAME="")
    assert done.returncode == 2
    assert done.stderr.startswith("warmfleet-agent: WARMFLEET_NODE_NAME=")
    assert done.stderr.count("\n") == 1
    done = run(WARMFLEET_NODE_NAME="node-1", WARMFLEET_KUBECONFIG="/nowhere")
    assert done.returncode == 2
    assert "kubeconfig /nowhere does not exist" in done.stderr
