"""Which models there are, and which one a request means: pure, from ModelDeployments as the mirror has them.

A request names a model by what the spec serves it as, in one of two ways. `<namespace>/<name>` always means the model
of that namespace. A bare `<name>` means the oldest model that is served under it: no object that comes later, in
whichever namespace, takes requests away from another, as long as that one stays. One that is being deleted is meant
only where no other is.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from pydantic import ValidationError

from warmfleet_api.assignment import Wire
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.serving import ResponseCacheSpec
from warmfleet_api.vocabulary import BrokenStream, ConditionType, Priority, Reason, RoutingPolicy
from warmfleet_router.records import ModelDeployment


class ModelKey(NamedTuple):
    """Where a ModelDeployment is."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServedName(NamedTuple):
    """One name requests may ask for, as the engine knows it."""

    name: str
    parent: str | None = None
    """Of a LoRA adapter: a name of the model it adapts."""


class _Condition(Wire, frozen=True, kw_only=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class Pending(Wire, frozen=True, kw_only=True):
    """A start that waits or is under way, as status tells it."""

    position: int = 0
    of: int = 0
    ready_time: datetime | None = None
    blocker: str = ""

    @property
    def ready_at(self) -> float | None:
        """Unix seconds."""
        return None if self.ready_time is None else self.ready_time.timestamp()


class _Weights(Wire, frozen=True, kw_only=True):
    revision: str = ""


class _Rollout(Wire, frozen=True, kw_only=True):
    stable_hash: str = ""
    canary_weight: int | None = None


class _Status(Wire, frozen=True, kw_only=True):
    observed_generation: int = -1
    served_hash: str = ""
    model: _Weights = _Weights()
    conditions: tuple[_Condition, ...] = ()
    pending_start: Pending | None = None
    rollout: _Rollout = _Rollout()


class Split(NamedTuple):
    """How requests are shared between the spec that serves and one that is tried beside it."""

    stable_hash: str
    """Of engines of the former; all others are of the latter."""
    weight: int
    """How many percent of the requests the latter gets, 1 to 99."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the router knows of one ModelDeployment."""

    key: ModelKey
    created: str
    """RFC 3339, as Kubernetes gives it: sorts by time."""
    served: tuple[ServedName, ...]
    replicas: int = 1
    priority: Priority = Priority.NORMAL
    queue_requests: int = 256
    """That may wait at one engine."""
    hold_requests: int = 1024
    """That may be held here."""
    hold_seconds: int = 300
    policy: RoutingPolicy = RoutingPolicy.SCORE
    state: str = ""
    """Reason of condition Ready: Serving, Asleep, Waking, Queued, …"""
    stalled: str = ""
    """Why it needs a person; empty: it does not."""
    pending: Pending | None = None
    uid: str = ""
    """Of the object: another one of the same name is another model."""
    revision: str = ""
    """Of its weights, as status tells it."""
    settled_hash: str = ""
    """Of the engines that serve this spec, as status tells it; empty while the spec is on its way."""
    response_cache: ResponseCacheSpec | None = None
    broken_stream: BrokenStream = BrokenStream.ERROR
    split: Split | None = None
    """Present while a canary is on."""
    is_terminating: bool = False
    """Whether its object is being deleted; its engines serve until they are gone."""

    @property
    def precedence(self) -> tuple[bool, str, ModelKey]:
        """Sorts first what a name means of several models that have it."""
        return self.is_terminating, self.created, self.key

    @property
    def created_at(self) -> int:
        """Unix seconds."""
        return round(datetime.fromisoformat(self.created).timestamp()) if self.created else 0

    @property
    def is_stopped(self) -> bool:
        """Whether no request may wake it."""
        return self.replicas == 0


def parse(record: ModelDeployment) -> Model:
    """Return what the router needs of an object.

    Raises:
        ValueError: spec or status are not what this version knows.
    """
    try:
        spec = ModelDeploymentSpec.model_validate(record.spec)
        status = msgspec.convert(record.status, _Status)
    except (ValidationError, msgspec.ValidationError) as error:
        raise ValueError(f"{record.metadata.namespace}/{record.metadata.name}: {error}") from error
    names = spec.model.served_names or [record.metadata.name]
    conditions = {each.type: each for each in status.conditions}
    ready, stalled = conditions.get(ConditionType.READY), conditions.get(ConditionType.STALLED)
    # A spec that can't start keeps nobody from the one before it.
    answers = ready is not None and ready.status == "True" and ready.reason == Reason.SERVING
    changing = conditions.get(ConditionType.RECONCILING)
    is_settled = status.observed_generation == record.metadata.generation and (
        changing is None or changing.status != "True"
    )
    hold = spec.serving.hold
    return Model(
        key=ModelKey(record.metadata.namespace, record.metadata.name),
        created=record.metadata.creation_timestamp,
        served=(
            *map(ServedName, names),
            *(ServedName(adapter.name, names[0]) for adapter in spec.model.adapters),
        ),
        replicas=spec.replicas,
        priority=spec.priority,
        queue_requests=spec.serving.queue.max_requests,
        hold_requests=hold.max_requests,
        hold_seconds=hold.timeout_seconds,
        policy=spec.serving.routing.policy,
        state=Reason.STOPPED if spec.replicas == 0 else ready.reason if ready else Reason.QUEUED,
        stalled=stalled.message if stalled is not None and stalled.status == "True" and not answers else "",
        pending=status.pending_start,
        uid=record.metadata.uid,
        revision=status.model.revision,
        settled_hash=status.served_hash if is_settled else "",
        response_cache=spec.serving.response_cache,
        broken_stream=spec.serving.broken_stream,
        split=_split(spec.rollout.canary_weight, status.rollout),
        is_terminating=record.metadata.deletion_timestamp is not None,
    )


def _split(wanted: int | None, rollout: _Rollout) -> Split | None:
    """Return the split by what the spec says from its first moment, or by what the status does until all is undone."""
    weight = wanted or rollout.canary_weight
    return Split(rollout.stable_hash, weight) if rollout.stable_hash and weight else None


MayAsk = Callable[[ModelKey], bool]
"""Whether somebody may ask for a model."""


def everything(_: ModelKey) -> bool:
    """Let every model be asked for."""
    return True


@dataclass(slots=True)
class Catalog:
    """The models by what requests call them."""

    models: dict[ModelKey, Model] = field(default_factory=dict)
    _plain: dict[str, list[tuple[Model, ServedName]]] = field(default_factory=dict)
    """By precedence."""
    _qualified: dict[str, list[tuple[Model, ServedName]]] = field(default_factory=dict)

    def put(self, model: Model) -> None:
        """Add a model, or take over its new version."""
        known = self.models.get(model.key)
        self.models[model.key] = model
        if known is None or (known.served, known.precedence) != (model.served, model.precedence):
            self._rebuild()
            return
        for names in (self._plain, self._qualified):
            for served in model.served:
                for name in (served.name, f"{model.key.namespace}/{served.name}"):
                    for index, (found, name_there) in enumerate(names.get(name, ())):
                        if found.key == model.key:
                            names[name][index] = model, name_there

    def drop(self, key: ModelKey) -> None:
        """A model is gone."""
        if self.models.pop(key, None) is not None:
            self._rebuild()

    def find(self, name: str, may_ask: MayAsk = everything) -> tuple[Model, ServedName] | None:
        """Return the model that a request means, and the name its engines know it by.

        What its sender may not ask for is not there for it: a bare name means the oldest model it may ask for.
        """
        for found in self._qualified.get(name, ()):
            if may_ask(found[0].key):
                return found
        for found in self._plain.get(name, ()):
            if may_ask(found[0].key):
                return found
        return None

    def names(self, may_ask: MayAsk = everything) -> Iterable[tuple[str, Model, ServedName]]:
        """Yield the name under which each model is best asked for: the bare one where it means this model."""
        for model in sorted(self.models.values(), key=lambda each: each.key):
            if not may_ask(model.key):
                continue
            for served in model.served:
                for name in (served.name, f"{model.key.namespace}/{served.name}"):
                    meant = self.find(name, may_ask)
                    if meant is not None and meant[0].key == model.key:
                        yield name, model, served
                        break

    def _rebuild(self) -> None:
        plain: dict[str, list[tuple[Model, ServedName]]] = {}
        qualified: dict[str, list[tuple[Model, ServedName]]] = {}
        for model in sorted(self.models.values(), key=lambda each: each.precedence):
            for served in model.served:
                plain.setdefault(served.name, []).append((model, served))
                qualified.setdefault(f"{model.key.namespace}/{served.name}", []).append((model, served))
        self._plain, self._qualified = plain, qualified


def rename(body: bytes, name: str) -> bytes:
    """Return a request's body with another `model`; every other value stays byte for byte.

    Raises:
        msgspec.MsgspecError: it is no JSON object.
    """
    fields: Mapping[str, Any] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**fields, "model": name})
