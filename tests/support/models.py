"""ModelDeployment objects as tests apply them."""

from typing import Any

from support.kubeapi import Object
from warmfleet_api import names


def model_deployment(name: str, spec: Object) -> Object:
    """Return a whole object around `spec`."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.MODEL_DEPLOYMENT_KIND,
        "metadata": {"name": name},
        "spec": spec,
    }


def simulated(
    name: str,
    *,
    replicas: int = 1,
    gpus: int = 0,
    fault: str | None = None,
    load_milliseconds: int = 50,
    **fields: Any,
) -> Object:
    """Return a model of a Simulated engine that is Ready quickly; further fields of the spec as keywords."""
    behaviour: Object = {"loadMilliseconds": load_milliseconds, "initializeMilliseconds": 10}
    if fault:
        behaviour["fault"] = {"kind": fault}
    spec = {
        "model": {"uri": f"hf://simulated/{name}"},
        "engine": {"type": "Simulated", "simulated": behaviour},
        "resources": {"gpus": gpus, "cpu": "10m", "memory": "512Mi"},
        "replicas": replicas,
    }
    return model_deployment(name, spec | fields)


def vllm(name: str, folder: str, *, args: list[str] | None = None, **fields: Any) -> Object:
    """Return a model that real vLLM serves on CPU from a folder of the node, within a small memory."""
    small = ["--enforce-eager", "--kv-cache-memory-bytes", "67108864"]
    spec = {
        "model": {"uri": f"file://{folder}"},
        "engine": {"type": "VLLM", "maxModelLen": 512, "args": small if args is None else args},
        "resources": {"gpus": 0, "cpu": "100m", "memory": "3Gi"},
    }
    return model_deployment(name, spec | fields)
