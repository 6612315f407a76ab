"""What can be refused before a runner starts: each refusal names the field and what to write instead."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import PurePosixPath

import msgspec

from warmfleet_api import assignment
from warmfleet_api.fields import ON_THE_NODE
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.vocabulary import EngineType, Reason
from warmfleet_kube.objects import Metadata
from warmfleet_operator.build.template import engine_spec, warmup_of
from warmfleet_operator.decide.arguments import complaints, unknown_word
from warmfleet_operator.decide.clashes import clashes
from warmfleet_operator.decide.fleet import Problem
from warmfleet_operator.decide.weights import uris_of
from warmfleet_operator.records import Service

_MAX_COMPLAINTS = 3
_MAX_ENGINE_BYTES = assignment.MAX_BYTES - 4096
"""Leaves room for what an assignment holds beside its engine's spec."""

_RESERVED_ENVIRONMENT = {
    "HOME": "the runner sets it to its cache folder",
    "PATH": "it belongs to the runtime image",
    "PYTHONHOME": "it belongs to the runtime image",
    "PYTHONPATH": "it belongs to the runtime image",
    "CUDA_VISIBLE_DEVICES": "the assignment says which GPUs an engine gets; write resources.gpus",
    "NVIDIA_VISIBLE_DEVICES": "the device plugin sets it; write resources.gpus",
    "VLLM_SERVER_DEV_MODE": "the runner needs it to put engines to sleep",
    "VLLM_API_KEY": "requests reach the engine only through the runner; guard the Service instead",
}
_RESERVED_PREFIX = "WARMFLEET_"


def problem_of(metadata: Metadata, spec: ModelDeploymentSpec, service: Service | None = None) -> Problem | None:
    """Return the first reason why no runner of this spec may start, None where nothing stands against it.

    `service` is what bears the model's name in its namespace, if anything does.
    """
    if service is not None and service.metadata.controller_uid != metadata.uid:
        name, namespace = metadata.name, metadata.namespace
        return Problem(
            Reason.NAME_TAKEN,
            f"a Service {name} exists and is not this model's; give the model another name, or remove the Service: "
            f"kubectl -n {namespace} delete service {name}",
        )
    simulated = spec.engine.type is EngineType.SIMULATED
    refused = next(_strange_folders(spec), None)
    if refused is not None:
        return Problem(Reason.FORBIDDEN_SOURCE, refused)
    found = chain(_reserved_environment(spec), () if simulated else _invalid_options(spec), _too_long(metadata, spec))
    said = "; ".join(islice(found, _MAX_COMPLAINTS))
    return Problem(Reason.INVALID_ARGS, said) if said else None


def _strange_folders(spec: ModelDeploymentSpec) -> Iterator[str]:
    """Say which folders of the nodes are written as none may be; which may be read, the nodes' stores say."""
    for uri in uris_of(spec):
        if uri.startswith(ON_THE_NODE) and ".." in PurePosixPath(uri.removeprefix("file://")).parts:
            yield f"{uri}: write the folder without '..'"


def _invalid_options(spec: ModelDeploymentSpec) -> Iterator[str]:
    yield from clashes(spec)
    if spec.pod_template.image is not None:
        return  # it may hold another version of vLLM, with other options
    yield from complaints(spec.engine.args)
    quantization = spec.engine.quantization
    if quantization is not None and (unknown := unknown_word("quantization", quantization)):
        yield f"engine.quantization: {unknown}"


def _reserved_environment(spec: ModelDeploymentSpec) -> Iterator[str]:
    for variable in spec.engine.env:
        if variable.name in _RESERVED_ENVIRONMENT:
            yield f"engine.env {variable.name} is reserved: {_RESERVED_ENVIRONMENT[variable.name]}"
        elif variable.name.startswith(_RESERVED_PREFIX):
            yield f"engine.env {variable.name} is reserved: names that start with {_RESERVED_PREFIX} are Warmfleet's"


def _too_long(metadata: Metadata, spec: ModelDeploymentSpec) -> Iterator[str]:
    size = len(msgspec.json.encode((engine_spec(metadata.name, spec, lambda uri: uri), warmup_of(spec))))
    if size > _MAX_ENGINE_BYTES:
        yield (
            f"engine.args, engine.env and coldStart.warmup.prompts take {size} bytes, at most {_MAX_ENGINE_BYTES} are "
            "possible; shorten them"
        )
