"""In which order the writes of one round are made: what may be written at once, turn after turn. Pure.

1. Kind after kind, in the order they were decided.
2. Of what starts an engine, or else says that one is Ready, a higher class before a lower one: a process that ends in
   the middle has given nothing to a lower class that a higher one was to have. What does neither comes first.
3. A runner loses its protecting label after others have got theirs, so that no drain finds none protected. Where that
   would keep another change of the runner back, as that clients hear that it is lost, the label goes by a write of its
   own.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import msgspec

from warmfleet_api import assignment as wire
from warmfleet_api import names
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.vocabulary import DesiredState, EngineState
from warmfleet_operator.decide.actions import Action, CreateRunner, DeleteRunner, PatchRunner
from warmfleet_operator.records import Pod

Turn = tuple[int, bool]
"""Class of what is started or Ready, and whether it waits for what is protected by writes of that class."""


def turns(actions: Iterable[Action]) -> Iterator[list[Action]]:
    """Yield what may be written at once; each list after the one before it is done."""
    for _, kind in itertools.groupby(actions, key=type):
        timed = sorted(_timed(list(kind)), key=lambda each: each[0])
        for _, turn in itertools.groupby(timed, key=lambda each: each[0]):
            yield [action for _, action in turn]


def _timed(actions: Sequence[Action]) -> Iterator[tuple[Turn, Action]]:
    protected = max((rank_of(each) for each in actions if _protecting(each) == "true"), default=-1)
    for action in actions:
        rank = rank_of(action)
        if not isinstance(action, PatchRunner) or _protecting(action) is not None or rank > protected:
            yield (rank, False), action
        elif rank == protected:
            yield (rank, True), action
        else:
            first, second = _apart(action)
            if first.labels or first.assignment is not None:
                yield (rank, False), first
            yield (protected, True), second


def _protecting(action: Action) -> str | None:
    """Return what becomes of the protecting label: `true`, None where it goes, empty where it stays as it is."""
    return action.labels.get(names.LABEL_PROTECTED, "") if isinstance(action, PatchRunner) else ""


def _apart(action: PatchRunner) -> tuple[PatchRunner, PatchRunner]:
    """Return the change of a runner without the removal of its protecting label, and that removal."""
    pod = action.pod
    if action.assignment is not None:
        told = {**pod.metadata.annotations, names.ANNOTATION_ASSIGNMENT: wire.encode(action.assignment)}
        pod = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, annotations=told))
    rest = {label: value for label, value in action.labels.items() if label != names.LABEL_PROTECTED}
    return replace(action, labels=rest), PatchRunner(pod, None, {names.LABEL_PROTECTED: None}, action.reason)


def rank_of(action: Action) -> int:
    """Return the class of the most urgent engine that an action starts or wakes, or else only says is Ready.

    0, the highest, where it does neither, or tells clients of an engine that is not.
    """
    if isinstance(action, DeleteRunner):
        return 0
    former = _told(action.pod) if isinstance(action, PatchRunner) else ()
    awake = {each.id for each in former if each.state is DesiredState.READY}
    engines = action.assignment.engines if action.assignment is not None else former
    begun = [each.order for each in engines if each.state is DesiredState.READY and each.id not in awake]
    if begun or isinstance(action, CreateRunner):
        return min(begun, default=0)
    serves = {label: value for label, value in action.labels.items() if label.startswith(names.SERVE_LABEL_PREFIX)}
    if any(value != EngineState.READY for value in serves.values()):
        return 0
    return min((each.order for each in engines if names.serve_label(each.model) in serves), default=0)


def _told(pod: Pod) -> Sequence[EngineAssignment]:
    """Return the engines that a runner is told to have, as far as that can be read."""
    try:
        return wire.decode(pod.metadata.annotations.get(names.ANNOTATION_ASSIGNMENT, "")).engines
    except wire.AssignmentError:
        return ()
