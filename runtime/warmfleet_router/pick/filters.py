"""Which endpoints may take a request: the usable ones, better kinds first.

1. Ready, reachable, breaker closed, did not fail this request before
2. Ready and reachable, but it failed this request before
3. asleep, and woken by the request itself
4. Ready and reachable, breaker open: the last endpoint of a model is never taken out

While a canary is on a request is for one of the two specs, and goes to the other only where its own has nobody for it.
"""

from collections.abc import Sequence

from warmfleet_router.catalog import Split
from warmfleet_router.endpoints import Endpoint
from warmfleet_router.pick.interface import Asked


def usable(endpoints: Sequence[Endpoint], asked: Asked) -> Sequence[Endpoint]:
    """Return the best kind there is; empty: nothing can take the request now."""
    now = asked.now
    reachable = [each for each in endpoints if each.is_usable(now)]
    allowed = [each for each in reachable if each.breaker.allows(now)]
    ready = [each for each in allowed if each.is_ready]
    if asked.avoid:
        others = [each for each in ready if each.runner.uid not in asked.avoid]
        if others:
            return others
    return ready or allowed or reachable


def of_one_spec(endpoints: Sequence[Endpoint], split: Split, now: float, *, tries_canary: bool) -> Sequence[Endpoint]:
    """Return the endpoints of the spec that a request is for; all where none of them can take it."""
    side = [each for each in endpoints if (each.hash != split.stable_hash) == tries_canary]
    return side if any(each.is_usable(now) and each.breaker.allows(now) for each in side) else endpoints
