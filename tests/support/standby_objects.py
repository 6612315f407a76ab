"""Good and bad blocks `standby`, for the same two questions as `objects.py`."""

from support.objects import Bad, Good, model

EVERYTHING = {"replicas": 2, "mode": "Hot", "topologyKey": "topology.kubernetes.io/zone"}
"""All fields."""

GOOD = (
    Good("a standby with all defaults", model(standby={})),
    Good("all of a standby", model(standby=EVERYTHING)),
    Good("a standby of a model that is stopped", model(replicas=0, standby={"mode": "Cold"})),
)

BAD = (
    Bad("no standby", model(standby={"replicas": 0}), "spec.standby.replicas", "greater than or equal to 1"),
    Bad("an unknown kind of standby", model(standby={"mode": "Lukewarm"}), "spec.standby.mode", '"Hot", "Warm"'),
    Bad("a topology that is no label", model(standby={"topologyKey": "a zone"}), "spec.standby", "of a node label"),
)
