"""How long a start may take before it counts as failed: twice what its bytes and its engine need, at least a minute.

The wait for weights to come into memory of the node is no part of an engine's budget: only the operator knows how many
bytes are still to come, and how fast they do. It is part of what a new runner's container gets.
"""

import math
from collections.abc import Iterable

from warmfleet_api import quantity
from warmfleet_api.vocabulary import EngineType, Stage, Tier
from warmfleet_operator.decide.fleet import Cache, Model
from warmfleet_operator.decide.weights import NeededEntry, size_bytes

MINIMUM_SECONDS = 60
ASSUMED_BYTES_PER_SECOND = 200_000_000
"""Until a start of the model, or the node's disk, was measured: a slow disk."""
ASSUMED_REMOTE_BYTES_PER_SECOND = 50_000_000
"""Until a node has fetched anything from afar."""
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
    """Return max(60 s, 2 x (bytes / bandwidth + initialisation)), measured on the last start if there was one.

    It counts from the moment the weights are in memory of the node.
    """
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
    known_bytes = model.status.model.bytes if model.status.model is not None else 0
    size = size_bytes(model.weights) or known_bytes or awake_bytes(model)
    loading = measured.get(Stage.WEIGHTS_LOADED, size / ASSUMED_BYTES_PER_SECOND)
    initialisation = sum(measured.get(stage, 0.0) for stage in _INITIALISATION)
    if not initialisation or Stage.COMPILED in measured:
        # The last start may have begun with what others compiled, the next one may have to compile.
        initialisation = max(initialisation, ASSUMED_INITIALISATION_SECONDS)
    return max(MINIMUM_SECONDS, math.ceil(2 * (loading + initialisation)))


def fetch_seconds(entries: Iterable[NeededEntry], cache: Cache) -> float:
    """Return how long the node needs to have the entries in its memory, by what it measured."""
    status, limit = cache.status, cache.spec.bytes_per_second
    disk = status.disk.bytes_per_second if status.disk is not None else 0
    remote = status.remote_bytes_per_second or ASSUMED_REMOTE_BYTES_PER_SECOND
    bandwidth = {Tier.DISK: disk or ASSUMED_BYTES_PER_SECOND, Tier.REMOTE: min(remote, limit) if limit else remote}
    seconds = 0.0
    for entry in entries:
        seen = cache.seen.get(entry.key)
        tier = seen.tier if seen is not None else Tier.REMOTE
        seconds += entry.bytes / bandwidth[tier] if tier in bandwidth else 0.0
    return seconds


def fetch_budget_seconds(entries: Iterable[NeededEntry], cache: Cache | None) -> int:
    """Return how much longer a new runner on this node may take, because of weights that are still to come."""
    return math.ceil(2 * fetch_seconds(entries, cache)) if cache is not None else 0
