"""Who sends a request, by the API key it shows: pure, from Tenants and the keys that were read for them.

A namespace with a Tenant is closed: to whoever has none of its keys its models do not exist. Only hashes of keys are
kept, so the way to one is no longer for keys that begin alike.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from warmfleet_api import names
from warmfleet_api.tenant import MIN_KEY_CHARACTERS, TenantSpec
from warmfleet_api.vocabulary import Priority
from warmfleet_router.catalog import ModelKey
from warmfleet_router.refusals import RefusedError

_BEARER = b"bearer "


class TenantKey(NamedTuple):
    """Where a Tenant is."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends a request. Runners believe it, because the router's token comes with it."""

    tenant: str
    priority: Priority | None = None
    """None: the class of the model that is asked for."""
    key: TenantKey | None = None
    """Its Tenant; None: it shows no key that is known."""
    models: frozenset[str] = frozenset()
    """ModelDeployments of its namespace that it may ask for; empty: all."""


ANYONE = Caller(names.DIRECT_TENANT)
"""Callers who show no key: what raw headers say of class and tenant is never believed."""


@dataclass(frozen=True, slots=True)
class _Tenant:
    caller: Caller
    hashes: frozenset[bytes]


@dataclass(slots=True)
class Tenants:
    """All Tenants of the cluster with their keys."""

    _tenants: dict[TenantKey, _Tenant] = field(default_factory=dict)
    _callers: dict[bytes, Caller] = field(default_factory=dict)
    _closed: frozenset[str] = frozenset()

    def put(self, key: TenantKey, spec: TenantSpec, api_keys: Iterable[bytes]) -> int:
        """Add a Tenant, or take over its new version or its new keys; return how many keys it has.

        A key that two Tenants have means the first by namespace and name.
        """
        hashes = frozenset(_hash(each) for each in api_keys if len(each) >= MIN_KEY_CHARACTERS)
        caller = Caller(str(key), spec.priority, key, frozenset(spec.models))
        self._tenants[key] = _Tenant(caller, hashes)
        self._rebuild()
        return len(hashes)

    def hashes(self) -> list[tuple[TenantKey, list[bytes]]]:
        """Return what is kept of the keys of each Tenant."""
        return [(key, sorted(each.hashes)) for key, each in sorted(self._tenants.items())]

    def restore(self, key: TenantKey, hashes: Iterable[bytes]) -> None:
        """Give a Tenant the keys that `hashes` told of it before."""
        if (known := self._tenants.get(key)) is not None:
            self._tenants[key] = _Tenant(known.caller, frozenset(hashes))
            self._rebuild()

    def drop(self, key: TenantKey) -> None:
        """A Tenant is gone."""
        if self._tenants.pop(key, None) is not None:
            self._rebuild()

    @property
    def has_any(self) -> bool:
        """Whether there is any Tenant."""
        return bool(self._tenants)

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Return who shows the key in a request's headers; `ANYONE` where it is none that is known."""
        if not self._callers:
            return ANYONE
        for name, value in headers:
            if name == b"authorization":
                shown = value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else b""
                return self._callers.get(_hash(shown), ANYONE)
        return ANYONE

    def owner(self, api_key: bytes) -> TenantKey | None:
        """Return the Tenant whose requests those with this key are."""
        caller = self._callers.get(_hash(api_key))
        return None if caller is None else caller.key

    def may_ask(self, caller: Caller, model: ModelKey) -> bool:
        """Whether a caller may ask for a model; if not, there is no such model to it."""
        if model.namespace not in self._closed:
            return True
        key = caller.key
        return (
            key is not None and key.namespace == model.namespace and (not caller.models or model.name in caller.models)
        )

    def refuse_unknown(self, caller: Caller, closed_to_it: bool) -> None:
        """Refuse who has to show a key and does not.

        Args:
            caller: who asks.
            closed_to_it: whether what it asks for would be there for somebody with a key.

        Raises:
            RefusedError: 401.
        """
        if caller.key is None and closed_to_it:
            message = "show an API key that is known here: Authorization: Bearer KEY"
            raise RefusedError(401, "invalid_api_key", message)

    def is_closed(self, namespace: str) -> bool:
        """Whether the models of a namespace answer to keys only."""
        return namespace in self._closed

    def _rebuild(self) -> None:
        callers: dict[bytes, Caller] = {}
        for key in sorted(self._tenants):
            for each in self._tenants[key].hashes:
                callers.setdefault(each, self._tenants[key].caller)
        self._callers = callers
        self._closed = frozenset(key.namespace for key in self._tenants)


def keys_of(data: Mapping[str, bytes]) -> tuple[list[bytes], list[str]]:
    """Return the API keys of a Secret, and the names of its entries that are too short to be one."""
    trimmed = {name: value.strip() for name, value in data.items()}
    good = [value for value in trimmed.values() if len(value) >= MIN_KEY_CHARACTERS]
    return good, sorted(name for name, value in trimmed.items() if len(value) < MIN_KEY_CHARACTERS)


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
