"""What is said of who serves external metrics."""

import pytest

from support.scripted import Answer, client_of, refuses, says, scripted
from warmfleet_operator.metrics_api import MetricsApi


def served_by(namespace: str, name: str, available: str = "True") -> dict[str, object]:
    """Return the APIService as the API server has it."""
    conditions = [{"type": "Available", "status": available, "message": "no endpoints"}]
    return {
        "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
        "spec": {"service": {"namespace": namespace, "name": name, "port": 443}},
        "status": {"conditions": conditions},
    }


OURS = ("warmfleet-system", "warmfleet-external-metrics")
KEDA = ("keda", "keda-metrics")


@pytest.mark.parametrize(
    ("answer", "trouble", "words"),
    [
        (refuses(404), "nobody serves external metrics: add manifests/components/external-metrics", "nobody serves"),
        (says(served_by(*OURS)), "", "served by warmfleet-system/warmfleet-external-metrics"),
        (says(served_by(*KEDA)), "", "served by keda/keda-metrics, which has to know warmfleet_demand"),
        (says(served_by(*OURS, "False")), "does not answer: no endpoints; look: kubectl -n warmfleet-system", "answer"),
        (says(served_by(*KEDA, "False")), "keda/keda-metrics, which does not answer: no endpoints", "does not answer"),
    ],
    ids=["nobody", "ours", "another", "ours away", "another away"],
)
async def test_a_model_that_is_not_scaled_can_say_why(answer: Answer, trouble: str, words: str) -> None:
    told: list[str] = []
    async with scripted() as script, client_of(script) as client:
        script.on("GET", answer)
        looker = MetricsApi(client, lambda: told.append("changed"))
        assert looker.explain() == "who serves external metrics is not known yet"
        await looker.look()
        await looker.look()
    assert trouble in looker.trouble
    assert bool(looker.trouble) == bool(trouble)
    assert words in looker.explain()
    assert told == (["changed"] if trouble else [])


async def test_a_look_that_fails_changes_nothing() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("GET", refuses(404), refuses(403))
        looker = MetricsApi(client, lambda: None)
        await looker.look()
        former = looker.trouble
        await looker.look()
    assert looker.trouble == former != ""
