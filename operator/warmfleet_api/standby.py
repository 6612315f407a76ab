"""The block `spec.standby`: what stands by to serve a model when the place where it serves is lost."""

import re
from typing import Annotated, Self

from pydantic import Field, StringConstraints

from warmfleet_api.fields import LABEL_KEY_PATTERN
from warmfleet_api.rules import Block, rule
from warmfleet_api.vocabulary import StartType

HOSTNAME_LABEL = "kubernetes.io/hostname"


class Standby(Block):
    """What stands by on other nodes or in other zones than the replicas, to take over when one of them is lost."""

    replicas: Annotated[int, Field(ge=1, le=16)] = 1
    """How many stand by. Each takes the place of one lost replica and is replaced afterwards."""
    mode: StartType = StartType.WARM
    """How a standby gets to serve, by what is held for it meanwhile. Hot: an engine that sleeps. Warm: room in a runner
    that is up, and the weights in memory of its node. Cold: nothing but the weights on the node's disk, where its
    WeightCache has one. What is held is given up before anything that serves."""
    topology_key: Annotated[str, StringConstraints(min_length=1, max_length=317)] = HOSTNAME_LABEL
    """Label of the nodes that tells places apart which are lost together: a standby is never where its value is that of
    a replica's node. E.g. topology.kubernetes.io/zone."""

    @rule(
        f"self.topologyKey.matches(r'{LABEL_KEY_PATTERN}')",
        "standby.topologyKey is the key of a node label, e.g. kubernetes.io/hostname or topology.kubernetes.io/zone;"
        " what there is shows: kubectl get nodes --show-labels",
        field_path=".topologyKey",
    )
    def topology_key_is_a_label(self: Self) -> bool:  # noqa: D102
        return re.fullmatch(LABEL_KEY_PATTERN, self.topology_key) is not None
