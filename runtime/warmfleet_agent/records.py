"""The objects of Kubernetes the agent reads: its NodeCache, and Secrets by name."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from warmfleet_api import names
from warmfleet_api.node_cache import NodeCacheSpec, NodeCacheStatus
from warmfleet_kube.objects import Object, Resource


class NodeCache(Object, frozen=True, kw_only=True):
    """A NodeCache with spec and status as plain JSON."""

    spec: Mapping[str, Any] = {}
    status: Mapping[str, Any] = {}


class Secret(Object, frozen=True, kw_only=True):
    """A Secret; values are base64."""

    data: Mapping[str, str] | None = None


NODE_CACHES = Resource(names.GROUP, names.VERSION, names.NODE_CACHE_PLURAL, names.NODE_CACHE_KIND, NodeCache)
SECRETS = Resource("", "v1", "secrets", "Secret", Secret)


class UnreadableError(Exception):
    """A spec that another version of the operator wrote."""


def spec_of(record: NodeCache) -> NodeCacheSpec:
    """Parse what the node is to keep.

    Raises:
        UnreadableError: this agent does not know all of it.
    """
    try:
        return NodeCacheSpec.model_validate(record.spec)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnreadableError(
            f"spec.{where}: {first['msg']}; run agent and operator of one version: "
            f"kubectl -n {names.AGENT_NAMESPACE} rollout status daemonset"
        ) from error


def status_of(record: NodeCache) -> NodeCacheStatus:
    """Parse what was said before; what can't be read counts as never said."""
    try:
        return NodeCacheStatus.model_validate(record.status)
    except ValidationError:
        return NodeCacheStatus()
