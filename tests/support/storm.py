"""A storm of starts for few GPUs, and what the API server's audit log says of the order in which they got them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from random import Random
from types import MappingProxyType

import msgspec

from localcluster.audit import Request
from support.kubeapi import Object
from support.models import simulated
from support.namespace import Namespace, settled
from support.pools import warm_pool
from warmfleet_api import names
from warmfleet_api.assignment import Assignment, decode
from warmfleet_api.vocabulary import DesiredState, Priority

POOL = "storm"
_ASSIGNMENT_PATH = "/metadata/annotations/" + names.ANNOTATION_ASSIGNMENT.replace("/", "~1")
_LABEL_PATH = "/metadata/labels/" + names.SERVE_LABEL_PREFIX.replace("/", "~1")
_SUCCEEDED = {HTTPStatus.OK, HTTPStatus.CREATED}
_STEP_SECONDS = 180.0


def awake_in(assignment: Assignment) -> dict[str, tuple[int, ...]]:
    """Return, of the engines that shall be awake, model → GPUs."""
    return {each.model: each.gpus for each in assignment.engines if each.state is DesiredState.READY}


@dataclass(frozen=True, slots=True)
class Booking:
    """A runner's assignment from some moment on."""

    time: datetime
    """When the API server received the write."""
    runner: str
    assignment: Assignment

    @property
    def awake(self) -> dict[str, tuple[int, ...]]:
        """Model → GPUs of its engine that shall be awake."""
        return awake_in(self.assignment)


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a runner's label says of a model from some moment on."""

    time: datetime
    runner: str
    model: str
    state: str


class _Metadata(msgspec.Struct):
    name: str = ""
    annotations: Mapping[str, str] = {}


