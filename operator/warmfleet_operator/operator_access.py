"""Who may call the operator's API: whoever Kubernetes says so of the bearer of a token.

A token is reviewed by the API server (TokenReview, for the audience `names.TOKEN_AUDIENCE` alone, so that a token which
is good for the API server is refused, and none that is shown here is good elsewhere), what its bearer may do by
SubjectAccessReview: RBAC as everywhere. Both answers count for a while, so a router that calls every second costs two
reviews a minute, and a right that is taken away ends within that minute.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from warmfleet_api import names
from warmfleet_kube.client import KubeClient
from warmfleet_kube.objects import Object, Record, Resource
from warmfleet_kube.reviews import GRANTED_SECONDS, MANAGER, REFUSED_SECONDS, REVIEWS_AT_ONCE, Remembered, User, may

MAX_TOKEN_LENGTH = 16 * 1024
_MAKE_ONE = f"make one: kubectl -n NAMESPACE create token SERVICEACCOUNT --audience={names.TOKEN_AUDIENCE}"


class TokenStatus(Record, frozen=True, kw_only=True):
    """What the API server says of a token."""

    authenticated: bool = False
    user: User = User()
    audiences: tuple[str, ...] = ()
    error: str = ""


class TokenReview(Object, frozen=True, kw_only=True):
    """A token's review. It is stored nowhere, so it has no name."""

    metadata: Any = None
    status: TokenStatus = TokenStatus()


TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", TokenReview)


@dataclass(frozen=True, slots=True)
class Right:
    """What a call needs, in RBAC's words, on ModelDeployments."""

    verb: str
    subresource: str = ""
    namespace: str = ""
    """Empty: in all."""

    def __str__(self) -> str:
        what = "/".join(part for part in (names.MODEL_DEPLOYMENT_PLURAL, self.subresource) if part)
        where = f"namespace {self.namespace}" if self.namespace else "all namespaces"
        return f"{self.verb} {what}.{names.GROUP} in {where}"


class NotKnown(Exception):  # noqa: N818 - named as the answer, 401
    """Nobody vouches for the caller."""


class NotAllowed(Exception):  # noqa: N818 - named as the answer, 403
    """The caller lacks a right."""


class Access:
    """Asks the API server, and remembers its answers for a while."""

    def __init__(self, client: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._users: Remembered[bytes, TokenStatus] = Remembered(clock)
        self._rights: Remembered[tuple[bytes, Right], bool] = Remembered(clock)
        self._reviews = asyncio.Semaphore(REVIEWS_AT_ONCE)

    async def check(self, token: str, right: Right) -> None:
        """Return if the bearer of a token has a right.

        Raises:
            NotKnown: the token is missing, over, or not for us.
            NotAllowed: its bearer may not.
            KubeError: the API server can't be asked.
        """
        if not token or len(token) > MAX_TOKEN_LENGTH:
            raise NotKnown(f"no token is shown as `Authorization: Bearer`; {_MAKE_ONE}")
        digest = hashlib.sha256(token.encode()).digest()
        status = self._users.get(digest)
        if status is None:
            status = await self._review(token)
            self._users.put(digest, status, GRANTED_SECONDS if status.authenticated else REFUSED_SECONDS)
        if not status.authenticated or names.TOKEN_AUDIENCE not in status.audiences:
            why = f" ({status.error})" if status.error else ""
            raise NotKnown(f"the token is not valid for {names.TOKEN_AUDIENCE}{why}; {_MAKE_ONE}")
        allowed = self._rights.get((digest, right))
        if allowed is None:
            allowed = await self._may(status.user, right)
            self._rights.put((digest, right), allowed, GRANTED_SECONDS if allowed else REFUSED_SECONDS)
        if not allowed:
            raise NotAllowed(f"{status.user.username} may not {right}; give it a role with that verb")

    async def _review(self, token: str) -> TokenStatus:
        body = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": TOKEN_REVIEWS.kind,
            "metadata": {},
            "spec": {"token": token, "audiences": [names.TOKEN_AUDIENCE]},
        }
        async with self._reviews:
            return (await self._client.create(TOKEN_REVIEWS, body, MANAGER)).status

    async def _may(self, user: User, right: Right) -> bool:
        attributes = {
            "group": names.GROUP,
            "resource": names.MODEL_DEPLOYMENT_PLURAL,
            "subresource": right.subresource,
            "verb": right.verb,
            "namespace": right.namespace,
        }
        async with self._reviews:
            return await may(self._client, user, resourceAttributes=attributes)
