"""How much of the free room lies in pieces that starts can't use.

Room is of two kinds: GPUs, free on nodes and in runners of pools, and memory in runners of pools without GPUs. Starts
are counted in *size buckets*: GPUs as they are, memory rounded up to a power of two. Of each place the room that a
size uses is as many whole ones as fit there; the rest can't be used. The figure is the mean of that share over the
starts that wait for room, where none waits over all models, which have the usual sizes; and of both kinds the worse.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from warmfleet_api import names
from warmfleet_operator.decide.fleet import ModelKey
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.sizes import Sizes, sizes_of

CONSOLIDATE_ABOVE = 0.3
"""Fragmentation above which runners are moved (`consolidation.py`)."""


class _Places(NamedTuple):
    """Places of one sort: starts that fit into one may go to any of them."""

    of: object
    """Of a GPU resource on nodes, else the pool."""
    has_gpus: bool
    open: list[int]
    """GPUs or bytes that are free in each."""


def fragmentation(round_: Round, waiting: Iterable[ModelKey]) -> float:
    """Return the share of the free room that starts can't use, 0 to 1, as the round sees it now."""
    free, lost = Counter[bool](), defaultdict[bool, float](float)
    places = [each for each in _places(round_) if each.open]
    sizes = _sizes(round_, waiting)
    if any(each.of not in sizes for each in places):
        usual = _sizes(round_, round_.fleet.models)
        sizes = {**usual, **sizes}
    for each in places:
        total = sum(each.open)
        free[each.has_gpus] += total
        lost[each.has_gpus] += total * _lost_share(each.open, sizes.get(each.of, Counter()))
    return max((lost[kind] / total for kind, total in free.items()), default=0.0)


def _lost_share(pieces: Sequence[int], sizes: Counter[int]) -> float:
    """Return which share of these pieces a start can't use, as the mean over the sizes."""
    total, starts = sum(pieces), sizes.total()
    if not starts:
        return 0.0
    used = sum(count * sum(piece // size * size for piece in pieces) for size, count in sizes.items())
    return 1.0 - used / (total * starts)


def _places(round_: Round) -> Iterable[_Places]:
    resources = {names.DEFAULT_GPU_RESOURCE, *(pool.spec.gpu_resource for pool in round_.fleet.pools.values())}
    ledger = round_.ledger
    for resource in sorted(resources):
        yield _Places((resource, ""), True, ledger.pieces(round_.carried.base.steady, resource))
    for key, rooms in round_.rooms.rooms.items():
        has_gpus = bool(round_.fleet.pools[key].spec.gpus)
        amounts = (room.open_gpus if has_gpus else room.open_bytes for room in rooms if room.open_places > 0)
        yield _Places(key, has_gpus, [number for number in amounts if number > 0])


def _sizes(round_: Round, keys: Iterable[ModelKey]) -> dict[object, Counter[int]]:
    """Return how many starts there are of each size, by where they go."""
    found: defaultdict[object, Counter[int]] = defaultdict(Counter)
    of_all = [_sizes_of(round_, key) for key in keys]
    by_id = dict(zip(map(id, of_all), of_all, strict=True))
    for id_, number in Counter(map(id, of_all)).items():
        for of, size in by_id[id_]:
            found[of][size] += number
    return dict(found)


def _sizes_of(round_: Round, key: ModelKey) -> Sizes:
    newcomer = round_.newcomers.get(key)
    if newcomer is not None:
        return newcomer.sizes
    model = round_.fleet.models.get(key)
    return sizes_of(model) if model is not None else ()
