"""Who leads: a `coordination.k8s.io` Lease, held by one process at a time.

What is trusted is the server's compare-and-swap (`resourceVersion`) and this process's own monotonic clock; the
times written into the Lease are for people, so clocks may differ. A follower takes the Lease over when it has not seen
it change for as long as the Lease says, and at once from a former process of its own place. The holder renews it three
times within that. While it could not for two thirds of it, before anybody can take over, it *pauses*: it writes
nothing, and goes on as soon as a renewal succeeds, which proves that nobody led in between. So a hiccup of the API
costs no restart however short the lease is, and only what costs a restart asks for a long one. A Lease that somebody
deletes is made anew by the holder while its time runs. Two processes may still believe for a moment that they lead (a
machine that slept): every write of the operator is a compare-and-swap or names a child whose name only one of them can
take, so the stale one's is refused.
"""

import asyncio
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Never

import msgspec

from warmfleet_api import names
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import Conflict, KubeError, NotFound
from warmfleet_kube.objects import Object, Record, Resource
from warmfleet_operator.errors import LeaseLost, NotInstalled
from warmfleet_operator.metrics import Metrics

logger = logging.getLogger(__name__)

MANAGER = "warmfleet-lease"
RELEASE_SECONDS = 2.0
LONGEST_PAUSE = 3
"""A holder that could not renew for so many times the lease's seconds ends: it may be what is broken."""


