"""Options that engine.args may not set: a field says the same, or the runner does, or they can't work in one."""

from collections.abc import Iterator
from math import prod

from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.vllm_options import Use, integer_of, uses
from warmfleet_operator.decide.arguments import parallel_sizes

_ADDRESS = "the runner gives the engine its address"
_GUARDED = "requests reach the engine only through the runner"
_ONE_NODE = "an engine runs in one runner, on one node; write engine.parallelism"
_SET_BY_WARMFLEET = {
    "model": "write model.uri instead",
    "served_model_name": "write model.servedNames instead",
    "lora_modules": "write model.adapters instead",
    "host": _ADDRESS,
    "port": _ADDRESS,
    "uds": _ADDRESS,
    "root_path": _ADDRESS,
    "grpc": "the runner speaks HTTP to the engine",
    "grpc_port": "the runner speaks HTTP to the engine",
    "api_key": f"{_GUARDED}; guard the Service instead",
    "ssl_keyfile": _GUARDED,
    "ssl_certfile": _GUARDED,
    "ssl_ca_certs": _GUARDED,
    "ssl_cert_reqs": _GUARDED,
    "ssl_ciphers": _GUARDED,
    "enable_ssl_refresh": _GUARDED,
    "config": "write the options themselves into engine.args",
    "download_dir": "weights come from model.uri",
    "hf_token": "weights come from model.uri",
    "revision": "weights come from model.uri",
    "code_revision": "weights come from model.uri",
    "headless": "an engine without its API serves nobody",
    "enable_sleep_mode": "every engine can be put to sleep",
    "device_ids": "the assignment says which GPUs an engine gets; write resources.gpus",
    "nnodes": _ONE_NODE,
    "node_rank": _ONE_NODE,
    "master_addr": _ONE_NODE,
    "master_port": _ONE_NODE,
    "data_parallel_address": _ONE_NODE,
    "data_parallel_rpc_port": _ONE_NODE,
    "data_parallel_rank": _ONE_NODE,
    "data_parallel_start_rank": _ONE_NODE,
    "data_parallel_size_local": _ONE_NODE,
    "data_parallel_external_lb": _ONE_NODE,
    "data_parallel_hybrid_lb": _ONE_NODE,
    "data_parallel_multi_port_external_lb": _ONE_NODE,
    "data_parallel_supervisor_port": _ONE_NODE,
}
"""Why a person need not set it, by the option's name."""
_PICKLED = {"npcache", "pt"}
_FIELDS = {
    "max_model_len": "engine.maxModelLen",
    "quantization": "engine.quantization",
    "speculative_config": "engine.speculative",
    "spec_model": "engine.speculative",
    "spec_method": "engine.speculative",
    "spec_tokens": "engine.speculative",
    "tensor_parallel_size": "engine.parallelism",
    "pipeline_parallel_size": "engine.parallelism",
    "data_parallel_size": "engine.parallelism",
}
"""The field that says the same, by the option's name."""


def clashes(spec: ModelDeploymentSpec) -> Iterator[str]:
    """Yield what of engine.args must go, each time with what to remove or to write instead."""
    fields = _fields_set(spec)
    for use in uses(spec.engine.args):
        complaint = _clash(use, spec, fields)
        if complaint is not None:
            yield f"engine.args[{use.position}]: {complaint}"
    yield from _gpus(spec)
    yield from _adapters(spec)


def _clash(use: Use, spec: ModelDeploymentSpec, fields: set[str]) -> str | None:
    name = use.option.dest if use.option is not None else ""
    if name in _SET_BY_WARMFLEET:
        return f"{use.flag} is set by Warmfleet: {_SET_BY_WARMFLEET[name]}; remove it"
    if _FIELDS.get(name) in fields:
        return f"{use.flag} clashes with {_FIELDS[name]}; remove one of them"
    if name == "worker_cls" and spec.gpus == 0:
        return f"{use.flag} is set by Warmfleet: the worker on CPUs is one that can sleep; remove it"
    if name == "load_format" and (given := use.inline or next(iter(use.values), "")) in _PICKLED:
        return f"{use.flag} {given} loads pickled weights, which can execute code; remove it"
    if use.flag == "--no-enable-lora" and spec.model.adapters:
        return "--no-enable-lora clashes with model.adapters; remove one of them"
    return None


def _fields_set(spec: ModelDeploymentSpec) -> set[str]:
    engine = spec.engine
    values = {
        "engine.maxModelLen": engine.max_model_len,
        "engine.quantization": engine.quantization,
        "engine.speculative": engine.speculative,
        "engine.parallelism": engine.parallelism,
    }
    return {name for name, value in values.items() if value is not None}


def _gpus(spec: ModelDeploymentSpec) -> Iterator[str]:
    """Compare the GPUs that engine.args spread the engine over with those it gets."""
    sizes = parallel_sizes(spec.engine.args)
    if spec.engine.parallelism is not None or not sizes or spec.gpus == 0:
        return
    spread = prod(sizes.values())
    if spread != spec.gpus:
        said = " and ".join(f"--{name.replace('_', '-')} {size}" for name, size in sizes.items())
        yield (
            f"engine.args: {said} spread the engine over {spread} GPU{'s' if spread != 1 else ''}, and resources.gpus "
            f"is {spec.gpus}; make them equal, or write engine.parallelism instead"
        )


def _adapters(spec: ModelDeploymentSpec) -> Iterator[str]:
    """Compare sizes for adapters in engine.args with the adapters."""
    args, count = spec.engine.args, len(spec.model.adapters)
    resident, together = integer_of(args, "max_cpu_loras"), integer_of(args, "max_loras")
    if count and resident is not None and together is not None and resident < together:
        yield (
            f"engine.args: --max-cpu-loras {resident} is less than --max-loras {together}; raise it, or lower the other"
        )
