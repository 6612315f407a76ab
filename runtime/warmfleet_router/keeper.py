"""Keeps what is known of Tenants: their keys are read from Secrets, and their status says whether that works.

Secrets are read by name, at each change of a Tenant and every 30 s (3 s without keys), never listed or watched: a
router has the right to a Secret only where an administrator gave it. While one can't be read for the moment, the keys
it had stay good. Every replica writes the same status, so whoever comes second finds nothing to write.
"""

import asyncio
import base64
import binascii
import logging
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Never

from pydantic import ValidationError

from warmfleet_api import names
from warmfleet_api.tenant import MIN_KEY_CHARACTERS, TenantSpec
from warmfleet_api.vocabulary import ConditionType, TenantReason
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import Forbidden, KubeError, NotFound
from warmfleet_kube.mirror import Mirror
from warmfleet_router.quotas import Quotas
from warmfleet_router.records import SECRETS, TENANTS, Tenant
from warmfleet_router.tenants import TenantKey, Tenants, keys_of

logger = logging.getLogger(__name__)

READ_SECONDS = 30.0
MISSING_SECONDS = 3.0
"""As long as a Tenant has no keys: somebody is about to make its Secret, or to let routers read it."""
COUNT_SECONDS = 10.0
SECRETS_ROLE = "warmfleet-router-secrets"
"""ClusterRole that an administrator binds in a namespace whose Secrets routers may read."""
ACCOUNT = "warmfleet-system:warmfleet-router"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the status of a Tenant is to say."""

    reason: TenantReason
    message: str
    keys: int = 0


@dataclass(slots=True)
class Keeper:
    """Follows Tenants; `tenants` and `quotas` hold what comes of it."""

    client: KubeClient
    mirror: Mirror[Tenant]
    tenants: Tenants
    quotas: Quotas
    read: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once all keys were asked for: before that nobody can tell a known key from an unknown one."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _keys: dict[TenantKey, list[bytes]] = field(default_factory=dict)

    def changed(self, former: Tenant | None, new: Tenant | None) -> None:
        """Listener of the mirror. A namespace is closed from this moment, keys or not."""
        if former is not None and new is None:
            key = _key(former)
            self._keys.pop(key, None)
            self.tenants.drop(key)
            self.quotas.drop(key)
        elif new is not None:
            spec = _spec(new)
            self.tenants.put(_key(new), spec or _CLOSED, self._keys.get(_key(new), []) if spec else [])
            self._changed.set()

    async def run(self) -> Never:
        """Read keys until cancelled, and at once when a Tenant changes. Call it once the mirror is filled."""
        while True:
            self._changed.clear()
            for record in self.mirror.values():
                await self._keep(record)
            self.read.set()
            try:
                async with asyncio.timeout(READ_SECONDS if all(self._keys.values()) else MISSING_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _keep(self, record: Tenant) -> None:
        key, spec = _key(record), _spec(record)
        if spec is None:
            verdict = Verdict(TenantReason.UNREADABLE, "this router does not know all of the spec; upgrade it")
        else:
            self.quotas.put(key, spec.limits, time.monotonic())
            verdict_or_none = await self._read(key, spec)
            if verdict_or_none is None:
                return
            verdict = verdict_or_none
        # The object may be gone or changed since: then another round follows, and another status.
        if self.mirror.get(*key) is record:
            await self._write(record, verdict)

    async def _read(self, key: TenantKey, spec: TenantSpec) -> Verdict | None:
        """Take over the keys of a Tenant; None: its Secret can't be read for the moment, and nothing changes."""
        where = f"Secret {key.namespace}/{spec.secret_ref.name}"
        try:
            secret = await self.client.get(SECRETS, key.namespace, spec.secret_ref.name)
            data = {name: base64.b64decode(value, validate=True) for name, value in (secret.data or {}).items()}
        except Forbidden:
            return self._without_keys(key, spec, TenantReason.ACCESS_DENIED, _access_message(where, key.namespace))
        except NotFound:
            create = f"kubectl -n {key.namespace} create secret generic {spec.secret_ref.name} --from-literal=first=KEY"
            message = f"{where} does not exist; make it: {create}"
            return self._without_keys(key, spec, TenantReason.SECRET_MISSING, message)
        except binascii.Error:
            return self._without_keys(key, spec, TenantReason.NO_KEYS, f"{where} holds no base64; make it anew")
        except KubeError as error:
            logger.warning("tenant %s: %s can't be read now: %s", key, where, error)
            return None
        good, short = keys_of(data)
        self._keys[key] = good
        count = self.tenants.put(key, spec, good)
        left_out = f"; below {MIN_KEY_CHARACTERS} characters, so no keys: {', '.join(short)}" if short else ""
        if not count:
            return Verdict(TenantReason.NO_KEYS, f"{where} has no API key{left_out}")
        others = sorted(name for name, value in data.items() if self.tenants.owner(value.strip()) not in {None, key})
        # Of whatever namespace: who reads this need not hear of it.
        if others:
            left_out += f"; another Tenant has these too, and their requests count as its: {', '.join(others)}"
        return Verdict(TenantReason.KEYS_READ, f"{count} API keys are accepted{left_out}", count)

    def _without_keys(self, key: TenantKey, spec: TenantSpec, reason: TenantReason, message: str) -> Verdict:
        """Take a Tenant's keys away: who may not read a Secret any more knows nothing of what is in it."""
        self._keys[key] = []
        self.tenants.put(key, spec, [])
        return Verdict(reason, message)

    async def _write(self, record: Tenant, verdict: Verdict) -> None:
        status = _status(record, verdict)
        if status == record.status:
            return
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.TENANT_KIND,
            "metadata": {
                "name": record.metadata.name,
                "namespace": record.metadata.namespace,
                "uid": record.metadata.uid,
            },
            "status": status,
        }
        try:
            self.mirror.expect(await self.client.apply(TENANTS, body, names.MANAGER_ROUTER, subresource="status"))
        except KubeError as error:
            logger.warning("status of tenant %s: %s", _key(record), error)


