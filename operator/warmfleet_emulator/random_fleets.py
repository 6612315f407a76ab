"""Fleets by chance, to see how near the scheduler comes to the bounds on what nobody has thought of."""

import random
from typing import Any

from warmfleet_emulator.scenario import Scenario

_CLASSES = (("Critical", 1), ("High", 3), ("Normal", 5), ("Low", 3))


def random_fleet(seed: int) -> Scenario:
    """Return a fleet of 1 to 4 nodes and 3 to 24 models, the same for the same seed.

    Half of the fleets have a pool, the others own runners. Models come at once or over two minutes; some find their
    weights in memory, others on disk or afar. Two thirds have a place for each model, and models of all classes; what
    starts contend for are links and cores. In a third there are more models than GPUs, all of one class: with several,
    strict classes and residency keep lower ones from what an order that mixes them could do, and no bound knows that.
    """
    chance = random.Random(seed)
    nodes, gpus = chance.randint(1, 4), chance.choice((2, 4, 8))
    is_pooled = chance.random() < 0.5
    places = nodes * gpus
    is_scarce = chance.random() < 1 / 3
    share = chance.uniform(1.1, 1.5) if is_scarce else chance.uniform(0.4, 1.0)
    count = min(24, max(3 if is_scarce else 2, round(places * share)))
    models = [_model(chance, number, is_scarce=is_scarce) for number in range(count)]
    over_seconds = chance.choice((0.0, 30.0, 120.0))
    for model in models:
        model["wantedAtSeconds"] = round(chance.uniform(0, over_seconds), 1)
    node = {
        "name": "n",
        "count": nodes,
        "gpus": gpus,
        "cpu": str(chance.choice((4, 8, 16, 32))),
        "memory": "2Ti",
        "cacheMemory": "1536Gi",
        "remote": f"{chance.choice((1, 2, 4))}Gi",
        "disk": f"{chance.choice((2, 4, 8))}Gi",
        "load": f"{chance.choice((2, 5, 10, 20))}Gi",
    }
    pool = {"name": "default", "spec": {"replicas": places, "gpus": 1, "cpu": "100m", "memory": "24Gi"}}
    return Scenario.model_validate(
        {
            "name": f"random fleet {seed}",
            "untilSeconds": 7200,
            "nodes": [node],
            "pools": [pool] if is_pooled else [],
            "models": models,
        }
    )


def _model(chance: random.Random, number: int, *, is_scarce: bool) -> dict[str, Any]:
    priority = chance.choices([name for name, _ in _CLASSES], [share for _, share in _CLASSES])[0]
    return {
        "name": f"m-{number}",
        "spec": {
            "priority": "Normal" if is_scarce else priority,
            "resources": {"gpus": 1, "gpuMemory": "40Gi", "cpu": "100m", "memory": "16Gi"},
        },
        "start": {
            "bytes": f"{chance.randint(2, 60)}Gi",
            "tier": chance.choices(("Memory", "Disk", "Remote"), (6, 2, 1))[0],
            "cpuSeconds": round(chance.uniform(0.5, 6), 1),
            "initializeSeconds": round(chance.uniform(0, 6), 1),
            "runnerSeconds": 3,
            "wakeSeconds": round(chance.uniform(0.5, 3), 1),
        },
        "serveSeconds": round(chance.uniform(1, 20), 1),
    }
