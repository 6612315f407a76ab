"""What can be refused before a runner starts: each refusal names the field and what to write instead."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import PurePosixPath

import msgspec

from warmfleet_api import assignment
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.vllm_options import uses
from warmfleet_api.vocabulary import EngineType, Reason
from warmfleet_operator.build.template import engine_spec, warmup_of
from warmfleet_operator.decide.arguments import complaints
from warmfleet_operator.decide.fleet import Limits, Problem
from warmfleet_operator.records import Metadata, Service

_MAX_COMPLAINTS = 3
_MAX_ENGINE_BYTES = assignment.MAX_BYTES - 4096
"""Leaves room for what an assignment holds beside its engine's spec."""

_SET_BY_WARMFLEET = {
    "model": "write model.uri instead",
    "served_model_name": "write model.servedNames instead",
    "host": "the runner gives the engine its address",
    "port": "the runner gives the engine its address",
    "uds": "the runner gives the engine its address",
    "root_path": "the runner gives the engine its address",
    "grpc": "the runner speaks HTTP to the engine",
    "grpc_port": "the runner speaks HTTP to the engine",
    "api_key": "requests reach the engine only through the runner; guard the Service instead",
    "ssl_keyfile": "requests reach the engine only through the runner",
    "ssl_certfile": "requests reach the engine only through the runner",
    "ssl_ca_certs": "requests reach the engine only through the runner",
    "ssl_cert_reqs": "requests reach the engine only through the runner",
    "config": "write the options themselves into engine.args",
    "download_dir": "weights come from model.uri",
    "hf_token": "weights come from model.uri",
    "headless": "an engine without its API serves nobody",
}
_RESERVED_ENVIRONMENT = {
    "HOME": "the runner sets it to its cache folder",
    "PATH": "it belongs to the runtime image",
    "PYTHONHOME": "it belongs to the runtime image",
    "PYTHONPATH": "it belongs to the runtime image",
    "CUDA_VISIBLE_DEVICES": "the assignment says which GPUs an engine gets; write resources.gpus",
    "NVIDIA_VISIBLE_DEVICES": "the device plugin sets it; write resources.gpus",
    "VLLM_API_KEY": "requests reach the engine only through the runner; guard the Service instead",
}
_RESERVED_PREFIX = "WARMFLEET_"


def problem_of(
    metadata: Metadata, spec: ModelDeploymentSpec, limits: Limits, service: Service | None = None
) -> Problem | None:
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
    refused = None if simulated else _outside_of_roots(spec.model.uri, limits.file_roots)
    if refused is not None:
        return Problem(Reason.ACCESS_DENIED, refused)
    found = chain(_reserved_environment(spec), () if simulated else _invalid_arguments(spec), _too_long(metadata, spec))
    said = "; ".join(islice(found, _MAX_COMPLAINTS))
    return Problem(Reason.INVALID_ARGS, said) if said else None


def _outside_of_roots(uri: str, roots: tuple[str, ...]) -> str | None:
    """Say why a folder may not be read; None where it lies below a root and has no way out of it."""
    folder = PurePosixPath(uri.removeprefix("file://"))
    if not roots:
        return (
            f"model.uri {uri}: no folder of the nodes may be read; an administrator names the allowed ones in "
            "WARMFLEET_FILE_ROOTS of the operator"
        )
    if ".." in folder.parts:
        return f"model.uri {uri}: write the folder without '..'"
    if not any(PurePosixPath(root) in folder.parents for root in roots):
        return (
            f"model.uri {uri} is not below {' or '.join(roots)}; move the model there, or let an administrator add "
            "its folder to WARMFLEET_FILE_ROOTS of the operator"
        )
    return None


def _invalid_arguments(spec: ModelDeploymentSpec) -> Iterator[str]:
    engine = spec.engine
    for use in uses(engine.args):
        dest = use.option.dest if use.option is not None else ""
        if dest in _SET_BY_WARMFLEET:
            yield f"engine.args[{use.position}]: {use.flag} is set by Warmfleet: {_SET_BY_WARMFLEET[dest]}"
        elif dest == "max_model_len" and engine.max_model_len is not None:
            yield f"engine.args[{use.position}]: {use.flag} clashes with engine.maxModelLen; remove one of them"
    if spec.pod_template.image is None:  # an own image may hold another version of vLLM, with other options
        yield from complaints(engine.args)


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
