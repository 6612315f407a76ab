"""Good and bad blocks `autoscaling`, for the same two questions as `objects.py`."""

from typing import Any

from support.kubeapi import Object
from support.objects import Bad, Good, model

_BEFORE_WORK = {"cron": "45 7 * * 1-5", "timeZone": "Europe/Vienna", "durationSeconds": 7200, "replicas": 2}

EVERYTHING: dict[str, Any] = {
    "minReplicas": 0,
    "maxReplicas": 9,
    "policy": "Demand",
    "targetRequests": 8,
    "windows": {"upSeconds": 0, "downSeconds": 60},
    "behavior": {
        "scaleUp": {
            "stabilizationWindowSeconds": 15,
            "selectPolicy": "Min",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Disabled",
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    },
    "schedule": [_BEFORE_WORK],
}
"""All fields that go together."""


def scaled(**fields: Any) -> Object:
    """Return an object with the block."""
    return model(autoscaling=fields)


GOOD = (
    Good("autoscaling with all defaults", scaled()),
    Good("autoscaling to zero", model(autoscaling={"minReplicas": 0}, idle={"afterSeconds": 60})),
    Good("all of autoscaling by demand", scaled(**EVERYTHING)),
    Good("autoscaling by utilization", scaled(policy="Utilization", utilizationPercent=80, windows={})),
    Good(
        "autoscaling by marks",
        scaled(
            policy="Rules",
            marks={
                "cpuPercent": 90,
                "gpuPercent": 90,
                "latencyMilliseconds": 500,
                "queueRequests": 4,
                "cooldownSeconds": 60,
            },
        ),
    ),
    Good("autoscaling by somebody else", scaled(policy="External", targetRequests=10)),
    Good("autoscaling of a model that is stopped", model(replicas=0, autoscaling={})),
    Good("more replicas than autoscaling will leave", model(replicas=9, autoscaling={"maxReplicas": 3})),
)

BAD = (
    Bad(
        "fewer at most than at least",
        scaled(minReplicas=6),
        "spec.autoscaling",
        "autoscaling.minReplicas is more than maxReplicas",
    ),
    Bad("no replica at most", scaled(minReplicas=0, maxReplicas=0), "spec.autoscaling.maxReplicas", "equal to 1"),
    Bad("an unknown policy", scaled(policy="Luck"), "spec.autoscaling.policy", '"Demand", "Utilization"'),
    Bad(
        "requests per replica where none are counted",
        scaled(policy="Rules", targetRequests=5),
        "spec.autoscaling",
        "autoscaling.targetRequests is of the policies Demand and External",
    ),
    Bad(
        "utilization where demand counts",
        scaled(utilizationPercent=80),
        "spec.autoscaling",
        "autoscaling.utilizationPercent is of the policy Utilization",
    ),
    Bad("more than all utilization", scaled(policy="Utilization", utilizationPercent=101), "spec.autoscaling", "100"),
    Bad(
        "windows of marks",
        scaled(policy="Rules", windows={}),
        "spec.autoscaling",
        "autoscaling.windows are of the policies Demand and Utilization",
    ),
    Bad(
        "a window that shrinks faster than it grows",
        scaled(windows={"upSeconds": 60, "downSeconds": 30}),
        "spec.autoscaling.windows",
        "autoscaling.windows.downSeconds is shorter than upSeconds",
    ),
    Bad("marks of demand", scaled(marks={}), "spec.autoscaling", "autoscaling.marks are of the policy Rules"),
    Bad(
        "behavior of nobody",
        scaled(policy="External", behavior={}),
        "spec.autoscaling",
        "autoscaling.behavior is the HorizontalPodAutoscaler's",
    ),
    Bad(
        "a schedule above the most",
        scaled(maxReplicas=1, schedule=[_BEFORE_WORK]),
        "spec.autoscaling",
        "autoscaling.schedule asks for more replicas than maxReplicas",
    ),
    Bad("a schedule of three fields", scaled(schedule=[{"cron": "0 8 *"}]), "spec.autoscaling", "should match"),
    Bad(
        "a model that sleeps by time and never sleeps",
        model(autoscaling={}, idle={"afterSeconds": 60}),
        "spec",
        "idle.afterSeconds lets the model sleep, and autoscaling.minReplicas keeps it awake",
    ),
)
