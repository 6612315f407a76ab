"""What must hold at every moment of a simulation, whatever a policy decides: no memory and no GPU is given twice."""

from collections import Counter
from typing import TYPE_CHECKING

from warmfleet_operator.decide.requests import amounts, requests_of

if TYPE_CHECKING:
    from warmfleet_emulator.world import World


def broken(world: "World") -> list[str]:
    """Return what does not hold now, in words."""
    return [*_nodes(world), *_runners(world)]


def _nodes(world: "World") -> list[str]:
    """Pods take no more than their nodes have."""
    taken: dict[str, Counter[str]] = {name: Counter() for name in world.nodes}
    for runner in world.runners.values():
        taken[runner.node.name].update(requests_of(runner.pod))
    found = []
    for name, node in world.node_records.items():
        excess = taken[name] - Counter(amounts(node.status.allocatable))
        if excess:
            found.append(f"{world.clock.now:.1f} s: {name} lacks {dict(excess)}")
    return found


def _runners(world: "World") -> list[str]:
    """A GPU has one engine awake at most; without GPUs what engines hold fits into the runner's memory."""
    found = []
    for runner in world.runners.values():
        gpus: Counter[int] = Counter()
        memory = 0
        for engine in runner.awake():
            content = engine.content
            gpus.update(content.gpus)
            memory += 0 if content.gpus else content.awake_bytes
        twice = [gpu for gpu, count in gpus.items() if count > 1]
        if twice:
            found.append(f"{world.clock.now:.1f} s: GPU {twice[0]} of {runner.name} has two engines awake")
        limit = runner.state.limits.memory_bytes
        if memory > limit:
            found.append(f"{world.clock.now:.1f} s: engines of {runner.name} hold {memory} of {limit} bytes")
    return found
