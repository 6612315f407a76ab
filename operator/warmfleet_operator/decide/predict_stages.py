"""How long a start will take: measured stages where there are any, else what the spec declares, else what is assumed.

The nearest knowledge counts: this model on this type of node, this model anywhere, its other way to load (Warm and
Cold), then what engines of its type have in common with the bytes it reads.

Weights that are not in memory of the node are a matter of the node's links, not of
the model: their time is taken from the tiers and what the node measured.
"""

from collections.abc import Mapping
from typing import Final

from warmfleet_api import names
from warmfleet_api.engine import SimulatedSpec
from warmfleet_api.vocabulary import EngineType, Stage, StartType
from warmfleet_operator.decide.estimates import ANY_NODE, Estimates, Kind, Measured, Phases
from warmfleet_operator.decide.fleet import Cache, Model
from warmfleet_operator.decide.predict_links import weights_seconds
from warmfleet_operator.decide.start_budget import awake_bytes
from warmfleet_operator.decide.weights import size_bytes
from warmfleet_operator.records import Node

CPU_NODE: Final = "cpu"
"""Type of a node that says nothing of itself."""
BEFORE_WEIGHTS: Final = frozenset({Stage.RUNNER_SCHEDULED, Stage.IMAGE_PULLED, Stage.RUNNER_READY})
"""Stages of a start that pass while its weights are still on their way."""
_OF_THE_ENGINE: Final = frozenset(
    {Stage.ENGINE_FORKED, Stage.WEIGHTS_LOADED, Stage.COMPILED, Stage.CACHE_ALLOCATED, Stage.WARMED_UP}
)
_TWINS: Final = {StartType.WARM: StartType.COLD, StartType.COLD: StartType.WARM}
ASSUMED_LOAD_BYTES_PER_SECOND: Final = 2_000_000_000
"""An engine reads weights that are in memory of its node: vLLM's default loader on a busy machine."""
ASSUMED_WAKE_BYTES_PER_SECOND: Final = 10_000_000_000
"""A sleeping engine copies them back to its GPUs."""

ASSUMED: Final[Mapping[tuple[EngineType, StartType], Mapping[Stage, float]]] = {
    (EngineType.VLLM, StartType.COLD): {
        Stage.RUNNER_SCHEDULED: 1.0,
        Stage.IMAGE_PULLED: 2.0,
        Stage.RUNNER_READY: 20.0,
        Stage.ENGINE_FORKED: 1.0,
        Stage.COMPILED: 10.0,
        Stage.CACHE_ALLOCATED: 5.0,
        Stage.WARMED_UP: 2.0,
        Stage.ROUTABLE: 1.0,
    },
    (EngineType.VLLM, StartType.WARM): {
        Stage.RUNNER_READY: 0.3,
        Stage.ENGINE_FORKED: 1.0,
        Stage.COMPILED: 10.0,
        Stage.CACHE_ALLOCATED: 5.0,
        Stage.WARMED_UP: 2.0,
        Stage.ROUTABLE: 0.3,
    },
    (EngineType.VLLM, StartType.HOT): {Stage.RUNNER_READY: 0.3, Stage.WARMED_UP: 0.5, Stage.ROUTABLE: 0.3},
    (EngineType.SIMULATED, StartType.COLD): {
        Stage.RUNNER_SCHEDULED: 1.0,
        Stage.IMAGE_PULLED: 1.0,
        Stage.RUNNER_READY: 1.0,
        Stage.ENGINE_FORKED: 0.1,
        Stage.ROUTABLE: 1.0,
    },
    (EngineType.SIMULATED, StartType.WARM): {
        Stage.RUNNER_READY: 0.3,
        Stage.ENGINE_FORKED: 0.1,
        Stage.ROUTABLE: 0.3,
    },
    (EngineType.SIMULATED, StartType.HOT): {Stage.RUNNER_READY: 0.3, Stage.ROUTABLE: 0.3},
}
"""Seconds of the stages that neither a declaration nor bytes tell, until one was measured."""


def node_type(node: Node | None) -> str:
    """Return what a node has in common with others where starts take as long."""
    if node is None:
        return ANY_NODE
    labels = node.metadata.labels
    return labels.get(names.NODE_LABEL_INSTANCE_TYPE) or labels.get(names.NODE_LABEL_GPU_PRODUCT) or CPU_NODE


def start_seconds(
    estimates: Estimates, model: Model, start_type: StartType, node: Node | None, caches: Mapping[str, Cache]
) -> float:
    """Return how long a start there takes from the decision until requests reach the engine, weights included.

    It is for the choice of start type and place: quick enough for thousands of calls in a round. A node of None is one
    of any type, whose weights are taken to be there.
    """
    expected = phases(estimates, model, start_type, node_type(node))
    seconds = expected.seconds
    if start_type is StartType.HOT or node is None or not model.weights:
        return seconds
    fetch = weights_seconds(model.weights, caches.get(node.metadata.name))
    return seconds + max(0.0, fetch - expected.before_seconds)


