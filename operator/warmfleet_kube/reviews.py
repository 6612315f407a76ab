"""What the API server says of somebody's rights (SubjectAccessReview), and answers that are remembered for a while."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from warmfleet_kube.client import KubeClient
from warmfleet_kube.objects import Object, Record, Resource

GRANTED_SECONDS = 60.0
REFUSED_SECONDS = 5.0
MAX_REMEMBERED = 1000
REVIEWS_AT_ONCE = 8
"""How many are to be asked for at once, by one process."""
MANAGER = "warmfleet-access"

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class User(Record, frozen=True, kw_only=True):
    """Who somebody is, to Kubernetes."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = {}


class AccessStatus(Record, frozen=True, kw_only=True):
    """What the API server says of a right."""

    allowed: bool = False


class SubjectAccessReview(Object, frozen=True, kw_only=True):
    """A right's review. It is stored nowhere, so it has no name."""

    metadata: Any = None
    status: AccessStatus = AccessStatus()


ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", SubjectAccessReview
)


@dataclass(slots=True)
class Remembered(Generic[K, V]):
    """Answers, each for its time, at most `MAX_REMEMBERED`."""

    clock: Callable[[], float]
    _answers: dict[K, tuple[float, V]] = field(default_factory=dict)

    def get(self, key: K) -> V | None:
        """Return an answer whose time is not over."""
        until, answer = self._answers.get(key, (0.0, None))
        return answer if self.clock() < until else None

    def put(self, key: K, answer: V, seconds: float) -> None:
        """Remember an answer for so long."""
        if len(self._answers) >= MAX_REMEMBERED:
            now = self.clock()
            self._answers = {each: known for each, known in self._answers.items() if known[0] > now}
            if len(self._answers) >= MAX_REMEMBERED:
                self._answers.clear()
        self._answers[key] = (self.clock() + seconds, answer)


async def may(client: KubeClient, user: User, **attributes: Mapping[str, str]) -> bool:
    """Return whether a user has a right, given as `resourceAttributes` or `nonResourceAttributes` of a review.

    Raises:
        KubeError: the API server can't be asked.
    """
    body = {
        "apiVersion": ACCESS_REVIEWS.api_version,
        "kind": ACCESS_REVIEWS.kind,
        "metadata": {},
        "spec": {
            **attributes,
            "user": user.username,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {key: list(values) for key, values in user.extra.items()},
        },
    }
    return (await client.create(ACCESS_REVIEWS, body, MANAGER)).status.allowed
