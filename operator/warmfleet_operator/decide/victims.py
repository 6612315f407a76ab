"""Which of equal replicas goes when there are too many: the one whose end costs the least. Pure.

Asked once, in the round that finds one too many: that round lets it go, so counts that move afterwards change nothing.
One that was let go does not serve any more, and what does not serve goes first.
"""

from collections.abc import Sequence
from typing import NamedTuple

from warmfleet_operator.decide.runners import Member


class Cost(NamedTuple):
    """What ends with a replica. Sorts the cheapest first."""

    requests: int
    """At the engine and in front of it: they have to end before it does."""
    served: int
    """Requests it has had: the fewer, the colder is what it keeps of prompts."""


def cost_of(member: Member) -> Cost:
    """Return what ends with a replica, as its runner last told."""
    engine = member.engine
    return Cost(engine.running + engine.waiting, engine.requests) if engine is not None else Cost(0, 0)


def why_it_goes(member: Member, kept: Sequence[Member]) -> str:
    """Say why this one goes and not one of those that are kept, which all serve if it does."""
    if not member.is_serving:
        return "it does not serve"
    own, least = cost_of(member), min(cost_of(each) for each in kept)
    if own.requests != least.requests:
        return f"it has the fewest requests: {own.requests}, the others {least.requests} and more"
    if own.served != least.served:
        return f"its cache is the coldest: {own.served} requests so far, the others had {least.served} and more"
    return "it is the youngest"
