"""What has to come to the same engine: rendezvous hashing over the runners' uids.

Each key ranks all endpoints by a hash of both. When an endpoint goes, only its own keys move; when one comes, it takes
its share from all alike; and every router ranks them the same.
"""

import hashlib
import math
from collections.abc import Sequence

from warmfleet_router.endpoints import Endpoint
from warmfleet_router.pick.interface import Asked

BOUND = 1.25
"""No endpoint gets a prefix while it has more than so many times the mean of requests."""
PREFIX_BYTES = 1024
_MASK = 2**64 - 1


def key_of(value: bytes) -> int:
    """Return 64 bits that stand for a session or a prefix."""
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "big")


def same_session(endpoints: Sequence[Endpoint], asked: Asked) -> Endpoint | None:
    """Return the session's endpoint, however busy it is: its cache is what counts."""
    if asked.session_key is None:
        return None
    key = asked.session_key
    return max(endpoints, key=lambda each: _rank(key, each))


def same_prefix(endpoints: Sequence[Endpoint], asked: Asked) -> Endpoint | None:
    """Return the first endpoint in the prefix's own order that is not far busier than the others.

    Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads, 2016.
    """
    if asked.prefix_key is None:
        return None
    key = asked.prefix_key
    requests = {id(each): each.requests(asked.now) for each in endpoints}
    most = math.ceil(BOUND * (sum(requests.values()) + 1) / len(endpoints))
    free = [each for each in endpoints if requests[id(each)] < most]
    return max(free, key=lambda each: _rank(key, each))


def _rank(key: int, endpoint: Endpoint) -> int:
    """Mix two hashes (splitmix64's finish)."""
    mixed = (key ^ endpoint.seed) & _MASK
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _MASK
    return mixed ^ (mixed >> 31)
