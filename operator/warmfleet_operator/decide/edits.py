"""What one round changes in runners: all changes of a runner become one patch, and so one revision.

A runner's assignment is what its models want of it, whoever changed first: an engine is put in, taken out, or brought
up to date in what reaches it without a restart. Nothing is written where nothing differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from warmfleet_api.assignment import EngineAssignment
from warmfleet_operator.decide.actions import PatchRunner
from warmfleet_operator.decide.assign import MAX_WIRE_BYTES, refreshed, restored, whole, wire_bytes
from warmfleet_operator.decide.fleet import Limits, Model, ModelKey, PoolKey, Runner
from warmfleet_operator.decide.remembered import Remembered
from warmfleet_operator.decide.runners import owner_of

_fresh: Remembered[bool] = Remembered()
"""Engines that were found to be as their models want them."""


@dataclass(slots=True)
class Edit:
    """The changes of one runner."""

    runner: Runner
    engines: dict[str, EngineAssignment]
    """What it shall host, by id."""
    labels: dict[str, str | None] = field(default_factory=dict)
    """Only what differs from the pod; None removes a label."""
    handed_over: set[str] = field(default_factory=set)
    """Models that are to be served no more, though their engines are still here."""
    reasons: list[str] = field(default_factory=list)

    @property
    def is_pooled(self) -> bool:
        """Whether it is a pool's runner, which hosts engines of many models."""
        return isinstance(owner_of(self.runner.pod), PoolKey)

    def put(self, engine: EngineAssignment, reason: str) -> None:
        """Host an engine."""
        self.engines[engine.id] = engine
        self.reasons.append(reason)

    def take_out(self, id_: str, reason: str) -> None:
        """Host an engine no more."""
        if self.engines.pop(id_, None) is not None:
            self.reasons.append(reason)

    def hand_over(self, model: str, reason: str) -> None:
        """Serve a model here no more; its engine is taken out later."""
        self.handed_over.add(model)
        self.reasons.append(reason)

    def label(self, label: str, value: str | None, reason: str) -> None:
        """Want a label's value."""
        if self.runner.pod.metadata.labels.get(label) != value:
            self.labels[label] = value
            self.reasons.append(reason)


@dataclass(slots=True)
class Edits:
    """The changes of all runners."""

    models: Mapping[ModelKey, Model]
    limits: Limits
    too_long: dict[ModelKey, str] = field(default_factory=dict)
    """Models whose change can't reach a running engine, in words; known once `patches` was called."""
    _edits: dict[str, Edit] = field(default_factory=dict)
    """By uid of the pod."""

    def of(self, runner: Runner) -> Edit:
        """Return the changes of a runner, to be added to."""
        metadata = runner.pod.metadata
        if metadata.uid not in self._edits:
            self._edits[metadata.uid] = self._begin(runner)
        return self._edits[metadata.uid]

    def runners(self) -> set[str]:
        """Return the uids of the pods of those runners."""
        return set(self._edits)

    def patches(self) -> list[PatchRunner]:
        """Return one patch for each runner that differs from what is wanted of it."""
        return [patch for edit in self._edits.values() if (patch := self._patch(edit)) is not None]

    def _begin(self, runner: Runner) -> Edit:
        engines = runner.assignment.engines if runner.assignment is not None else ()
        return Edit(runner, {each.id: each for each in engines})

    def _patch(self, edit: Edit) -> PatchRunner | None:
        runner, keys = edit.runner, self.limits.trusted_keys
        assignment = None
        if runner.assignment is None:
            engines = restored(runner, self.models)
            if engines is not None:
                seen = runner.status.revision if runner.status is not None else 0
                assignment = whole(seen + 1, engines, keys or ())
                edit.reasons.append("its assignment was missing or could not be read")
        else:
            engines = self._refreshed(runner, tuple(edit.engines.values()))
            wanted = runner.assignment.trusted_keys if keys is None else keys
            if (engines, wanted) != (runner.assignment.engines, runner.assignment.trusted_keys):
                assignment = whole(runner.assignment.revision + 1, engines, wanted)
        if assignment is None and not edit.labels:
            return None
        reasons = dict.fromkeys(edit.reasons or ["requests are to be admitted as the specs say now"])
        return PatchRunner(runner.pod, assignment, edit.labels, "; ".join(reasons))

    def _refreshed(self, runner: Runner, engines: tuple[EngineAssignment, ...]) -> tuple[EngineAssignment, ...]:
        """Bring engines up to date; one that would then be too long for the annotation stays as it was."""
        result = list(engines)
        for index, engine in enumerate(engines):
            key = ModelKey(runner.pod.metadata.namespace, engine.model)
            model = self.models.get(key)
            if model is None or model.metadata.uid != engine.model_uid:
                continue
            known = (runner.pod.metadata.uid, engine.id)
            if _fresh.get(known, engine, model) is not None:
                continue
            new = refreshed(engine, model)
            if new == engine:
                _fresh.keep(known, True, engine, model)
            if new == engine:
                continue
            others = sum(wire_bytes(each) for number, each in enumerate(result) if number != index)
            if others + wire_bytes(new) > MAX_WIRE_BYTES and wire_bytes(new) > wire_bytes(engine):
                self.too_long[key] = (
                    f"the assignment of {runner.pod.metadata.name} has no room for the changed warmup.prompts, the "
                    "former ones stay in force; shorten them, or let fewer engines share a runner"
                )
            else:
                result[index] = new
        return tuple(result)