class LeaseSpec(Record, frozen=True, kw_only=True):
    """What the Lease says."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int = 0
    acquire_time: str | None = None


class LeaseRecord(Object, frozen=True, kw_only=True):
    """The Lease object."""

    spec: LeaseSpec = LeaseSpec()


LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", LeaseRecord)


class Lease:
    """This process's part in the election.

    Args:
        client: its traffic ends in `lease` in the audit log.
        seconds: how long a silent holder keeps the lead.
        address: where this process's API is, `host:port`; empty while it is not open.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        seconds: int,
        metrics: Metrics,
        address: Callable[[], str] = lambda: "",
    ) -> None:
        self.identity = f"{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(4)}"
        self._client = client
        self._namespace = namespace
        self._seconds = seconds
        self._address = address
        self._seen: LeaseRecord | None = None
        self._held: LeaseRecord | None = None
        self._confirmed = 0.0
        """Monotonic time at which the request that last confirmed the lead was sent."""
        self._looked = time.monotonic()
        self._renewed = asyncio.Event()
        metrics.leader.set_function(lambda: float(self.is_held))

    @property
    def renew_deadline_seconds(self) -> float:
        """After this long without a confirmed renewal the process writes nothing."""
        return self._seconds * 2 / 3

    @property
    def is_held(self) -> bool:
        """Whether this process leads, by its own monotonic clock."""
        return self._held is not None and self.age_seconds() < self.renew_deadline_seconds

    @property
    def leader_address(self) -> str:
        """Where the API of the leading process is, as a follower saw last; empty: nobody leads, or it has not said."""
        seen = self._seen
        if seen is None or not seen.spec.holder_identity:
            return ""
        return seen.metadata.annotations.get(names.ANNOTATION_ADDRESS, "")

    def age_seconds(self) -> float:
        """Return how long ago the Lease was confirmed (leader) or seen (follower)."""
        return time.monotonic() - (self._confirmed if self._held is not None else self._looked)

    async def confirmed(self) -> None:
        """Wait while this process pauses; another leader ends `hold`, and with it the process."""
        while not self.is_held:
            self._renewed.clear()
            await self._renewed.wait()

    async def acquire(self) -> None:
        """Wait until this process leads.

        Raises:
            NotInstalled: the Lease's namespace does not exist.
        """
        seen: tuple[str, str] | None = None
        seen_at = 0.0
        while True:
            pause = self._seconds / 5 * random.uniform(0.8, 1.2)
            try:
                sent = time.monotonic()
                lease = await self._read()
                if lease is None:
                    await self._create(LeaseSpec(acquire_time=_now()))
                else:
                    if (lease.metadata.uid, lease.metadata.resource_version) != seen:
                        seen, seen_at = (lease.metadata.uid, lease.metadata.resource_version), sent
                    left = seen_at + (lease.spec.lease_duration_seconds or self._seconds) - sent
                    if left <= 0 or not lease.spec.holder_identity or self._was_here(lease):
                        await self._take_over(lease)
                    if left > 0:
                        # Not a moment late: what ran on the dead leader's node waits to be replaced.
                        pause = min(pause, left)
            except NotFound as error:
                raise NotInstalled(
                    f"the namespace {self._namespace} of the leader's Lease does not exist: "
                    f"kubectl create namespace {self._namespace}, or set WARMFLEET_NAMESPACE"
                ) from error
            except Conflict:
                logger.info("another process took the lease first")
            except KubeError as error:
                logger.warning("lease: %s", error)
            if self._held is not None:
                break
            await asyncio.sleep(pause)
        logger.info("%s leads", self.identity)

    async def hold(self) -> Never:
        """Renew until cancelled.

        Raises:
            LeaseLost: another process leads, or no renewal came through for too long.
        """
        while True:
            await asyncio.sleep(self._seconds / 3 * random.uniform(0.8, 1.0))
            while not await self._renew():
                if self.age_seconds() > self._seconds * LONGEST_PAUSE:
                    raise LeaseLost(
                        f"the lease {self._namespace}/{names.LEASE_NAME} could not be renewed for "
                        f"{self.age_seconds():.1f} s; stopping so that another process can lead"
                    )
                await asyncio.sleep(self._seconds / 15)

    async def release(self) -> None:
        """Let another process lead at once; does nothing where this one does not lead."""
        if self._held is None:
            return
        released = self._body(self._held.spec, holder="", version=self._held.metadata.resource_version)
        self._held = None
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._client.replace(LEASES, released, MANAGER)
        except (TimeoutError, KubeError) as error:
            why = str(error) or "no answer in time"
            logger.warning("the lease was not released and ends by itself in %d s: %s", self._seconds, why)

    async def _read(self) -> LeaseRecord | None:
        try:
            self._seen = await self._client.get(LEASES, self._namespace, names.LEASE_NAME)
        except NotFound:
            self._seen = None
        finally:
            self._looked = time.monotonic()
        return self._seen

    def _was_here(self, lease: LeaseRecord) -> bool:
        """Whether the holder is a former process of this place, whose address this process has now: it is dead.

        The machine's name is looked at because addresses like that of loopback are not one place's alone.
        """
        address = lease.metadata.annotations.get(names.ANNOTATION_ADDRESS, "")
        place = (lease.spec.holder_identity or "").rpartition("_")[0].rpartition("_")[0]
        return bool(address) and address == self._address() and place == socket.gethostname()

    async def _take_over(self, lease: LeaseRecord) -> None:
        transitions = lease.spec.lease_transitions + 1
        spec = msgspec.structs.replace(lease.spec, lease_transitions=transitions, acquire_time=_now())
        await self._replace(msgspec.structs.replace(lease, spec=spec))

    async def _renew(self) -> bool:
        """Try once to confirm the lead; return whether it is confirmed.

        Raises:
            LeaseLost: the Lease names another holder.
        """
        assert self._held is not None
        try:
            await self._replace(self._held)
            return True
        except (NotFound, Conflict):
            # Deleted, or written by somebody else, or the answer to a renewal of ours got lost: see which.
            pass
        except KubeError as error:
            logger.warning("lease: %s", error)
            return False
        try:
            lease = await self._read()
            if lease is None:
                logger.warning("the lease was deleted; making it anew")
                await self._create(self._held.spec)
                return True
        except KubeError as error:
            logger.warning("lease: %s", error)
            return False
        if lease.spec.holder_identity != self.identity:
            raise LeaseLost(f"the lease {self._namespace}/{names.LEASE_NAME} is held by {lease.spec.holder_identity}")
        self._held = lease
        return False

    async def _create(self, spec: LeaseSpec) -> None:
        sent = time.monotonic()
        self._confirm(await self._client.create(LEASES, self._body(spec), MANAGER), sent)

    async def _replace(self, lease: LeaseRecord) -> None:
        sent = time.monotonic()
        body = self._body(lease.spec, version=lease.metadata.resource_version)
        self._confirm(await self._client.replace(LEASES, body, MANAGER), sent)

    def _confirm(self, lease: LeaseRecord, sent: float) -> None:
        if self._held is not None and not self.is_held:
            logger.warning(
                "the lease is renewed after %.1f s; nobody else led, so this process goes on", self.age_seconds()
            )
        self._held = lease
        self._confirmed = sent
        self._renewed.set()

    def _body(self, spec: LeaseSpec, *, holder: str | None = None, version: str = "") -> Mapping[str, Any]:
        metadata: dict[str, Any] = {"namespace": self._namespace, "name": names.LEASE_NAME}
        metadata["annotations"] = {names.ANNOTATION_ADDRESS: self._address()}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata | ({"resourceVersion": version} if version else {}),
            "spec": {
                "holderIdentity": self.identity if holder is None else holder,
                "leaseDurationSeconds": self._seconds if holder is None else 1,
                "leaseTransitions": spec.lease_transitions,
                "acquireTime": spec.acquire_time,
                "renewTime": _now(),
            },
        }


def _now() -> str:
    """Return the time as Kubernetes' MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
