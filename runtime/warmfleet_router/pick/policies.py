"""The policies a model may name, and the choice by one of them."""

from collections.abc import Sequence

from warmfleet_api.vocabulary import RoutingPolicy
from warmfleet_router.endpoints import Endpoint
from warmfleet_router.pick import affinity, scorers
from warmfleet_router.pick.filters import usable
from warmfleet_router.pick.interface import Asked, Policy

_LEAST_LOADED = ((1.0, scorers.few_requests),)

POLICIES: dict[RoutingPolicy, Policy] = {
    RoutingPolicy.SCORE: Policy(
        ((0.3, scorers.idle), (0.3, scorers.short_queue), (0.2, scorers.quick), (0.2, scorers.available))
    ),
    RoutingPolicy.LEAST_LOADED: Policy(_LEAST_LOADED),
    RoutingPolicy.LEAST_RECENTLY_USED: Policy(((1.0, scorers.long_unused),)),
    RoutingPolicy.SESSION_AFFINITY: Policy(_LEAST_LOADED, (affinity.same_session,)),
    RoutingPolicy.PREFIX_AFFINITY: Policy(_LEAST_LOADED, (affinity.same_prefix,)),
}


def pick(policy: Policy, endpoints: Sequence[Endpoint], asked: Asked) -> Endpoint | None:
    """Return the endpoint for a request; None: nothing can take it now."""
    if len(endpoints) == 1:
        return endpoints[0] if endpoints[0].is_usable(asked.now) else None
    candidates = usable(endpoints, asked)
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    for picker in policy.pickers:
        if (found := picker(candidates, asked)) is not None:
            return found
    return max(candidates, key=lambda each: (_score(policy, each, asked), -each.used_at))


def _score(policy: Policy, endpoint: Endpoint, asked: Asked) -> float:
    return sum(weight * scorer(endpoint, asked) for weight, scorer in policy.scorers)
