"""In which size a start of a model is counted, by where it goes: what says how well free room can be used."""

from warmfleet_api import quantity
from warmfleet_operator.decide.fleet import Model, PoolKey
from warmfleet_operator.decide.remembered import MOST, until_forgotten

Sizes = tuple[tuple[object, int], ...]
"""A GPU resource on nodes, else a pool; with GPUs, or bytes rounded up to a power of two."""
_known: dict[Sizes, Sizes] = until_forgotten({})
"""Equal ones are one object: a round counts thousands of them."""


def sizes_of(model: Model) -> Sizes:
    """Return where a start of the model may go, each with the size it is counted in there."""
    sizes = _sizes_of(model)
    if len(_known) >= MOST:
        _known.clear()
    return _known.setdefault(sizes, sizes)


def _sizes_of(model: Model) -> Sizes:
    gpus = model.spec.gpus
    if not model.pools:
        return (((model.spec.resources.gpu_resource, ""), gpus),) if gpus else ()
    size = gpus or _bucket(quantity.to_bytes(model.spec.resources.memory))
    return tuple((PoolKey(model.key.namespace, name), size) for name in model.pools)


def _bucket(number: int) -> int:
    """Return the next power of two."""
    return 1 << max(0, number - 1).bit_length()