_CLOSED = TenantSpec.model_validate({"secretRef": {"name": "unreadable"}})
"""Stands for a spec that can't be read: its namespace is closed all the same."""


def _key(record: Tenant) -> TenantKey:
    return TenantKey(record.metadata.namespace, record.metadata.name)


def _spec(record: Tenant) -> TenantSpec | None:
    try:
        return TenantSpec.model_validate(record.spec)
    except ValidationError as error:
        logger.warning("tenant %s/%s: %s", record.metadata.namespace, record.metadata.name, error)
        return None


def _access_message(where: str, namespace: str) -> str:
    bind = f"create rolebinding {SECRETS_ROLE} --clusterrole={SECRETS_ROLE} --serviceaccount={ACCOUNT}"
    return f"the routers may not read {where}; let them: kubectl -n {namespace} {bind}"


def _status(record: Tenant, verdict: Verdict) -> dict[str, Any]:
    """Return the status, with the time of the last transition kept where there is none."""
    ready = "True" if verdict.reason is TenantReason.KEYS_READ else "False"
    conditions: list[dict[str, Any]] = record.status.get("conditions", [])
    known = next((each for each in conditions if each.get("type") == ConditionType.READY), {})
    moved = known.get("lastTransitionTime") if known.get("status") == ready else None
    condition = {
        "type": str(ConditionType.READY),
        "status": ready,
        "observedGeneration": record.metadata.generation,
        "lastTransitionTime": moved or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "reason": str(verdict.reason),
        "message": verdict.message,
    }
    return {"observedGeneration": record.metadata.generation, "conditions": [condition], "keys": verdict.keys}


class Peers:
    """How many routers share the limits: addresses behind a headless Service."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.count = 1

    async def run(self) -> Never:
        """Count until cancelled; what can't be resolved for the moment stays as it was."""
        loop = asyncio.get_running_loop()
        while True:
            if self._host:
                try:
                    async with asyncio.timeout(COUNT_SECONDS):
                        found = await loop.getaddrinfo(self._host, names.STATUS_PORT, type=socket.SOCK_STREAM)
                    self.count = max(1, len({address[0] for *_, address in found}))
                except (OSError, TimeoutError) as error:
                    logger.debug("replicas behind %s: %s", self._host, error)
            await asyncio.sleep(COUNT_SECONDS)