class _Pod(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class _Operation(msgspec.Struct):
    op: str
    path: str
    value: msgspec.Raw = msgspec.Raw(b"null")


def bookings(requests: Iterable[Request], namespace: str) -> list[Booking]:
    """Return what runners of a namespace were told to host, in the order of the writes that took effect.

    Whether one did whose client was killed before the answer, the log does not say (504). Each of the operator's writes
    tests for the assignment that it changes: it did if a later one that succeeded was made on what it wrote, and none
    that succeeded had to write it again.
    """
    writes = [
        each
        for each in requests
        if each.resource == "pods" and not each.subresource and each.namespace == namespace and each.body
    ]
    answered = [each for each in writes if each.code in _SUCCEEDED]
    silently = {(_tested(each), each.name) for each in answered} - {_assignment(each) for each in answered}
    found: list[Booking] = []
    for request in writes:
        value, name = written = _assignment(request)
        took_effect = request.code in _SUCCEEDED or (request.code == HTTPStatus.GATEWAY_TIMEOUT and written in silently)
        if value and took_effect:
            found.append(Booking(request.time, name, decode(value)))
    return sorted(found, key=lambda each: (each.time, each.assignment.revision))


def labels(requests: Iterable[Request], namespace: str) -> list[Labelled]:
    """Return what labels of a namespace's runners were changed to say of models, in the order of the writes."""
    found = [
        Labelled(request.time, request.name, operation.path.removeprefix(_LABEL_PATH), state)
        for request in requests
        if request.resource == "pods" and request.namespace == namespace and request.code == 200
        for operation in _operations(request)
        if operation.op == "add" and operation.path.startswith(_LABEL_PATH)
        if (state := msgspec.json.decode(operation.value, type=str))
    ]
    return sorted(found, key=lambda each: each.time)


def _assignment(request: Request) -> tuple[str, str]:
    """Return the annotation a request writes, empty if it writes none, and the pod's name."""
    if request.verb == "create":
        metadata = msgspec.json.decode(request.body, type=_Pod).metadata
        return metadata.annotations.get(names.ANNOTATION_ASSIGNMENT, ""), request.name or metadata.name
    written = (each for each in _operations(request) if each.op != "test" and each.path == _ASSIGNMENT_PATH)
    return _text_of(next(written, None)), request.name


def _tested(request: Request) -> str:
    """Return the annotation a patch was made on, empty if it says none."""
    tests = (each for each in _operations(request) if each.op == "test" and each.path == _ASSIGNMENT_PATH)
    return _text_of(next(tests, None))


def _operations(request: Request) -> list[_Operation]:
    """Return the operations of a JSON patch; none of what is another body."""
    is_patch = request.body.lstrip()[:1] == b"["
    return msgspec.json.decode(request.body, type=list[_Operation]) if is_patch else []


def _text_of(operation: _Operation | None) -> str:
    return msgspec.json.decode(operation.value, type=str) if operation is not None else ""


@dataclass(frozen=True, slots=True)
class Wish:
    """A model of the storm: since when it was wanted, and how urgently."""

    priority: Priority
    since: datetime


def started(history: Sequence[Booking]) -> dict[str, datetime]:
    """Return when each model first was given a place."""
    times: dict[str, datetime] = {}
    for booking in history:
        for model in booking.awake:
            times.setdefault(model, booking.time)
    return times


def given(history: Sequence[Booking], before: Mapping[str, Set[str]]) -> Counter[str]:
    """Return how often each model was told to serve in a runner where it did not.

    Args:
        before: runner → the models that it served when the history begins.
    """
    serving = dict(before)
    found: Counter[str] = Counter()
    for booking in history:
        now = booking.awake.keys()
        found.update(now - serving.get(booking.runner, frozenset()))
        serving[booking.runner] = frozenset(now)
    return found


def inversions(
    history: Sequence[Booking], wishes: Mapping[str, Wish], others: Mapping[str, Priority] = MappingProxyType({})
) -> list[str]:
    """Say which starts were given a place while one of a higher class waited for the same places.

    What one write starts in a runner is as urgent as the most urgent of it: the rest keeps nobody waiting.

    Args:
        others: classes of models that may come with those in the same write, and are not looked at themselves.
    """
    times = started(history)
    ranks = {name: each.rank for name, each in others.items()} | {
        name: each.priority.rank for name, each in wishes.items()
    }
    urgency: dict[str, int] = {}
    for booking in history:
        begun = [model for model in booking.awake if model in ranks and times[model] == booking.time]
        urgency |= dict.fromkeys(begun, min((ranks[model] for model in begun), default=0))
    found = []
    for model, time in times.items():
        if model not in wishes:
            continue
        for other, wish in wishes.items():
            waits = wish.since < time and (other not in times or times[other] > time)
            if waits and wish.priority.rank < urgency[model]:
                lead = f" by {(times[other] - time).total_seconds():.3f} s" if other in times else ", which got none"
                found.append(f"{model} ({wishes[model].priority}) before {other} ({wish.priority}){lead}")
    return found


def double_bookings(history: Sequence[Booking]) -> list[str]:
    """Say which GPUs were given to two engines at once, and which models to two runners at once."""
    found = []
    awake: dict[str, dict[str, tuple[int, ...]]] = {}
    for booking in history:
        owners: dict[int, str] = {}
        for model, gpus in booking.awake.items():
            for gpu in gpus:
                if gpu in owners:
                    found.append(f"GPU {gpu} of {booking.runner} to {owners[gpu]} and {model}")
                owners[gpu] = model
        awake[booking.runner] = booking.awake
        for model in booking.awake:
            runners = [runner for runner, engines in awake.items() if model in engines]
            if len(runners) > 1:
                found.append(f"{model} in {' and '.join(runners)}")
    return found


def empty_seconds(history: Sequence[Booking]) -> list[float]:
    """Return for how long each runner was without an engine between one and the next."""
    freed: dict[str, datetime] = {}
    gaps: list[float] = []
    taken: set[str] = set()
    for booking in history:
        if booking.awake:
            taken.add(booking.runner)
            if booking.runner in freed:
                gaps.append((booking.time - freed.pop(booking.runner)).total_seconds())
        elif booking.runner in taken:
            # A new runner has been empty for as long as nobody wanted it.
            freed.setdefault(booking.runner, booking.time)
    return gaps


@dataclass(frozen=True, slots=True)
class Storm:
    """The models, and the places they storm."""

    namespace: Namespace
    models: Mapping[str, Priority]
    gpus: int

    def begin(self) -> None:
        """Fill the places, and have all models wait for them."""
        self.namespace.apply(warm_pool(POOL, replicas=self.gpus, gpus=1, memory="2Gi", cpu="100m"))
        self.namespace.wait_pool(POOL, within=_STEP_SECONDS)
        holders = self._holders
        self.namespace.apply(*(_one_gpu(name, Priority.CRITICAL) for name in holders))
        self.namespace.wait_ready(*holders, within=_STEP_SECONDS)
        self.namespace.apply(*(_one_gpu(name, priority) for name, priority in self.models.items()))

        def all_wait() -> bool:
            found = self.namespace.models()
            return all("pendingStart" in found[name].get("status", {}) for name in self.models)

        self.namespace.wait("every start waits", all_wait, _STEP_SECONDS)

    def release(self) -> None:
        """Give the places free."""
        for name in self._holders:
            self.namespace.remove(name)

    def blow(self, disturb: Mapping[int, Callable[[], None]] | None = None) -> None:
        """Free the places, and let every model serve once and go, so that its place is free for the next.

        `disturb` has what is done when so many models have served.
        """
        disturbances = dict(disturb or {})
        for name in self._holders:
            self.namespace.remove(name)
        served: set[str] = set()
        while len(served) < len(self.models):
            for name in self.namespace.wait("another model serves", self._serving, _STEP_SECONDS):
                self.namespace.remove(name)
                served.add(name)
            for count in [count for count in disturbances if count <= len(served)]:
                disturbances.pop(count)()

    def _serving(self) -> list[str]:
        return [name for name, model in self.namespace.models().items() if name in self.models and settled(model)]

    @property
    def _holders(self) -> list[str]:
        return [f"holder-{number}" for number in range(self.gpus)]


def mixed(count: int, seed: int = 1) -> dict[str, Priority]:
    """Return models of all classes, in an order that has nothing to do with them."""
    classes = list(Priority)
    names_and_classes = [(f"storm-{number}", classes[number % len(classes)]) for number in range(count)]
    Random(seed).shuffle(names_and_classes)
    return dict(names_and_classes)


def _one_gpu(name: str, priority: Priority) -> Object:
    return simulated(
        name, gpus=1, load_milliseconds=200, pools=[POOL], priority=priority.value, idle={"policy": "Keep"}
    )
