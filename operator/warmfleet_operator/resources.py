"""The kinds of objects the operator reads and writes, and their URLs."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from warmfleet_api import names
from warmfleet_operator import records

R = TypeVar("R", bound=records.Object)


@dataclass(frozen=True, slots=True)
class Resource(Generic[R]):
    """One kind of object. `record` is what its bodies are decoded to."""

    group: str
    version: str
    plural: str
    kind: str
    record: type[R]

    @property
    def api_version(self) -> str:
        """`v1`, or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of the collection or, with a name, of one object."""
        parts = ["/apis" if self.group else "/api", self.api_version]
        if namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


PODS = Resource("", "v1", "pods", "Pod", records.Pod)
NODES = Resource("", "v1", "nodes", "Node", records.Node)
SERVICES = Resource("", "v1", "services", "Service", records.Service)
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", records.PodDisruptionBudget)
MODEL_DEPLOYMENTS = Resource(
    names.GROUP,
    names.VERSION,
    names.MODEL_DEPLOYMENT_PLURAL,
    names.MODEL_DEPLOYMENT_KIND,
    records.ModelDeployment,
)
WARM_POOLS = Resource(
    names.GROUP,
    names.VERSION,
    names.WARM_POOL_PLURAL,
    names.WARM_POOL_KIND,
    records.WarmPool,
)
