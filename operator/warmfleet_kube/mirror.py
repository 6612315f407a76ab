"""What the operator knows of one kind of object: the cluster as of one resourceVersion, plus its own later writes.

Two sources write here. The reflector brings lists and watch events; `apply.py` and `reconcile.py` bring the
answers to their own writes (*expectations*), so that the next decision sees them although the watch is
still behind. What orders them is the resourceVersion: since Kubernetes 1.35 the versions of one kind are
guaranteed to compare as integers, and every server backed by etcd kept to it before.

Three rules follow:

1. An older version never replaces a newer one, whoever brings it.
2. A list removes what it lacks, save entries that are newer than the list.
3. The answer to a write is ignored if the watch has already gone past its version and the object is not
   here: it was deleted meanwhile, and nobody would ever take it out again.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic

import msgspec

from warmfleet_kube.objects import R

ObjectKey = tuple[str, str]
"""Namespace (empty for nodes) and name."""
Listener = Callable[[R | None, R | None], None]
"""Is told the former and the new object; None where there is none. Called in the event loop: returns at once."""


class Mirror(Generic[R]):
    """Objects of one kind by namespace and name; listeners hear of each change that a record can show.

    Args:
        index: by what else objects are looked up, each by any number of values.
        trim: drops what nobody reads, before an object is kept.
    """

    def __init__(
        self, *, index: Callable[[R], Iterable[Hashable]] | None = None, trim: Callable[[R], R] = lambda item: item
    ) -> None:
        self.position = 0
        """resourceVersion up to which the watch has told everything."""
        self._objects: dict[ObjectKey, R] = {}
        self._index = index
        self._trim = trim
        self._by_index: dict[Hashable, dict[ObjectKey, R]] = defaultdict(dict)
        self._listeners: list[Listener[R]] = []

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str, name: str) -> R | None:
        """Return one object."""
        return self._objects.get((namespace, name))

    def values(self) -> tuple[R, ...]:
        """Return all objects."""
        return tuple(self._objects.values())

    def indexed(self, value: Hashable) -> tuple[R, ...]:
        """Return the objects of which `value` is one of the index."""
        return tuple(self._by_index.get(value, {}).values())

    def subscribe(self, listener: Listener[R]) -> None:
        """Tell `listener` of every later change."""
        self._listeners.append(listener)

    def replace(self, items: Iterable[R], resource_version: int) -> None:
        """Take over a list as of `resource_version`."""
        listed = {_key(item): item for item in items}
        for key, known in list(self._objects.items()):
            if key not in listed and version(known) <= resource_version:
                self._drop(key)
        for item in listed.values():
            self._put(item)
        self.position = resource_version

    def saw(self, item: R) -> None:
        """Take over an object that a watch event shows as added or changed."""
        self._put(item)
        self.position = max(self.position, version(item))

    def saw_deletion(self, item: R) -> None:
        """Take over a watch event that shows an object's end."""
        known = self._objects.get(_key(item))
        if known is not None and version(known) <= version(item):
            self._drop(_key(item))
        self.position = max(self.position, version(item))

    def saw_bookmark(self, resource_version: int) -> None:
        """Take over that everything up to `resource_version` was told."""
        self.position = max(self.position, resource_version)

    def expect(self, item: R) -> None:
        """Take over the answer to an own write or read."""
        if _key(item) in self._objects or version(item) > self.position:
            self._put(item)

    def forget(self, item: R) -> None:
        """Take out an object that the server says is gone, unless another of its name is here."""
        known = self._objects.get(_key(item))
        if known is not None and known.metadata.uid == item.metadata.uid:
            self._drop(_key(item))

    def _put(self, item: R) -> None:
        key = _key(item)
        known = self._objects.get(key)
        if known is not None and version(known) >= version(item):
            return
        item = self._trim(item)
        if known is not None:
            self._unindex(key, known)
        self._objects[key] = item
        if self._index is not None:
            for value in self._index(item):
                self._by_index[value][key] = item
        if known is None or _without_version(known) != _without_version(item):
            self._tell(known, item)

    def _drop(self, key: ObjectKey) -> None:
        known = self._objects.pop(key)
        self._unindex(key, known)
        self._tell(known, None)

    def _unindex(self, key: ObjectKey, known: R) -> None:
        if self._index is None:
            return
        for value in set(self._index(known)):
            del self._by_index[value][key]
            if not self._by_index[value]:
                del self._by_index[value]

    def _tell(self, former: R | None, new: R | None) -> None:
        for listener in self._listeners:
            listener(former, new)


def version(item: R) -> int:
    """Return an object's resourceVersion."""
    return int(item.metadata.resource_version)


def _key(item: R) -> ObjectKey:
    return item.metadata.namespace, item.metadata.name


def _without_version(item: R) -> R:
    """Return the record as listeners see it: a heartbeat that changes nothing else is no change."""
    return msgspec.structs.replace(item, metadata=msgspec.structs.replace(item.metadata, resource_version=""))
