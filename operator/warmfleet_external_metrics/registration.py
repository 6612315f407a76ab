"""Sees to it that the API server sends requests for external metrics here, and leaves alone who serves them already.

A cluster has one server of external metrics: KEDA, an adapter of Prometheus, or this. Who is first has it; when it is
gone, this takes it. So the APIService is not among the manifests, where applying them would take it from another: each
process looks again and again, and makes it where there is none. It goes with the installation, because the ClusterRole
that comes with the manifests owns it: one that is left behind would keep namespaces from being deleted.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Never

from prometheus_client import Gauge

from warmfleet_api import names
from warmfleet_external_metrics import certificate
from warmfleet_external_metrics.callers import CONFIG_NAME, CONFIG_NAMESPACE, FrontProxy, front_proxy
from warmfleet_external_metrics.certificate import Pair
from warmfleet_kube.api_services import API_SERVICES, ApiService
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import (
    Conflict,
    Forbidden,
    KubeError,
    NotFound,
    ServerError,
    TooManyRequests,
    Unreachable,
    UnreadableAnswer,
)
from warmfleet_kube.objects import Object, Resource

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
SOON_SECONDS: Final = 1.0
"""After a look in which something was changed or failed."""
_APPLY: Final = "kubectl apply --server-side --kustomize manifests/overlays/YOURS"
_PAGE: Final = "docs/guide/external-metrics.md"


class ConfigMap(Object, frozen=True, kw_only=True):
    """What a ConfigMap holds."""

    data: Mapping[str, str] = {}


CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap", ConfigMap)
CLUSTER_ROLES: Final = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", Object)


@dataclass(frozen=True, slots=True)
class Identity:
    """What this server shows, and whom it believes."""

    pair: Pair
    proxy: FrontProxy


class Foreign(Exception):  # noqa: N818 - a state of the cluster
    """External metrics are served by another; the message says by whom."""


class Registration:
    """Looks again and again. `present` hears of the identity, each time that it is another."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        process: str,
        registered: Gauge,
        present: Callable[[Identity], Awaitable[None]],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._process = process
        self._registered = registered
        self._present = present
        self._clock = clock
        self._shown: Identity | None = None
        self._next: Pair | None = None
        """Made, but not shown before it is known to be trusted."""
        self._looked = time.monotonic()
        self._failure = ""
        self.trouble = "the API server has not been asked yet"
        """Why the API server does not send requests here; empty: it does."""

    def age_seconds(self) -> float:
        """Return how long ago the last look ended."""
        return time.monotonic() - self._looked

    async def run(self) -> Never:
        """Look until cancelled."""
        while True:
            is_settled = await self.look()
            await asyncio.sleep(LOOK_SECONDS if is_settled else SOON_SECONDS)

    async def look(self) -> bool:
        """Look once; return whether nothing is to be done soon."""
        trouble, is_settled = "", False
        try:
            proxy = front_proxy((await self._client.get(CONFIG_MAPS, CONFIG_NAMESPACE, CONFIG_NAME)).data)
            is_settled = await self._register(proxy, self._clock())
        except Foreign as error:
            trouble, is_settled = str(error), True
        except Conflict:
            return False  # another replica was quicker
        except Forbidden as error:
            trouble = f"{error}; apply this component's rights: {_APPLY}"
        except (Unreachable, UnreadableAnswer, ServerError, TooManyRequests) as error:
            # What was so goes on to count: an API server that is away sends no requests elsewhere.
            if str(error) != self._failure:
                logger.warning("%s", error)
            self._failure = str(error)
            return False
        except (KubeError, ValueError) as error:
            trouble = str(error)
        finally:
            self._looked = time.monotonic()
        if trouble != self.trouble:
            logger.warning("%s", trouble) if trouble else logger.info("the API server sends requests here")
        self.trouble, self._failure = trouble, ""
        self._registered.set(not trouble)
        return is_settled

    async def _register(self, proxy: FrontProxy, now: datetime) -> bool:
        """Bring the APIService and what this server shows in order; return whether they are.

        Raises:
            Foreign: it is another's.
            KubeError: it is to be tried again.
        """
        found = await self._found()
        known = certificate.read_bundle(found.spec.ca_bundle) if found is not None else ()
        pair = self._pair(known, now)
        if self._shown is None or pair.certificate in known:
            await self._show(Identity(pair, proxy))
        elif self._shown.proxy != proxy:
            await self._show(Identity(self._shown.pair, proxy))
        if found is not None and not found.is_served_by(self._namespace, names.EXTERNAL_METRICS_SERVICE):
            raise Foreign(_foreign(found))
        assert self._shown is not None
        own = {self._shown.pair.certificate, pair.certificate}
        trusted = certificate.merged(known, own, now)
        owner = await self._owner()
        if found is not None and set(trusted) == set(known) and _is_owned(found, owner):
            return pair is self._shown.pair
        await self._apply(found, certificate.write_bundle(trusted), owner)
        return False

    def _pair(self, known: tuple[Any, ...], now: datetime) -> Pair:
        """Return the pair that is to be shown: a new one when its time comes, or when nobody trusts it any more."""
        if self._shown is None:
            return self._make(now)
        shown = self._shown.pair
        if self._next is None and (shown.is_due(now) or (not self.trouble and shown.certificate not in known)):
            self._next = self._make(now)
        return self._next or shown

    def _make(self, now: datetime) -> Pair:
        host = f"{names.EXTERNAL_METRICS_SERVICE}.{self._namespace}.svc"
        return certificate.make(self._process, (host, host.removesuffix(".svc")), now)

    async def _show(self, identity: Identity) -> None:
        if identity != self._shown:
            await self._present(identity)
            self._shown = identity
        if self._next is identity.pair:
            self._next = None

    async def _found(self) -> ApiService | None:
        try:
            return await self._client.get(API_SERVICES, "", names.EXTERNAL_METRICS_API)
        except NotFound:
            return None

    async def _owner(self) -> Mapping[str, str]:
        """Return the reference to the ClusterRole that came with the manifests."""
        role = await self._client.get(CLUSTER_ROLES, "", names.EXTERNAL_METRICS_SERVICE)
        return {
            "apiVersion": CLUSTER_ROLES.api_version,
            "kind": CLUSTER_ROLES.kind,
            "name": role.metadata.name,
            "uid": role.metadata.uid,
        }

    async def _apply(self, found: ApiService | None, bundle: str, owner: Mapping[str, str]) -> None:
        metadata: dict[str, Any] = {
            "name": names.EXTERNAL_METRICS_API,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY},
            "ownerReferences": [owner],
        }
        if found is not None:
            metadata |= {"uid": found.metadata.uid, "resourceVersion": found.metadata.resource_version}
        service = {"namespace": self._namespace, "name": names.EXTERNAL_METRICS_SERVICE, "port": 443}
        body = {
            "apiVersion": API_SERVICES.api_version,
            "kind": API_SERVICES.kind,
            "metadata": metadata,
            "spec": {
                "group": names.EXTERNAL_METRICS_GROUP,
                "version": names.EXTERNAL_METRICS_VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": service,
                "caBundle": bundle,
            },
        }
        # One that appears in this moment is another's: its fields are not taken from it.
        await self._client.apply(API_SERVICES, body, names.MANAGER_EXTERNAL_METRICS, force=found is not None)


def _is_owned(found: ApiService, owner: Mapping[str, str]) -> bool:
    return any(each.uid == owner["uid"] for each in found.metadata.owner_references)


def _foreign(found: ApiService) -> str:
    why = f" (which does not answer: {found.trouble})" if found.trouble else ""
    return (
        f"external metrics are served by {found.owner}{why}, and a cluster has one server of them: it is left alone. "
        f"Have autoscalers ask that one ({_PAGE}), or remove it, at last its APIService: "
        f"kubectl delete apiservice {names.EXTERNAL_METRICS_API}"
    )
