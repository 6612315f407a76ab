"""What the status of a model says of its standbys. Pure."""

from warmfleet_api.standby import Standby
from warmfleet_api.status import MAX_STANDBYS, StandbyStatus
from warmfleet_operator.decide.actions import StandingBy
from warmfleet_operator.decide.situation import Situation

_MAX_TEXT = 512


def standby_of(situation: Situation) -> StandbyStatus | None:
    """Return what stands by; None: nothing is to, or the model sleeps or is stopped."""
    wanted, found = situation.model.spec.standby, situation.standby
    if wanted is None or situation.wanted == 0 or situation.dormant is not None:
        return None
    if found is None:
        # No round has looked yet: what a former operator wrote is still the best guess of where they are.
        return situation.model.status.standby
    return as_told(wanted, found)


def as_told(wanted: Standby, found: StandingBy) -> StandbyStatus:
    """Return what a round found, as the status says it."""
    return StandbyStatus(
        mode=wanted.mode,
        replicas=wanted.replicas,
        ready_replicas=min(wanted.replicas, found.ready),
        nodes=list(dict.fromkeys(found.nodes))[:MAX_STANDBYS],
        message=found.missing[:_MAX_TEXT],
    )
