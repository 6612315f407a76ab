"""Nodes that lose their power: what clients and the operator notice of it, and when."""

from typing import TYPE_CHECKING

from warmfleet_emulator.scenario import LossBlock
from warmfleet_emulator.snapshot import UNREACHABLE_SECONDS

if TYPE_CHECKING:
    from warmfleet_emulator.world import World

NOT_READY_SECONDS = 50.0
"""From the last renewal of a node's lease until Kubernetes takes it for lost (its default)."""
EVICTED_SECONDS = 30.0
"""From then on until the pods there are deleted: what runners tolerate."""


def lose(world: "World", loss: LossBlock) -> None:
    """Take the power of these nodes: their engines answer nobody any more, at once; who looks finds out later."""
    lost = [
        node
        for node in world.nodes.values()
        if not node.lost and (node.name in loss.nodes or (loss.zone and node.block.zone == loss.zone))
    ]
    for node in lost:
        node.lost = True
    for runner in world.runners.values():
        if runner.node.lost and runner.silent_since is None:
            runner.lose_power()
            world.fell_silent(runner)
    world.clock.later(UNREACHABLE_SECONDS, world.changed)

    def not_ready() -> None:
        for node in lost:
            node.ready = False
            world.node_records[node.name] = node.record()
        world.changed()

    def evict() -> None:
        for runner in world.runners.values():
            if not runner.node.ready and not runner.is_leaving:
                runner.delete(world.time())
        world.changed()

    world.clock.later(NOT_READY_SECONDS, not_ready)
    world.clock.later(NOT_READY_SECONDS + EVICTED_SECONDS, evict)
