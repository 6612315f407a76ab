"""Keeps the objects that belong to a model or namespace as they are wanted: its Service, the PodDisruptionBudget.

An object is created, never taken over: whether one of that name exists is asked by creating it, which only one can win.
What drifted is put right by server-side apply with the uid as precondition. Nothing is written while all is as wanted.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from warmfleet_api import names, quantity
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import AlreadyExists, Conflict, NotFound
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.objects import R, Resource


async def ensure(
    client: KubeClient,
    resource: Resource[R],
    mirror: Mirror[R],
    wanted: Mapping[str, Any],
    is_ours: Callable[[R], bool],
) -> R:
    """Bring an object to what is wanted and return it; one of its name that is not ours is returned as it is."""
    namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
    known = mirror.get(namespace, name)
    if known is None:
        try:
            return _expect(mirror, await client.create(resource, wanted, names.MANAGER_CHILDREN))
        except AlreadyExists:
            known = await client.get(resource, namespace, name)
    if not is_ours(known) or covers(known, wanted):
        return known
    pinned = {**wanted, "metadata": {**wanted["metadata"], "uid": known.metadata.uid}}
    return _expect(mirror, await client.apply(resource, pinned, names.MANAGER_CHILDREN))


async def remove(client: KubeClient, resource: Resource[R], mirror: Mirror[R], known: R) -> None:
    """Delete this very object."""
    # Gone, or another of its name by now: in both cases the one that was meant is not there.
    with contextlib.suppress(NotFound, Conflict):
        await client.delete(resource, known.metadata.namespace, known.metadata.name, uid=known.metadata.uid)
    mirror.forget(known)


def covers(known: Any, wanted: Mapping[str, Any]) -> bool:
    """Return whether the object has all that is wanted; the server's own additions do not matter."""
    metadata = wanted["metadata"]
    owners = {each["uid"] for each in metadata.get("ownerReferences", ()) if each.get("controller")}
    return (
        _includes(known.metadata.labels, metadata.get("labels", {}))
        and owners <= {known.metadata.controller_uid}
        and _includes(known.spec, wanted["spec"])
    )


def _expect(mirror: Mirror[R], written: R) -> R:
    mirror.expect(written)
    return written


def _includes(known: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        # The server leaves out what is empty.
        return isinstance(known, Mapping) and all(
            _includes(known[name], value) if name in known else value in ([], {}, "", None)
            for name, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(known, list | tuple)
            and len(known) == len(wanted)
            and all(_includes(*pair) for pair in zip(known, wanted, strict=True))
        )
    return bool(known == wanted) or _same_quantity(known, wanted)


def _same_quantity(known: Any, wanted: Any) -> bool:
    """Whether both are the same amount: the server writes 1024Mi as 1Gi."""
    if not all(isinstance(each, str | int) for each in (known, wanted)):
        return False
    try:
        return quantity.parse(known) == quantity.parse(wanted)
    except ValueError:
        return False
