"""What a runner needs of a node."""

from dataclasses import dataclass, field, replace

from warmfleet_api import quantity
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.pod_template import Toleration
from warmfleet_api.warm_pool import WarmPoolSpec
from warmfleet_operator.decide.fleet import Model
from warmfleet_operator.decide.ledger import by_scarcity
from warmfleet_operator.decide.remembered import Remembered
from warmfleet_operator.decide.requests import CPU, MEMORY, PODS, Amounts, amount, say_amount
from warmfleet_operator.decide.weights_stores import CacheKind, Stores


@dataclass(frozen=True, slots=True)
class Need:
    """What a runner needs of a node. Equal needs fit on equal nodes."""

    requests: tuple[tuple[str, int], ...]
    gpu_resource: str
    gpu_memory_bytes: int
    """Memory of each GPU."""
    node_selector: tuple[tuple[str, str], ...]
    tolerations: tuple[Toleration, ...]
    stores: frozenset[CacheKind] | None = None
    """Kinds of weight stores of which the node has to have one; None: it needs none."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "_hash",
            hash((self.requests, self.gpu_resource, self.gpu_memory_bytes, self.node_selector, self.stores)),
        )

    def __hash__(self) -> int:
        return self._hash

    @property
    def amounts(self) -> Amounts:
        """What it takes, in the units of the ledger."""
        return dict(self.requests)

    @property
    def kind(self) -> "Need":
        """The same need without amounts: it decides which nodes match."""
        return replace(self, requests=())

    def __str__(self) -> str:
        wanted = self.amounts
        return ", ".join(say_amount(each, wanted[each]) for each in by_scarcity(wanted) if each != PODS)


def need_of(spec: ModelDeploymentSpec, stores: frozenset[CacheKind] | None = None) -> Need:
    """Return what a model's own runner needs; `stores` are the kinds that may hold its weights."""
    resources, template = spec.resources, spec.pod_template
    return Need(
        requests=_requests(resources.cpu, resources.memory, resources.gpu_resource, spec.gpus),
        gpu_resource=resources.gpu_resource,
        gpu_memory_bytes=quantity.to_bytes(resources.gpu_memory) if resources.gpu_memory is not None else 0,
        node_selector=tuple(sorted(template.node_selector.items())),
        tolerations=tuple(template.tolerations),
        stores=stores,
    )


_needs: Remembered[Need] = Remembered()
_equal: dict[Need, Need] = {}
"""One object of all needs that are equal: they are told apart many thousand times in a round."""


def need_once(model: Model, stores: Stores) -> Need:
    """Return what a model's own runner needs; of one that was asked about before, what was found then."""
    key = model.key, stores.kinds
    need = _needs.get(key, model)
    if need is None:
        made = need_of(model.spec, stores.kinds_for(model.weights))
        need = _needs.keep(key, _equal.setdefault(made, made), model)
    return need


def need_of_pool(spec: WarmPoolSpec) -> Need:
    """Return what one runner of a pool needs."""
    return Need(
        requests=_requests(spec.cpu, spec.memory, spec.gpu_resource, spec.gpus),
        gpu_resource=spec.gpu_resource,
        gpu_memory_bytes=0,
        node_selector=tuple(sorted(spec.node_selector.items())),
        tolerations=tuple(spec.tolerations),
    )


def _requests(cpu: str | int, memory: str | int, gpu_resource: str, gpus: int) -> tuple[tuple[str, int], ...]:
    requests = {gpu_resource: gpus} if gpus else {}
    return tuple({**requests, CPU: amount(CPU, cpu), MEMORY: amount(MEMORY, memory), PODS: 1}.items())
