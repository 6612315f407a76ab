"""What a runner is made from: its engine, the hash that tells a changed spec from an unchanged one, its name."""

import hashlib
import json

from warmfleet_api import quantity
from warmfleet_api.assignment import EngineSpec, EnvVar, SimulatedEngine, SimulatedFault
from warmfleet_api.model_deployment import ModelDeploymentSpec, SimulatedSpec

_HASH_LENGTH = 10
_NOT_OF_THE_RUNNER = {"replicas", "priority", "rollout"}
"""Fields that change no running engine."""


def image_of(spec: ModelDeploymentSpec, default_image: str) -> str:
    """Return the runtime image of a model's runners."""
    return spec.pod_template.image or default_image


def template_hash(spec: ModelDeploymentSpec, default_image: str) -> str:
    """Hash what a runner depends on: the user's fields and the image.

    Defaults are left out, so that neither a new field nor a new version of the operator changes the hash.
    """
    fields = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_NOT_OF_THE_RUNNER)
    canonical = json.dumps([fields, image_of(spec, default_image)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH_LENGTH]


def runner_name(owner: str, slot: int, attempt: int) -> str:
    """Return a runner's name; its two last parts are numbers, so names of different owners never meet."""
    return f"{owner}-{slot}-{attempt}"


def engine_spec(name: str, spec: ModelDeploymentSpec) -> EngineSpec:
    """Return the engine that the assignment of the model `name` describes."""
    engine = spec.engine
    return EngineSpec(
        type=engine.type,
        uri=spec.model.uri,
        served_names=tuple(spec.model.served_names or (name,)),
        max_model_len=engine.max_model_len,
        args=tuple(engine.args),
        env=tuple(EnvVar(name=each.name, value=each.value) for each in engine.env),
        simulated=_simulated(engine.simulated) if engine.simulated is not None else None,
    )


def _simulated(spec: SimulatedSpec) -> SimulatedEngine:
    fault = spec.fault
    return SimulatedEngine(
        load_milliseconds=spec.load_milliseconds,
        initialize_milliseconds=spec.initialize_milliseconds,
        first_token_milliseconds=spec.first_token_milliseconds,
        tokens_per_second=spec.tokens_per_second,
        memory=quantity.to_bytes(spec.memory),
        fault=SimulatedFault(kind=fault.kind, after_seconds=fault.after_seconds) if fault is not None else None,
    )
