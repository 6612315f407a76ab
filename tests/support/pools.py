"""WarmPools: as tests apply them, and good and bad ones, about which pydantic and the real API server are asked."""

from typing import Any

from support.kubeapi import Object
from support.objects import Bad, Good
from warmfleet_api import names


def warm_pool(name: str = "pool", **spec: Any) -> Object:
    """Return a pool; what is not given is the default."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.WARM_POOL_KIND,
        "metadata": {"name": name},
        "spec": spec,
    }


GOOD = (
    Good("smallest object", warm_pool()),
    Good(
        "every field",
        warm_pool(
            replicas=3,
            gpus=8,
            gpuResource="nvidia.com/mig-3g.40gb",
            cpu=16,
            memory="128Gi",
            maxEngines=4,
            image="registry.example/runtime:1",
            nodeSelector={"node.example/pool": "h100", "zone": ""},
            tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            runtimeClassName="nvidia",
            imagePullSecrets=[{"name": "registry"}],
        ),
    ),
    Good("no runners", warm_pool(replicas=0)),
    Good("least memory", warm_pool(memory="1280Mi")),
)

BAD = (
    Bad("unknown field", warm_pool(minReplicas=1), "spec.minReplicas", "unknown field"),
    Bad("negative replicas", warm_pool(replicas=-1), "spec.replicas", "greater than or equal to 0"),
    Bad("too many replicas", warm_pool(replicas=1001), "spec.replicas", "less than or equal to 1000"),
    Bad("no engines", warm_pool(maxEngines=0), "spec.maxEngines", "greater than or equal to 1"),
    Bad("too many GPUs", warm_pool(gpus=65), "spec.gpus", "less than or equal to 64"),
    Bad("memory without its unit", warm_pool(memory=16), "spec.memory", "memory is at least 1280Mi"),
    Bad("memory that is no quantity", warm_pool(memory="16 GB"), "spec.memory", "should match"),
    Bad("GPU resource without a domain", warm_pool(gpuResource="gpu"), "spec.gpuResource", "should match"),
    Bad(
        "key that no label can have",
        warm_pool(nodeSelector={"-x": "y"}),
        "spec.nodeSelector",
        "nodeSelector has a key that no label can have",
    ),
    Bad(
        "name that is no host name",
        warm_pool("9-lives"),
        "metadata.name",
        "metadata.name has at most 50 lower-case letters",
    ),
    Bad(
        "name that is too long", warm_pool("x" * 51), "metadata.name", "metadata.name has at most 50 lower-case letters"
    ),
)
