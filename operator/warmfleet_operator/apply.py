"""Carries out what the fleet pass decided about runners, each change by compare-and-swap.

A creation can be won by one writer only (the name says slot and attempt), a deletion carries uid and
resourceVersion, a patch tests the uid and the assignment's former value. The answer to each write goes into the mirror
at once, so that the next round sees it; where the server says that the mirror was wrong, the object is read again.
Pods of dead nodes are never deleted by force: two engines on one GPU would be the price.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmfleet_api import assignment, names
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import AlreadyExists, Conflict, Invalid, KubeError, NotFound
from warmfleet_kube.mirror import Mirror
from warmfleet_operator.build.pod import runner_pod
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide.actions import Action, CreateRunner, DeleteRunner, PatchRunner
from warmfleet_operator.decide.fleet import Limits
from warmfleet_operator.decide.write_order import turns
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Pod
from warmfleet_operator.resources import PODS

logger = logging.getLogger(__name__)

CONCURRENCY = 16
_ASSIGNMENT_PATH = "/metadata/annotations/" + names.ANNOTATION_ASSIGNMENT.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that the API did not take."""

    action: Action
    error: KubeError


class RunnerWriter:
    """Writes runners.

    Args:
        confirmed: waits until this process may write; another leader ends it.
    """

    def __init__(
        self,
        client: KubeClient,
        runners: Mirror[Pod],
        limits: Limits,
        metrics: Metrics,
        *,
        confirmed: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._runners = runners
        self._limits = limits
        self._metrics = metrics
        self._confirmed = confirmed
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def carry_out(self, actions: Sequence[Action]) -> tuple[Failure, ...]:
        """Carry out all actions, in the order of `write_order.py`.

        Returns:
            What failed. The rest is in the mirror.
        """
        failures: list[Failure | None] = []
        for turn in turns(actions):
            failures += await asyncio.gather(*(self._one(action) for action in turn))
        return tuple(failure for failure in failures if failure is not None)

    async def _one(self, action: Action) -> Failure | None:
        name, target = type(action).__name__, describe(action)
        async with self._slots:
            # A long decision, or a busy API server, may have kept the lease from being renewed. What was decided is as
            # good a moment later: each write tests what it was decided upon.
            await self._confirmed()
            logger.info("%s: %s", target, action.reason)
            try:
                match action:
                    case CreateRunner():
                        await self._create(action)
                    case DeleteRunner():
                        await self._delete(action)
                    case PatchRunner():
                        await self._patch(action)
            except KubeError as error:
                self._metrics.actions.labels(name, "failed").inc()
                # That somebody else was first is part of the game; the next round has it in view.
                level = logging.INFO if isinstance(error, Conflict) else logging.WARNING
                logger.log(level, "%s failed: %s", target, error)
                return Failure(action, error)
        self._metrics.actions.labels(name, "done").inc()
        return None

    async def _create(self, action: CreateRunner) -> None:
        body = runner_pod(action, self._limits)
        try:
            self._runners.expect(await self._client.create(PODS, body, names.MANAGER_FLEET))
        except AlreadyExists:
            await self._read_again(action.owner.key.namespace, body["metadata"]["name"], None)
            raise

    async def _delete(self, action: DeleteRunner) -> None:
        metadata = action.pod.metadata
        try:
            left = await self._client.delete(
                PODS, metadata.namespace, metadata.name, uid=metadata.uid, resource_version=metadata.resource_version
            )
        except NotFound:
            self._runners.forget(action.pod)
        except Conflict:
            await self._read_again(metadata.namespace, metadata.name, action.pod)
            raise
        else:
            if left is None:
                self._runners.forget(action.pod)
            else:
                self._runners.expect(left)

    async def _patch(self, action: PatchRunner) -> None:
        metadata = action.pod.metadata
        try:
            patched = await self._client.patch(
                PODS, metadata.namespace, metadata.name, patch_operations(action), names.MANAGER_FLEET
            )
        except NotFound:
            self._runners.forget(action.pod)
        except (Invalid, Conflict):
            await self._read_again(metadata.namespace, metadata.name, action.pod)
            raise
        else:
            self._runners.expect(patched)

    async def _read_again(self, namespace: str, name: str, known: Pod | None) -> None:
        """Bring the mirror to what the server has."""
        try:
            pod = await self._client.get(PODS, namespace, name)
        except NotFound:
            if known is not None:
                self._runners.forget(known)
            return
        if pod.is_runner:
            self._runners.expect(pod)


def patch_operations(action: PatchRunner) -> list[Mapping[str, Any]]:
    """Return the JSON patch: tests first, so that nothing happens unless the pod is as it was decided upon."""
    metadata = action.pod.metadata
    operations: list[Mapping[str, Any]] = [{"op": "test", "path": "/metadata/uid", "value": metadata.uid}]
    former = metadata.annotations.get(names.ANNOTATION_ASSIGNMENT)
    if former is None:
        # The absence of one annotation can't be tested, the version of the whole pod can.
        operations.append({"op": "test", "path": "/metadata/resourceVersion", "value": metadata.resource_version})
    else:
        operations.append({"op": "test", "path": _ASSIGNMENT_PATH, "value": former})
    if action.assignment is not None:
        if not metadata.annotations:
            operations.append({"op": "add", "path": "/metadata/annotations", "value": {}})
        operations.append({"op": "add", "path": _ASSIGNMENT_PATH, "value": assignment.encode(action.assignment)})
    for label, value in sorted(action.labels.items()):
        path = "/metadata/labels/" + label.replace("~", "~0").replace("/", "~1")
        if value is not None:
            operations.append({"op": "add", "path": path, "value": value})
        elif label in metadata.labels:
            operations.append({"op": "remove", "path": path})
    return operations


def describe(action: Action) -> str:
    """Return an action in words, for logs."""
    match action:
        case CreateRunner():
            name = runner_name(action.owner.key.name, action.slot, action.attempt)
            return f"create runner {action.owner.key.namespace}/{name} on {action.node or 'a node to come'}"
        case DeleteRunner():
            return f"delete runner {action.pod.metadata.namespace}/{action.pod.metadata.name}"
        case PatchRunner():
            return f"change runner {action.pod.metadata.namespace}/{action.pod.metadata.name} {dict(action.labels)}"
