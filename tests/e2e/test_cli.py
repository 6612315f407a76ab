"""The command `warmfleet` against a cluster: what people see of a fleet, and what machines read."""

import subprocess

import pytest

from support.cluster import Cluster
from support.models import simulated
from support.namespace import Namespace
from support.terminal import COMMAND, COMMAND_SECONDS, Terminal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

GIB = 1024**3


def test_the_command_shows_a_fleet_of_which_one_model_waits(namespace: Namespace) -> None:
    terminal = Terminal(namespace)
    namespace.apply(simulated("first"))
    namespace.wait_ready("first")
    namespace.apply(simulated("second", priority="Low", podTemplate={"nodeSelector": {"nobody": "has-it"}}))
    namespace.wait("the second waits", lambda: terminal.read("queue")["starts"])

    waiting = terminal.read("queue")["starts"][0]
    assert (waiting["model"], waiting["position"], waiting["priority"]) == ("second", 1, "Low")
    assert waiting["blocker"]
    assert "second" in terminal.shown("queue")

    runner = next(each for node in terminal.read("map")["nodes"] for each in node.get("runners", ()))
    assert [each["model"] for each in runner["engines"]] == ["first"]
    assert runner["engines"][0]["reservedBytes"] == GIB // 2
    assert "first" in terminal.shown("map")

    explanation = terminal.read("explain", "second")
    assert explanation["ready"] == "False"
    assert ["waits", waiting["blocker"]] in explanation["facts"]
    assert "what to do" in terminal.shown("explain", "second")
    assert any(heading == "engine" for heading, _ in terminal.read("explain", "first")["facts"])

    start = terminal.read("starts", "first")["starts"][0]
    assert start["result"] == "Succeeded"
    assert sum(stage["milliseconds"] for stage in start["stages"]) == start["milliseconds"]

    assert "Serving" in terminal.shown("wake", "first", "--wait")
    assert terminal.type("wake", "second", "--wait", "--timeout=1").returncode == 3


def test_mistakes_get_an_answer_that_says_what_to_type(namespace: Namespace, cluster: Cluster) -> None:
    terminal = Terminal(namespace)
    missing = terminal.type("explain", "nobody")
    assert missing.returncode == 1
    assert "kubectl get mdl -A" in missing.stderr
    assert terminal.type("wake", "nobody").returncode == 4
    elsewhere = terminal.type("queue", "--system-namespace=nowhere")
    assert elsewhere.returncode == 1
    assert "nowhere" in elsewhere.stderr
    unreachable = subprocess.run(
        [COMMAND, "queue", f"--kubectl={cluster.kubectl_command()[0]}", "--kubeconfig=/nonexistent"],
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert unreachable.returncode == 1
    assert unreachable.stderr.startswith("warmfleet queue: ")
    without = subprocess.run(
        [COMMAND, "queue", "--kubectl=/nonexistent/kubectl"], check=False, capture_output=True, text=True, timeout=60
    )
    assert without.returncode == 1
    assert "install kubectl" in without.stderr
