"""What all records of Kubernetes objects have, and how a kind of objects is addressed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the records."""


class OwnerReference(Record, frozen=True, kw_only=True):
    """An owner of an object."""

    kind: str
    name: str
    uid: str
    controller: bool = False


class Metadata(Record, frozen=True, kw_only=True):
    """Object metadata. Times are RFC 3339 strings as Kubernetes gives them."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = "0"
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def controller_uid(self) -> str | None:
        """UID of the controlling owner."""
        return next((owner.uid for owner in self.owner_references if owner.controller), None)


class Object(Record, frozen=True, kw_only=True):
    """Base of the records that are objects of their own."""

    metadata: Metadata


R = TypeVar("R", bound=Object)


@dataclass(frozen=True, slots=True)
class Resource(Generic[R]):
    """One kind of object. `record` is what its bodies are decoded to."""

    group: str
    version: str
    plural: str
    kind: str
    record: type[R]

    @property
    def api_version(self) -> str:
        """`v1`, or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of the collection or, with a name, of one object."""
        parts = ["/apis" if self.group else "/api", self.api_version]
        if namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)
