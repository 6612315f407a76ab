"""A changed spec on a share of the requests: what people apply, and who answers at a router."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import Cluster
from support.front_door import client, host_router
from support.models import simulated
from support.namespace import Namespace
from support.operator import ProxiedOperator
from support.waiting import wait_for
from warmfleet_api import names

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

REQUESTS = 300
WEIGHT = 10
CHANGED = {"simulated": {"tokensPerSecond": 321, "loadMilliseconds": 50, "initializeMilliseconds": 10}}
"""Another engine than `simulated` makes, and so another hash."""


class Door:
    """A router, and who answered there."""

    def __init__(self, url: str, log: Path, namespace: Namespace) -> None:
        self.namespace = namespace
        self._log = log
        self._url = url

    def ask(self, count: int) -> Counter[str]:
        """Ask so often; return how many requests each template hash answered."""
        hashes = {
            each["metadata"]["name"]: each["metadata"]["labels"][names.LABEL_TEMPLATE_HASH]
            for each in self.namespace.runners("tried")
        }
        before = self._log.stat().st_size
        with client(self._url) as asker:
            for _ in range(count):
                asker.completions.create(model=f"{self.namespace.name}/tried", prompt="hello", max_tokens=1)
        lines = wait_for("the access log", lambda: self._lines(before, count), 30)
        return Counter(hashes[line["runner"]] for line in lines)

    def _lines(self, before: int, count: int) -> list[dict[str, str]] | None:
        with self._log.open("rb") as file:
            file.seek(before)
            text = file.read()
        lines = [json.loads(line) for line in text.splitlines() if line.startswith(b"{")]
        lines = [line for line in lines if line.get("namespace") == self.namespace.name]
        return lines if len(lines) == count and text.endswith(b"\n") else None


@pytest.fixture
def door(cluster: Cluster, namespace: Namespace, tmp_path: Path) -> Iterator[Door]:
    """A router on this machine, and a model behind it."""
    namespace.apply(simulated("tried"))
    namespace.wait_ready("tried")
    with host_router(cluster, tmp_path) as url:
        yield Door(url, tmp_path / "router.log", namespace)


def hashes(namespace: Namespace) -> dict[str, str]:
    """Return the template hashes of the runners that are not ending, by the runner's uid."""
    return {
        each["metadata"]["uid"]: each["metadata"]["labels"][names.LABEL_TEMPLATE_HASH]
        for each in namespace.runners("tried")
        if "deletionTimestamp" not in each["metadata"]
    }


def try_a_change(namespace: Namespace) -> tuple[str, str]:
    """Apply a change as a canary and wait until it serves; return both hashes."""
    (old,) = hashes(namespace).values()
    namespace.apply(simulated("tried", engine={"type": "Simulated", **CHANGED}, rollout={"canaryWeight": WEIGHT}))
    namespace.wait_condition("tried", "Reconciling", "False", "Canary")
    rollout = namespace.model("tried")["status"]["rollout"]
    assert (rollout["stableHash"], rollout["canaryWeight"], rollout["canaryReplicas"]) == (old, WEIGHT, 1)
    return old, rollout["canaryHash"]


def test_a_canary_gets_its_share_whoever_leads_and_is_promoted_without_its_weight(
    namespace: Namespace, door: Door, operator: ProxiedOperator
) -> None:
    (first,) = hashes(namespace)
    old, new = try_a_change(namespace)
    assert set(hashes(namespace).values()) == {old, new}
    answered = door.ask(REQUESTS)
    assert answered.keys() == {old, new}
    assert abs(answered[new] / REQUESTS - WEIGHT / 100) <= 0.02
    before = hashes(namespace)
    operator.restart()
    operator.wait_ready()
    namespace.stays("both specs serve on after a restart", lambda: hashes(namespace) == before, 3)
    namespace.apply(simulated("tried", engine={"type": "Simulated", **CHANGED}))
    namespace.wait("the former spec is gone", lambda: set(hashes(namespace).values()) == {new})
    namespace.wait_condition("tried", "Reconciling", "False", "Serving")
    assert first not in hashes(namespace)
    assert door.ask(20) == {new: 20}


def test_the_former_object_applied_again_takes_a_canary_back_and_touches_nothing_else(
    namespace: Namespace, door: Door
) -> None:
    (first,) = hashes(namespace)
    old, _ = try_a_change(namespace)
    namespace.apply(simulated("tried"))
    namespace.wait("the canary is gone", lambda: set(hashes(namespace)) == {first})
    rollout = namespace.wait(
        "the status says so",
        lambda: (found := namespace.model("tried")["status"]["rollout"]).get("canaryHash", "") == "" and found,
    )
    assert rollout["stableHash"] == old
    assert door.ask(20) == {old: 20}