def phases(estimates: Estimates, model: Model, start_type: StartType, type_: str) -> Phases:
    """Return what a start that has not begun takes on a node of that type, the wait for turn and weights left out."""
    kind = Kind(model.hash, type_, start_type)
    if kind not in estimates.phases:
        nearest = _nearest(estimates, model, start_type, type_)
        estimates.phases[kind] = phases_of(nearest) if nearest is not None else None
    measured = estimates.phases[kind]
    if measured is not None:
        return measured
    # What its bytes tell is not kept: they become known while the hash stays.
    own = own_seconds(estimates, model, start_type, type_)
    load = own[0][1]
    common = _common_phases(estimates, model.spec.engine.type, start_type, type_)
    finish = common.finish_seconds + sum(seconds for _, seconds in own) - load
    return common._replace(load_seconds=load, finish_seconds=finish)


def _common_phases(estimates: Estimates, engine: EngineType, start_type: StartType, type_: str) -> Phases:
    kind = Kind(engine, type_, start_type)
    known = estimates.phases.get(kind)
    if known is None:
        known = estimates.phases[kind] = phases_of(_common(estimates, engine, start_type, type_))
    return known


def phases_of(stages: Mapping[Stage, float]) -> Phases:
    """Return the phases that stages make up."""
    before = sum(stages.get(stage, 0.0) for stage in BEFORE_WEIGHTS)
    prepare = stages.get(Stage.ENGINE_FORKED, 0.0)
    load = stages.get(Stage.WEIGHTS_LOADED, 0.0)
    tail = stages.get(Stage.ROUTABLE, 0.0)
    return Phases(before, prepare, load, max(0.0, sum(stages.values()) - before - prepare - load - tail), tail)


def stage_seconds(estimates: Estimates, model: Model, start_type: StartType, type_: str) -> dict[Stage, float]:
    """Return the stages of such a start in their order with their seconds, the wait for weights left out."""
    found = _nearest(estimates, model, start_type, type_)
    if found is None:
        own = own_seconds(estimates, model, start_type, type_)
        found = {**_common(estimates, model.spec.engine.type, start_type, type_), **dict(own)}
    return {stage: found[stage] for stage in Stage if stage in found}


def _nearest(estimates: Estimates, model: Model, start_type: StartType, type_: str) -> dict[Stage, float] | None:
    """Return the stages as they were measured of this model, None where it never started.

    An engine loads in a new runner as it does in one that is there; what comes before and after is not the model's.
    """
    known = _measured(estimates.models, model.hash, type_, start_type)
    if known is not None:
        return {stage: measured.seconds for stage, measured in known.items()}
    twin = _TWINS.get(start_type)
    known = _measured(estimates.models, model.hash, type_, twin) if twin is not None else None
    if known is None:
        return None
    common = _common(estimates, model.spec.engine.type, start_type, type_)
    around = {stage: seconds for stage, seconds in common.items() if stage not in _OF_THE_ENGINE}
    return around | {stage: measured.seconds for stage, measured in known.items() if stage in _OF_THE_ENGINE}


def _common(estimates: Estimates, engine: EngineType, start_type: StartType, type_: str) -> dict[Stage, float]:
    """Return the stages that engines of this type have in common, as assumed until they are measured."""
    shared = _measured(estimates.shared, engine, type_, start_type)
    if shared is None:
        return dict(ASSUMED[engine, start_type])
    # Learnt of whole starts alone: a stage that is not among them is one that these engines don't have.
    return {stage: measured.seconds for stage, measured in shared.items()}


def own_seconds(
    estimates: Estimates, model: Model, start_type: StartType, type_: str
) -> tuple[tuple[Stage, float], ...]:
    """Return the stages that depend on the model, WeightsLoaded first, as declared or as its bytes tell."""
    engine, is_wake = model.spec.engine, start_type is StartType.HOT
    if engine.type is EngineType.SIMULATED:
        told = engine.simulated or SimulatedSpec()
        answer = (Stage.WARMED_UP, told.first_token_milliseconds / 1000)
        if is_wake:
            return ((Stage.WEIGHTS_LOADED, told.wake_milliseconds / 1000), answer)
        initialized = (Stage.CACHE_ALLOCATED, told.initialize_milliseconds / 1000)
        return ((Stage.WEIGHTS_LOADED, told.load_milliseconds / 1000), initialized, answer)
    rates = estimates.load_seconds_per_byte
    rate = rates.get(Kind(engine.type, type_, start_type)) or rates.get(Kind(engine.type, ANY_NODE, start_type))
    assumed = ASSUMED_WAKE_BYTES_PER_SECOND if is_wake else ASSUMED_LOAD_BYTES_PER_SECOND
    seconds = known_bytes(model) * (rate.seconds if rate is not None else 1 / assumed)
    return ((Stage.WEIGHTS_LOADED, seconds),)


def known_bytes(model: Model) -> int:
    """Return how much an engine of the model reads: as its sources or its engines said, else the memory it asks for."""
    found = model.status.model
    return size_bytes(model.weights) or (found.bytes if found is not None else 0) or awake_bytes(model)


def _measured(
    measured: Mapping[Kind, Mapping[Stage, Measured]], subject: str, type_: str, start_type: StartType
) -> Mapping[Stage, Measured] | None:
    return measured.get(Kind(subject, type_, start_type)) or measured.get(Kind(subject, ANY_NODE, start_type))
