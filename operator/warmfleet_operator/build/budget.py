"""The namespace's PodDisruptionBudget: a drain waits for the engines that are a model's last Ready ones."""

from typing import Any

from warmfleet_api import names


def last_ready_budget(namespace: str) -> dict[str, Any]:
    """Return the PodDisruptionBudget to apply.

    Only runners labelled as protected are under it, and none of them may be evicted; the operator takes the label
    off once the engine is Ready elsewhere. A runner that is not Ready may always be evicted.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": names.PDB_NAME,
            "namespace": namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY},
        },
        "spec": {
            "maxUnavailable": 0,
            "selector": {"matchLabels": {names.LABEL_PROTECTED: "true"}},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
