"""How long a start may take before it counts as failed: twice what its bytes and its engine need, at least a minute."""

import math

from warmfleet_api import quantity
from warmfleet_api.vocabulary import EngineType, Stage
from warmfleet_operator.decide.fleet import Model

MINIMUM_SECONDS = 60
ASSUMED_BYTES_PER_SECOND = 200_000_000
"""Until a start of the model was measured: a slow disk."""
ASSUMED_INITIALISATION_SECONDS = 60.0
"""Until a start of the model was measured: imports, caches and warm-up of a VLLM engine on a busy machine."""

_INITIALISATION = {Stage.ENGINE_FORKED, Stage.COMPILED, Stage.CACHE_ALLOCATED, Stage.WARMED_UP}


def awake_bytes(model: Model) -> int:
    """Return the memory to reserve for the awake engine: of all its GPUs together, or the runner's without GPUs."""
    resources = model.spec.resources
    if model.spec.gpus == 0:
        return quantity.to_bytes(resources.memory)
    return quantity.to_bytes(resources.gpu_memory or 0) * model.spec.gpus


def start_budget_seconds(model: Model) -> int:
    """Return max(60 s, 2 x (bytes / bandwidth + initialisation)), measured on the last start if there was one."""
    simulated = model.spec.engine.simulated
    if model.spec.engine.type is EngineType.SIMULATED:
        work = (simulated.load_milliseconds + simulated.initialize_milliseconds) / 1000 if simulated else 0.0
        return max(MINIMUM_SECONDS, math.ceil(2 * work))
    last = model.status.last_start
    measured = (
        {stage.name: stage.milliseconds / 1000 for stage in last.stages}
        if last is not None and last.result == "Succeeded"
        else {}
    )
    size = model.status.model.bytes if model.status.model is not None else awake_bytes(model)
    loading = measured.get(Stage.WEIGHTS_LOADED, size / ASSUMED_BYTES_PER_SECOND)
    initialisation = sum(measured.get(stage, 0.0) for stage in _INITIALISATION)
    return max(MINIMUM_SECONDS, math.ceil(2 * (loading + (initialisation or ASSUMED_INITIALISATION_SECONDS))))
