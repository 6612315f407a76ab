"""A request to the API server, read from its method and path."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# Posted, but only asked: reviews store nothing.
_REVIEWS = frozenset({"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews", "tokenreviews"})


@dataclass(frozen=True, slots=True)
class ApiCall:
    """What a request does. Parts that its path does not name are empty."""

    method: str
    path: str
    resource: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    watch: bool = False

    @property
    def is_write(self) -> bool:
        """Whether the request changes an object."""
        return self.method in WRITES and self.resource not in _REVIEWS

    @property
    def is_list(self) -> bool:
        """Whether the request lists objects once."""
        return self.method == "GET" and bool(self.resource) and not self.name and not self.watch

    def __str__(self) -> str:
        parts = (self.namespace, self.resource, self.name, self.subresource)
        return f"{self.method} {'/'.join(part for part in parts if part) or self.path}"


Match = Callable[[ApiCall], bool]


def parse(method: str, target: str) -> ApiCall:
    """Read the method and the path with its query, e.g. `/api/v1/namespaces/a/pods/p/status`."""
    url = urlsplit(target)
    parts = [part for part in url.path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) > 2:
        parts = parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        parts = parts[3:]
    else:
        return ApiCall(method, url.path)
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (*parts, "", "")[:3]
    watch = parse_qs(url.query).get("watch", ["0"])[0] in {"1", "true"}
    return ApiCall(method, url.path, resource, namespace, name, subresource, watch)


def resource_is(*resources: str) -> Match:
    """Match requests for any of these resources, e.g. `pods`."""
    return lambda call: call.resource in resources


def writes_in(namespace: str) -> Match:
    """Match writes of objects of a namespace: Lease renewals lie elsewhere and don't count."""
    return lambda call: call.is_write and call.namespace == namespace
