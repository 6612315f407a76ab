"""Keys of the one work queue: what `reconcile` may be asked to bring in order."""

from enum import StrEnum
from typing import NamedTuple

from warmfleet_operator.decide.fleet import ModelKey, OwnerKey, PoolKey


class Kind(StrEnum):
    """Kinds of keys."""

    FLEET = "fleet"
    """All runners: who gets which place. There is one such key, so the ledger has one writer."""
    MODEL = "model"
    """One ModelDeployment: its Service and status."""
    POOL = "pool"
    """One WarmPool: its status."""
    CACHES = "caches"
    """All WeightCaches and NodeCaches: what every node keeps. One key, since a preload moves between nodes."""
    NAMESPACE = "namespace"
    """One namespace's PodDisruptionBudget."""


class Key(NamedTuple):
    """One key; parts that its kind does not have are empty."""

    kind: Kind
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


FLEET = Key(Kind.FLEET)
CACHES = Key(Kind.CACHES)


def model(key: ModelKey) -> Key:
    """Return a model's key."""
    return Key(Kind.MODEL, key.namespace, key.name)


def pool(key: PoolKey) -> Key:
    """Return a pool's key."""
    return Key(Kind.POOL, key.namespace, key.name)


def owner(key: OwnerKey) -> Key:
    """Return the key of whoever a runner belongs to."""
    return model(key) if isinstance(key, ModelKey) else pool(key)


def namespace(name: str) -> Key:
    """Return a namespace's key."""
    return Key(Kind.NAMESPACE, name)
