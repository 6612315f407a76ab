"""Who may call the operator's API: whoever Kubernetes says so of the bearer of a token.

A token is reviewed by the API server (TokenReview, for the audience `names.TOKEN_AUDIENCE` alone, so that a token which
is good for the API server is refused, and none that is shown here is good elsewhere), what its bearer may do by
SubjectAccessReview: RBAC as everywhere. Both answers count for a while, so a router that calls every second costs two
reviews a minute, and a right that is taken away ends within that minute.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from warmfleet_api import names
from warmfleet_kube.client import KubeClient
from warmfleet_kube.objects import Object, Record, Resource

GRANTED_SECONDS = 60.0
REFUSED_SECONDS = 5.0
MAX_REMEMBERED = 1000
MAX_TOKEN_LENGTH = 16 * 1024
REVIEWS_AT_ONCE = 8
MANAGER = "warmfleet-access"
_MAKE_ONE = f"make one: kubectl -n NAMESPACE create token SERVICEACCOUNT --audience={names.TOKEN_AUDIENCE}"

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class User(Record, frozen=True, kw_only=True):
    """Who a token belongs to."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = {}


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


class AccessStatus(Record, frozen=True, kw_only=True):
    """What the API server says of a right."""

    allowed: bool = False


class SubjectAccessReview(Object, frozen=True, kw_only=True):
    """A right's review. It is stored nowhere either."""

    metadata: Any = None
    status: AccessStatus = AccessStatus()


TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", TokenReview)
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", SubjectAccessReview
)


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


@dataclass(slots=True)
class _Remembered(Generic[K, V]):
    """Answers, each for its time."""

    clock: Callable[[], float]
    _answers: dict[K, tuple[float, V]] = field(default_factory=dict)

    def get(self, key: K) -> V | None:
        until, answer = self._answers.get(key, (0.0, None))
        return answer if self.clock() < until else None

    def put(self, key: K, answer: V, seconds: float) -> None:
        if len(self._answers) >= MAX_REMEMBERED:
            now = self.clock()
            self._answers = {each: known for each, known in self._answers.items() if known[0] > now}
            if len(self._answers) >= MAX_REMEMBERED:
                self._answers.clear()
        self._answers[key] = (self.clock() + seconds, answer)


class Access:
    """Asks the API server, and remembers its answers for a while."""

    def __init__(self, client: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._users: _Remembered[bytes, TokenStatus] = _Remembered(clock)
        self._rights: _Remembered[tuple[bytes, Right], bool] = _Remembered(clock)
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
        body = {
            "apiVersion": ACCESS_REVIEWS.api_version,
            "kind": ACCESS_REVIEWS.kind,
            "metadata": {},
            "spec": {
                "resourceAttributes": attributes,
                "user": user.username,
                "uid": user.uid,
                "groups": list(user.groups),
                "extra": {key: list(values) for key, values in user.extra.items()},
            },
        }
        async with self._reviews:
            return (await self._client.create(ACCESS_REVIEWS, body, MANAGER)).status.allowed
