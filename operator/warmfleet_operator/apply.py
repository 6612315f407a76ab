"""Carries out what the fleet pass decided about runners, each change by compare-and-swap.

A creation can be won by one writer only (the name says slot and attempt), a deletion carries uid and
resourceVersion, a patch tests the uid and the assignment's former value. The answer to each write goes into the mirror
at once, so that the next round sees it; where the server says that the mirror was wrong, the object is read again.
Pods of dead nodes are never deleted by force: two engines on one GPU would be the price.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmfleet_api import assignment, names
from warmfleet_api.vocabulary import DesiredState
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import AlreadyExists, Conflict, Invalid, KubeError, NotFound
from warmfleet_kube.mirror import Mirror
from warmfleet_operator.build.pod import runner_pod
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide.actions import Action, CreateRunner, DeleteRunner, PatchRunner
from warmfleet_operator.decide.fleet import Limits
from warmfleet_operator.errors import Incomplete
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
        leads: whether this process may still write.
    """

    def __init__(
        self, client: KubeClient, runners: Mirror[Pod], limits: Limits, metrics: Metrics, leads: Callable[[], bool]
    ) -> None:
        self._client = client
        self._runners = runners
        self._limits = limits
        self._metrics = metrics
        self._leads = leads
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def carry_out(self, actions: Sequence[Action]) -> tuple[Failure, ...]:
        """Carry out all actions: each phase at once, phase after phase in the order they were decided.

        Of what starts an engine, a higher class is done before a lower one is begun: a process that ends in the middle
        has given nothing to a lower class that a higher one was to have.

        Returns:
            What failed. The rest is in the mirror.

        Raises:
            Incomplete: this process may lead no more.
        """
        failures: list[Failure | None] = []
        for _, phase in itertools.groupby(actions, key=_phase):
            for _, turn in itertools.groupby(sorted(phase, key=_rank), key=_rank):
                failures += await asyncio.gather(*(self._one(action) for action in turn))
        return tuple(failure for failure in failures if failure is not None)

    async def _one(self, action: Action) -> Failure | None:
        name, target = type(action).__name__, describe(action)
        async with self._slots:
            if not self._leads():
                raise Incomplete("the lease could not be renewed, so another process may lead; nothing was written")
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


def _phase(action: Action) -> tuple[type[Action], bool]:
    """Return what may happen at once: a protecting label must stand before another runner loses its own."""
    protects = isinstance(action, PatchRunner) and action.labels.get(names.LABEL_PROTECTED) == "true"
    return type(action), protects


def _rank(action: Action) -> int:
    """Return the class of the most urgent engine that an action starts or wakes; 0, the highest, where it does not."""
    if isinstance(action, DeleteRunner) or action.assignment is None:
        return 0
    former = _awake_in(action.pod) if isinstance(action, PatchRunner) else frozenset()
    begun = (each for each in action.assignment.engines if each.state is DesiredState.READY and each.id not in former)
    return min((each.order for each in begun), default=0)


def _awake_in(pod: Pod) -> frozenset[str]:
    """Return the ids of the engines that a runner is told to have awake, as far as that can be read."""
    try:
        told = assignment.decode(pod.metadata.annotations.get(names.ANNOTATION_ASSIGNMENT, ""))
    except assignment.AssignmentError:
        return frozenset()
    return frozenset(each.id for each in told.engines if each.state is DesiredState.READY)


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
