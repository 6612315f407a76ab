"""Whether a user may read a metric: as the API server says (SubjectAccessReview), remembered for a while.

The API server has asked itself before it passed the request on. It is asked again because the certificate of its front
proxy is good for all API servers behind it: who got hold of that could name any user.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from warmfleet_api import names
from warmfleet_kube.client import KubeClient
from warmfleet_kube.reviews import GRANTED_SECONDS, REFUSED_SECONDS, REVIEWS_AT_ONCE, Remembered, User, may


class NotAllowed(Exception):  # noqa: N818 - named as the answer, 403
    """The user lacks a right."""


class Rights:
    """Asks the API server, and remembers its answers for a while."""

    def __init__(self, client: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._known: Remembered[tuple[object, ...], bool] = Remembered(clock)
        self._reviews = asyncio.Semaphore(REVIEWS_AT_ONCE)

    async def check(self, user: User, path: str, parts: Mapping[str, str]) -> None:
        """Return if a user may read a path.

        Args:
            user: who asks.
            path: of the request.
            parts: `namespace` and `metric` where the path is that of a metric; else empty.

        Raises:
            NotAllowed: the user may not.
            KubeError: the API server can't be asked.
        """
        key = (user.username, user.uid, user.groups, tuple(sorted(user.extra.items())), path)
        allowed = self._known.get(key)
        if allowed is None:
            async with self._reviews:
                allowed = await may(self._client, user, **_attributes(path, parts))
            self._known.put(key, allowed, GRANTED_SECONDS if allowed else REFUSED_SECONDS)
        if not allowed:
            raise NotAllowed(_words(user, path, parts))


def _attributes(path: str, parts: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
    """Return what the API server would ask of itself for this path."""
    if "metric" not in parts:
        return {"nonResourceAttributes": {"path": path, "verb": "get"}}
    attributes = {
        "group": names.EXTERNAL_METRICS_GROUP,
        "version": names.EXTERNAL_METRICS_VERSION,
        "resource": parts["metric"],
        "namespace": parts["namespace"],
        "verb": "list",
    }
    return {"resourceAttributes": attributes}


def _words(user: User, path: str, parts: Mapping[str, str]) -> str:
    if "metric" not in parts:
        return f"{user.username} may not get {path}"
    what = f"{parts['metric']}.{names.EXTERNAL_METRICS_GROUP} in namespace {parts['namespace']}"
    return f"{user.username} may not list {what}; give it a role with that verb"
