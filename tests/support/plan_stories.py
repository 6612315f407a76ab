"""Makers for stories about plans."""

from support.node_tiers import Node, Store
from warmfleet_agent.plan import Held, Known, Step, Wait, Wanted
from warmfleet_api.vocabulary import Priority, Tier

GB = 10**9


def node(memory_gb: float = 10.0, disk_gb: float | None = None, *, parallel: int = 2, **sizes_gb: float) -> Node:
    """A node, and what sources hold."""
    return Node(
        memory=Store(round(memory_gb * GB)),
        disk=Store(round(disk_gb * GB)) if disk_gb is not None else None,
        sizes={key: (round(size * GB) - 100_000,) for key, size in sizes_gb.items()},
        parallel=parallel,
    )


def want(
    on: Node,
    *keys: str,
    tier: Tier = Tier.MEMORY,
    priority: Priority = Priority.NORMAL,
    pinned: bool = False,
    uses: float = 0.0,
    saves: float = 0.0,
) -> None:
    for key in keys:
        on.wanted[key] = Wanted(key, tier, priority, is_pinned=pinned, uses_per_day=uses, saves_seconds=saves)


def put(on: Node, *keys: str, tier: Tier = Tier.MEMORY, seconds_ago: float = 3600.0) -> None:
    store = on.memory if tier is Tier.MEMORY else on.disk
    assert store is not None
    for key in keys:
        store.held[key] = Held(key, on.sizes[key], on.now - seconds_ago)


def know(on: Node) -> None:
    for key, sizes in on.sizes.items():
        on.known[key] = Known(sizes, on.now)


def of(steps: tuple[Step, ...], kind: type[Step]) -> list[str]:
    return [step.key for step in steps if isinstance(step, kind)]


def wait_of(on: Node, key: str) -> Wait:
    (found,) = [wait for wait in on.last.waits if wait.key == key]
    return found
