"""Refusals that come from load, in words.

All are 429: clients send such a request again after Retry-After (OpenAI's does by itself), while a 503 would make a
load balancer take an overloaded runner for a broken one and put its load on the next.
"""

import math

from warmfleet_runtime.admission.requests import Refused

MOST_SECONDS = 60
"""OpenAI's client does not wait longer for a Retry-After, but goes by its own back-off."""
_SPREAD = 8


def seconds(wait_seconds: float, key: int) -> int:
    """Return a Retry-After, up to half as long again by id, so that not all who were refused come back at once."""
    spread = 1 + (key % _SPREAD) / (2 * _SPREAD)
    return max(1, min(MOST_SECONDS, math.ceil(wait_seconds * spread)))


def queue_full(waiting: int, retry_after_seconds: int) -> Refused:
    """Refuse because as many wait as may."""
    message = (
        f"{waiting} requests wait for this model, more may not; send it again in {retry_after_seconds} s, "
        "or raise serving.queue.maxRequests"
    )
    return Refused(429, "queue_full", message, retry_after_seconds)


def shed(retry_after_seconds: int) -> Refused:
    """Refuse a waiting one for another's sake."""
    message = (
        "the queue is full, and the request gave way to one of a higher class or of a tenant with fewer waiting; "
        f"send it again in {retry_after_seconds} s"
    )
    return Refused(429, "shed", message, retry_after_seconds)


def deadline_unmet(wait_seconds: float, left_seconds: float, retry_after_seconds: int) -> Refused:
    """Refuse because the wait would be too long."""
    message = (
        f"the request would wait about {wait_seconds:.1f} s and has {max(left_seconds, 0.0):.1f} s; "
        f"send it again in {retry_after_seconds} s, or give it more time"
    )
    return Refused(429, "deadline_unmet", message, retry_after_seconds)


def deadline_passed(waited_seconds: float, retry_after_seconds: int) -> Refused:
    """Refuse because it has waited too long."""
    message = f"the request waited {waited_seconds:.1f} s for its turn; send it again in {retry_after_seconds} s"
    return Refused(429, "deadline_passed", message, retry_after_seconds)
