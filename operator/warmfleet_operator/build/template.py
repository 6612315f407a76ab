"""What a runner is made from: its engine, the hash that tells a changed spec from an unchanged one, its name."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from warmfleet_api import quantity
from warmfleet_api.assignment import (
    AdmissionLimits,
    Batching,
    EngineSpec,
    EnvVar,
    LoraAdapter,
    Parallelism,
    Serving,
    SimulatedEngine,
    SimulatedFault,
    Speculative,
    Warmup,
)
from warmfleet_api.engine import SimulatedSpec
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.vocabulary import EngineType
from warmfleet_operator.decide.arguments import parallel_sizes

_HASH_LENGTH = 10
_NOT_OF_THE_RUNNER = {
    "replicas",
    "priority",
    "rollout",
    "serving",
    "cold_start",
    "pools",
    "idle",
    "autoscaling",
    "standby",
}
"""Fields that change no running engine: they say how many, where, and how requests reach it."""


def image_of(spec: ModelDeploymentSpec, default_image: str) -> str:
    """Return the runtime image of a model's runners."""
    return spec.pod_template.image or default_image


def template_hash(spec: ModelDeploymentSpec, default_image: str) -> str:
    """Hash what a runner depends on: the user's fields and the image.

    Defaults are left out, so that neither a new field nor a new version of the operator changes the hash. The revision
    that a source answered is no field of the user's: another uri or another revision asked for is another hash.
    """
    if spec.resources.gpus == spec.default_gpus:
        spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"gpus": None})})
    fields = of_the_runner(spec)
    if spec.model.secret_ref is not None:
        # What is read depends on whether there is a credential, not on which one: a new Secret restarts nothing.
        fields["model"]["secretRef"] = {}
    canonical = json.dumps([fields, image_of(spec, default_image)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH_LENGTH]


def of_the_runner(spec: ModelDeploymentSpec) -> dict[str, Any]:
    """Return the fields that a runner and its engine are made from, as JSON without defaults."""
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_NOT_OF_THE_RUNNER)


def not_of_the_runner(spec: ModelDeploymentSpec) -> dict[str, Any]:
    """Return the other fields, which no running engine depends on."""
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=_NOT_OF_THE_RUNNER)


def runner_name(owner: str, slot: int, attempt: int) -> str:
    """Return a runner's name; its two last parts are numbers, so names of different owners never meet."""
    return f"{owner}-{slot}-{attempt}"


def engine_spec(name: str, spec: ModelDeploymentSpec, folder_of: Callable[[str], str]) -> EngineSpec:
    """Return the engine that the assignment of the model `name` describes.

    `folder_of` gives the folder in the runner where what a uri names is found.
    """
    engine = spec.engine
    draft = engine.speculative
    return EngineSpec(
        type=engine.type,
        uri=spec.model.uri,
        folder=folder_of(spec.model.uri),
        served_names=tuple(spec.model.served_names or (name,)),
        max_model_len=engine.max_model_len,
        parallelism=_parallelism(spec),
        quantization=engine.quantization,
        speculative=Speculative(uri=draft.uri, folder=folder_of(draft.uri), tokens=draft.tokens) if draft else None,
        adapters=tuple(
            LoraAdapter(name=each.name, uri=each.uri, folder=folder_of(each.uri)) for each in spec.model.adapters
        ),
        args=tuple(engine.args),
        env=tuple(EnvVar(name=each.name, value=each.value) for each in engine.env),
        simulated=_simulated(engine.simulated) if engine.simulated is not None else None,
    )


def serving_of(spec: ModelDeploymentSpec) -> Serving:
    """Return how requests are admitted to the model's engines."""
    queue, batching, limits = spec.serving.queue, spec.serving.batching, spec.serving.limits
    wait = batching.max_wait_milliseconds
    return Serving(
        priority=spec.priority,
        max_requests=queue.max_requests,
        timeout_seconds=queue.timeout_seconds,
        batching=Batching(
            policy=batching.policy,
            max_size=batching.max_size,
            max_wait_milliseconds=Batching().max_wait_milliseconds if wait is None else wait,
        ),
        merge_window_milliseconds=spec.serving.merge_window_milliseconds or 0,
        limits=AdmissionLimits(
            sequences_per_tenant=limits.sequences_per_tenant or 0,
            tokens_per_tenant=limits.tokens_per_tenant or 0,
            sequences_per_session=limits.sequences_per_session or 0,
            tokens_per_session=limits.tokens_per_session or 0,
        ),
    )


def warmup_of(spec: ModelDeploymentSpec) -> Warmup:
    """Return what the model's engines answer before they are Ready."""
    warmup = spec.cold_start.warmup
    return Warmup(mode=warmup.mode, requests=warmup.requests, prompts=tuple(warmup.prompts))


def _parallelism(spec: ModelDeploymentSpec) -> Parallelism:
    """Return over how many GPUs the engine is spread, apart from what engine.args say of it: all it has, by tensor."""
    given = spec.engine.parallelism
    if given is not None:
        return Parallelism(tensor=given.tensor, pipeline=given.pipeline, data=given.data)
    if spec.engine.type is EngineType.SIMULATED or parallel_sizes(spec.engine.args):
        return Parallelism()
    return Parallelism(tensor=max(1, spec.gpus))


def _simulated(spec: SimulatedSpec) -> SimulatedEngine:
    fault = spec.fault
    return SimulatedEngine(
        load_milliseconds=spec.load_milliseconds,
        initialize_milliseconds=spec.initialize_milliseconds,
        first_token_milliseconds=spec.first_token_milliseconds,
        tokens_per_second=spec.tokens_per_second,
        sleep_milliseconds=spec.sleep_milliseconds,
        wake_milliseconds=spec.wake_milliseconds,
        memory=quantity.to_bytes(spec.memory),
        asleep_memory=quantity.to_bytes(spec.asleep_memory),
        holds_memory=spec.holds_memory,
        fault=SimulatedFault(kind=fault.kind, after_seconds=fault.after_seconds) if fault is not None else None,
    )
