"""How good an endpoint is for a request, from 0 to 1, by one thing each."""

from warmfleet_router.endpoints import Endpoint
from warmfleet_router.pick.interface import Asked

GOOD_LATENCY_SECONDS = 1.0
"""An endpoint with so much to the first byte scores one half."""


def idle(endpoint: Endpoint, asked: Asked) -> float:
    """How much of what its engine runs at once is free: what is idle of its GPU."""
    load = endpoint.load(asked.now)
    window = load.window if load and load.window else asked.unknown_room
    return max(0.0, 1.0 - endpoint.requests(asked.now) / max(1, window))


def short_queue(endpoint: Endpoint, asked: Asked) -> float:
    """How few requests it has beyond those that run."""
    load = endpoint.load(asked.now)
    waiting = max(0, endpoint.requests(asked.now) - load.window) if load else endpoint.in_flight
    return 1.0 / (1.0 + waiting)


def quick(endpoint: Endpoint, asked: Asked) -> float:
    """How soon it began its last answers; one that gave none yet gets the benefit of the doubt."""
    if endpoint.latency_seconds is None:
        return 1.0
    return GOOD_LATENCY_SECONDS / (GOOD_LATENCY_SECONDS + endpoint.latency_seconds)


def available(endpoint: Endpoint, asked: Asked) -> float:
    """How few of its last answers failed."""
    return 1.0 / (1.0 + endpoint.breaker.failures)


def few_requests(endpoint: Endpoint, asked: Asked) -> float:
    """How few requests it has."""
    return 1.0 / (1.0 + endpoint.requests(asked.now))


def long_unused(endpoint: Endpoint, asked: Asked) -> float:
    """How long ago it was chosen."""
    return 1.0 - 1.0 / (1.0 + max(0.0, asked.now - endpoint.used_at))
