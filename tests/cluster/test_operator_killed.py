"""The operator killed after any of its first writes comes to the same end as one that nobody disturbed.

A life is a namespace whose models are created, changed, scaled and deleted. In each life the operator is killed after
another write; every second time the write is executed and its answer lost. Lives run side by side in batches, so each
also bears the restarts of its neighbours.
"""

import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

import pytest

from support.api_call import writes_in
from support.cluster import Cluster
from support.endstate import EndState, end_state, loose_ends
from support.faultproxy import When
from support.kubeapi import Object
from support.models import simulated
from support.namespace import Namespace, new_name, settled
from support.operator import ProxiedOperator
from support.waiting import wait_for
from warmfleet_api import names

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(300)]

FIRST_WRITES = 40
BATCH = 8
RENEWALS = 3
STEP_SECONDS = 120
"""Bound for all lives of a batch to reach a step's end, their restarts of the operator included."""


@dataclass(frozen=True, slots=True)
class Life:
    """A namespace, and whether the operator was killed in it as planned; None: it is not to be."""

    namespace: Namespace
    killed: threading.Event | None

    def begin(self) -> None:
        """Create the models."""
        self.namespace.apply(simulated("plain"), simulated("pair", replicas=2), simulated("brief"))

    def change(self) -> None:
        """Roll one out, scale one, delete one, add one."""
        self.namespace.change("plain", engine={"simulated": {"tokensPerSecond": 55}})
        self.namespace.change("pair", replicas=3)
        self.namespace.remove("brief")
        self.namespace.apply(simulated("late", replicas=2))

    def renew(self) -> None:
        """Replace a model by its like: more writes, and no other end."""
        self.namespace.remove("late")
        self.namespace.apply(simulated("late", replicas=2))

    @property
    def waits(self) -> bool:
        """Whether the operator is still to be killed: how many writes a life takes is not the same every time."""
        return self.killed is not None and not self.killed.is_set()

    def serves(self) -> bool:
        """Whether all models serve and nothing is missing or left over."""
        models = self.namespace.models()
        wanted = sum(model["spec"]["replicas"] for model in models.values())
        all_settled = all(map(settled, models.values()))
        return all_settled and len(self.namespace.runners()) == wanted and not loose_ends(self.namespace)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, shared_operator: ProxiedOperator) -> Iterator[EndState]:
    """The end of a life in which nobody is killed."""
    shared_operator.proxy.reset()
    if not shared_operator.running:
        shared_operator.start()
    life = _life(cluster, "undisturbed", shared_operator, None)
    _live([life], shared_operator)
    yield end_state(life.namespace)
    life.namespace.delete()


@pytest.mark.parametrize("first", range(1, FIRST_WRITES + 1, BATCH))
def test_a_killed_operator_comes_to_the_same_end(
    cluster: Cluster, operator: ProxiedOperator, undisturbed: EndState, first: int
) -> None:
    lives = [_life(cluster, f"killed-{nth}", operator, nth) for nth in range(first, first + BATCH)]
    _live(lives, operator)
    for life in lives:
        assert not life.waits, f"{life.namespace.name}: the operator made too few writes to be killed"

    def differences() -> str:
        found = {life.namespace.name: undisturbed.difference(end_state(life.namespace)) for life in lives}
        return "\n".join(f"{name}:\n{text}\n{_why(operator, name)}" for name, text in found.items() if text)

    wait_for("all lives end as the undisturbed one", lambda: not differences(), STEP_SECONDS, differences)
    assert [end for life in lives for end in loose_ends(life.namespace)] == []
    for life in lives:
        life.namespace.delete()


def test_the_comparison_sees_a_duplicate_and_an_orphan(operator: ProxiedOperator, namespace: Namespace) -> None:
    """The control: with the operator gone, nobody repairs what the harness has to notice."""
    namespace.apply(simulated("model"))
    namespace.wait_ready("model")
    before = end_state(namespace)
    operator.kill()
    assert not before.difference(end_state(namespace))
    assert loose_ends(namespace) == []

    runner = namespace.runners()[0]
    namespace.api.create(f"{namespace.core_path}/pods", _copy(runner, "model-0-9"))
    assert "model-0-9" in before.difference(end_state(namespace))
    assert loose_ends(namespace) == ["duplicate: 2 runners of model, 1 wanted"]

    stranger = _copy(runner, "gone-0-1")
    stranger["metadata"]["labels"][names.LABEL_OWNER] = "gone"
    stranger["metadata"]["ownerReferences"] = []
    namespace.api.create(f"{namespace.core_path}/pods", stranger)
    assert "orphan: gone-0-1" in loose_ends(namespace)


def _life(cluster: Cluster, name: str, operator: ProxiedOperator, nth: int | None) -> Life:
    namespace = Namespace(cluster, new_name(name), operator.log_tail)
    namespace.create()
    if nth is None:
        return Life(namespace, None)
    when: When = "executed" if nth % 2 else "answered"
    killed = operator.proxy.at_write(nth, writes_in(namespace.name), when, lambda: operator.signal(signal.SIGKILL))
    return Life(namespace, killed)


def _live(lives: list[Life], operator: ProxiedOperator) -> None:
    """Lead lives through their steps; an operator that was killed is followed by another at once."""

    def served() -> bool:
        if not operator.running:
            operator.start()
        return all(life.serves() for life in lives)

    def explain() -> str:
        return "\n".join(life.namespace.explain() for life in lives if not life.serves())

    for life in lives:
        life.begin()
    wait_for("the models of all lives serve", served, STEP_SECONDS, explain)
    for life in lives:
        life.change()
    wait_for("the changed models of all lives serve", served, STEP_SECONDS, explain)
    for _ in range(RENEWALS):
        for life in filter(attrgetter("waits"), lives):
            life.renew()
        wait_for("the renewed models of all lives serve", served, STEP_SECONDS, explain)


def _why(operator: ProxiedOperator, namespace: str) -> str:
    """Return what the operators said when they created and deleted the namespace's runners, and what they missed."""
    about = ("create runner", "delete runner", "Lost", "can't be reached")
    return "\n".join(filter(None, (operator.log_about(namespace, words) for words in about)))


def _copy(pod: Object, name: str) -> Object:
    metadata = {key: pod["metadata"][key] for key in ("labels", "annotations", "ownerReferences")}
    return {"metadata": {"name": name, **metadata}, "spec": pod["spec"]}
