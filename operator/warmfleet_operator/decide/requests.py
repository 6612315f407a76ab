"""What a pod takes of its node, in the units of the ledger: millicores, bytes, whole things.

The formula is that of the Kubernetes scheduler (`k8s.io/component-helpers/resource.PodRequests`): the app
containers and sidecars run together; an ordinary init container runs beside the sidecars that were
started before it; the pod takes the larger of the two, and its overhead on top.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from warmfleet_api import quantity
from warmfleet_operator.records import Pod

CPU = "cpu"
MEMORY = "memory"
PODS = "pods"

Amounts = Mapping[str, int]
"""Resource → millicores (cpu), bytes (memory, storage) or count (GPUs, pods)."""


@lru_cache(maxsize=8192)
def amount(resource: str, text: str | int) -> int:
    """Return a quantity of that resource in the unit of the ledger, rounded up."""
    return quantity.to_millicores(text) if resource == CPU else quantity.to_bytes(text)


def amounts(quantities: Mapping[str, str | int]) -> Amounts:
    """Return quantities in the units of the ledger."""
    return {resource: amount(resource, text) for resource, text in quantities.items()}


def requests_of(pod: Pod) -> Amounts:
    """Return what the pod takes of its node, the place of one pod included."""
    together: Counter[str] = Counter()
    sidecars: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    for container in pod.spec.containers:
        together.update(amounts(container.resources.requests))
    for container in pod.spec.init_containers:
        requests = Counter(amounts(container.resources.requests))
        if container.restart_policy == "Always":
            sidecars += requests
            peak |= sidecars
        else:
            peak |= sidecars + requests
    return {**(((together + sidecars) | peak) + Counter(amounts(pod.spec.overhead))), PODS: 1}


def say_amount(resource: str, number: int) -> str:
    """Return an amount for people: `2 nvidia.com/gpu`, `16.0 GiB memory`, `500m cpu`."""
    return f"{say_number(resource, number)} {resource}"


def say_number(resource: str, number: int) -> str:
    """Return the amount without the resource's name: `2`, `16.0 GiB`, `500m`."""
    if resource == CPU:
        return str(number // 1000) if number % 1000 == 0 else f"{number}m"
    return quantity.format_bytes(number) if resource == MEMORY else str(number)
