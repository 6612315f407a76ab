"""Starts that ended, for tests of what is learnt of them."""

from warmfleet_api.status import LastStart, StageStatus
from warmfleet_api.vocabulary import Stage, StartType


def last_start(
    kind: StartType = StartType.WARM,
    *,
    node: str = "n1",
    failed: bool = False,
    time: str = "2026-01-31T11:59:00Z",
    **seconds: float,
) -> LastStart:
    """A start with these stages: `last_start(StartType.WARM, WeightsLoaded=3.5, Routable=0.2)`."""
    stages = [StageStatus(name=Stage(name), milliseconds=round(each * 1000)) for name, each in seconds.items()]
    return LastStart(
        start_type=kind,
        result="Failed" if failed else "Succeeded",
        duration_milliseconds=sum(each.milliseconds for each in stages),
        time=time,
        node=node,
        stages=stages,
        summary="",
    )
