"""The ledger's arithmetic, and that it is never over-committed by what it is asked to take."""

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from support import make
from warmfleet_api import names
from warmfleet_operator.decide.ledger import Ledger
from warmfleet_operator.decide.requests import requests_of
from warmfleet_operator.records import Pod

GPU = names.DEFAULT_GPU_RESOURCE


def pod(spec: dict[str, object], phase: str = "Running") -> Pod:
    body = {"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}}
    return msgspec.convert(body, Pod)


def container(cpu: str, **more: object) -> dict[str, object]:
    return {"name": "c", "resources": {"requests": {"cpu": cpu}}} | more


@pytest.mark.parametrize(
    ("spec", "millicores"),
    [
        ({"containers": [container("1"), container("500m")]}, 1500),
        ({"containers": [container("1")], "initContainers": [container("4")]}, 4000),
        ({"containers": [container("1")], "initContainers": [container("2", restartPolicy="Always")]}, 3000),
        # An init container runs beside the sidecars that were started before it, and only beside those.
        (
            {
                "containers": [container("1")],
                "initContainers": [container("2", restartPolicy="Always"), container("3")],
            },
            5000,
        ),
        (
            {
                "containers": [container("1")],
                "initContainers": [container("3"), container("2", restartPolicy="Always")],
            },
            3000,
        ),
        ({"containers": [container("1")], "overhead": {"cpu": "250m"}}, 1250),
    ],
    ids=["containers add up", "largest init", "sidecars add up", "init after a sidecar", "init before", "overhead"],
)
def test_a_pod_takes_what_the_scheduler_of_kubernetes_says_it_takes(spec: dict[str, object], millicores: int) -> None:
    assert requests_of(pod(spec))["cpu"] == millicores


def test_terminal_pods_take_nothing_and_pods_of_unknown_nodes_are_passed_over() -> None:
    nodes = {"n1": make.node("n1", cpu="4")}
    running, done = pod({"containers": [container("1")]}), pod({"containers": [container("1")]}, "Succeeded")
    ledger = Ledger(nodes, [("n1", running), ("n1", done), ("gone", running)])
    assert ledger.free("n1", "cpu") == 3000


def test_what_is_held_fits_no_other_start_but_is_told_apart_from_what_is_taken() -> None:
    ledger = Ledger({"n1": make.node("n1", gpus=8)}, [])
    ledger.take("n1", {GPU: 5})
    ledger.hold("n1", {GPU: 4})
    assert not ledger.fits("n1", {GPU: 1})
    assert ledger.fits_without_holds("n1", {GPU: 3})
    assert ledger.fits("n1", {"cpu": 1000})


def test_a_node_that_strangers_over_committed_has_nothing_free_and_holds_nothing() -> None:
    ledger = Ledger({"n1": make.node("n1", gpus=2)}, [])
    ledger.take("n1", {GPU: 3})
    ledger.hold("n1", {GPU: 1})
    assert ledger.free("n1", GPU) == -1
    assert not ledger.fits("n1", {GPU: 1})


class NeverOverCommitted(RuleBasedStateMachine):
    """Takes and holds in any order, as long as each need fits: no node ever has less than nothing free."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {"n1": make.node("n1", gpus=4, memory="8Gi"), "n2": make.node("n2", gpus=8, memory="4Gi")}
        self.ledger = Ledger(self.nodes, [])
        self.model: dict[str, dict[str, int]] = {"n1": {GPU: 4}, "n2": {GPU: 8}}
        self.held = {"n1": 0, "n2": 0}

    @rule(node=st.sampled_from(["n1", "n2"]), gpus=st.integers(1, 8), memory=st.integers(0, 4))
    def take(self, node: str, gpus: int, memory: int) -> None:
        need = {GPU: gpus, "memory": memory * make.GIB}
        fits = self.ledger.fits(node, need)
        if fits:
            self.ledger.take(node, need)
            self.model[node][GPU] -= gpus
        if gpus > self.model[node][GPU] + (gpus if fits else 0) - self.held[node]:
            assert not fits

    @rule(node=st.sampled_from(["n1", "n2"]), gpus=st.integers(1, 8))
    def hold(self, node: str, gpus: int) -> None:
        self.held[node] += min(gpus, self.model[node][GPU] - self.held[node])
        self.ledger.hold(node, {GPU: gpus})

    @invariant()
    def nothing_is_given_twice(self) -> None:
        for node in self.nodes:
            assert self.ledger.free(node, GPU) == self.model[node][GPU]
            assert 0 <= self.ledger.open(node, GPU) <= self.ledger.free(node, GPU) <= self.ledger.capacity(node, GPU)
            assert self.ledger.open(node, "memory") >= 0

    @invariant()
    def a_search_passes_nobody_over(self) -> None:
        for gpus in (1, 2, 4, 8):
            need = {GPU: gpus}
            lacking = {node: max(0, gpus - self.ledger.open(node, GPU)) for node in self.nodes}
            fitting = self.ledger.fitting(self.ledger.having_any(need), need)
            assert fitting == [node for node in self.nodes if not lacking[node]]
            assert self.ledger.nearest(tuple(self.nodes), need) == min(lacking, key=lambda node: (lacking[node], node))


TestNeverOverCommitted = NeverOverCommitted.TestCase
