"""What starts that ended teach: `observe` makes new estimates of old ones and one start. Pure.

A stage's time is averaged by ratio (in logarithms), for what is wrong by half is as wrong as what is double. A new
measurement counts for three tenths, more while there are few. One that contradicts what is known counts as no more
than four times, or a quarter, of it; the next one after it may contradict further, as the node or the model may well
have changed. So one absurd measurement moves an estimate by half at most, and a lasting change is learnt in a few
starts. Times that nothing can have taken (negative, over a day, no number) count for nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import exp, isfinite, log
from typing import Final, TypeVar

from warmfleet_api.status import LastStart
from warmfleet_api.vocabulary import WAITS, EngineType, Stage
from warmfleet_operator.decide.estimates import ANY_NODE, Estimates, Kind, Measured
from warmfleet_operator.decide.fleet import Model
from warmfleet_operator.decide.predict_stages import known_bytes, node_type, own_seconds, stage_seconds
from warmfleet_operator.records import Node

MAX_KINDS: Final = 20_000
"""How many kinds of starts are remembered: those that were seen last."""
_LONGEST_SECONDS: Final = 86_400.0
_WEIGHT: Final = 0.3
_SURE_COUNT: Final = 3
"""From so many measurements on what contradicts them has to repeat itself."""
_SURE_FACTOR: Final = 4.0
_UNSURE_FACTOR: Final = 32.0
_FIRST_SECONDS: Final = 600.0
"""A first measurement is taken for what it says up to here, however little was assumed."""
_GRAIN_SECONDS: Final = 0.25
"""Added before ratios are taken: times below it are all the same."""
_NOT_OF_THE_START: Final = frozenset({*WAITS, Stage.WEIGHTS_IN_MEMORY})

V = TypeVar("V")


def observe(estimates: Estimates, model: Model, type_: str, start: LastStart) -> Estimates:
    """Return the estimates with a start that ended taken into account.

    Args:
        estimates: What was known before.
        model: As it was when it started: its hash tells which spec was measured.
        type_: Type of the node where it started.
        start: One that failed teaches nothing.
    """
    measured = dict(_believable(start))
    if start.result != "Succeeded" or not measured:
        return estimates
    models, shared, rates = dict(estimates.models), dict(estimates.shared), dict(estimates.load_seconds_per_byte)
    engine, start_type = model.spec.engine.type, start.start_type
    # An engine's restart inside its runner has no stage after its own: what it does not tell of stays as it was.
    is_whole = Stage.ROUTABLE in measured
    own = {stage for stage, _ in own_seconds(estimates, model, start_type, type_)}
    common = {stage: seconds for stage, seconds in measured.items() if stage not in own}
    for each in dict.fromkeys((type_, ANY_NODE)):
        expected = stage_seconds(estimates, model, start_type, each)
        kind = Kind(model.hash, each, start_type)
        _put(models, kind, _stages(models.get(kind), expected, measured, is_whole=is_whole))
        if is_whole:
            kind = Kind(engine, each, start_type)
            _put(shared, kind, _stages(shared.get(kind), expected, common, is_whole=True))
        if engine is not EngineType.SIMULATED and Stage.WEIGHTS_LOADED in measured and known_bytes(model) > 0:
            kind = Kind(engine, each, start_type)
            _put(rates, kind, _rate(estimates, model, kind, measured[Stage.WEIGHTS_LOADED]))
    return Estimates(models, shared, rates)


def rebuilt(models: Iterable[Model], nodes: Mapping[str, Node]) -> Estimates:
    """Return what the last starts of all models teach: all that an operator knows after its own restart."""
    ended = [(model.status.last_start, model) for model in models if model.status.last_start is not None]
    estimates = Estimates()
    for start, model in sorted(ended, key=lambda each: (each[0].time, str(each[1].key))):
        # What is wanted now may be another spec than the one that started.
        started = replace(model, hash=model.status.served_hash or model.hash)
        estimates = observe(estimates, started, node_type(nodes.get(start.node)), start)
    return estimates


def updated(known: Measured, seconds: float) -> Measured:
    """Return the mean with one measurement more; the count of `known` tells how much it is worth."""
    is_sure = known.count >= _SURE_COUNT
    mean, sample = known.seconds + _GRAIN_SECONDS, max(0.0, seconds) + _GRAIN_SECONDS
    if is_sure:
        bounded = min(max(sample, mean / _SURE_FACTOR), mean * _SURE_FACTOR)
    else:
        bounded = min(sample, max(mean * _UNSURE_FACTOR, 0.0 if known.count else _FIRST_SECONDS))
    weight = max(1 / (known.count + 1), _WEIGHT)
    new = exp((1 - weight) * log(mean) + weight * log(bounded)) - _GRAIN_SECONDS
    count = _SURE_COUNT - 1 if is_sure and bounded != sample else known.count + 1
    return Measured(max(0.0, new), count)


def _believable(start: LastStart) -> Iterator[tuple[Stage, float]]:
    for stage in start.stages:
        seconds = stage.milliseconds / 1000
        if stage.name not in _NOT_OF_THE_START and isfinite(seconds) and 0 <= seconds <= _LONGEST_SECONDS:
            yield stage.name, seconds


def _stages(
    known: Mapping[Stage, Measured] | None,
    expected: Mapping[Stage, float],
    measured: Mapping[Stage, float],
    *,
    is_whole: bool,
) -> Mapping[Stage, Measured]:
    """Return all stages after a start. What a whole one does not tell of took no time in it."""
    before = known or {}
    after = {
        stage: updated(before.get(stage) or Measured(expected.get(stage, seconds), 0), seconds)
        for stage, seconds in measured.items()
    }
    for stage, mean in before.items():
        if stage not in after:
            after[stage] = updated(mean, 0.0) if is_whole else mean
    if not is_whole:
        # Assumed, and so without weight, until a whole start tells.
        after |= {stage: Measured(seconds, 0) for stage, seconds in expected.items() if stage not in after}
    return after


def _rate(estimates: Estimates, model: Model, kind: Kind, seconds: float) -> Measured:
    """Return the seconds per byte of an engine's loading, learnt as the seconds for this model's bytes."""
    size = known_bytes(model)
    known = estimates.load_seconds_per_byte.get(kind)
    expected = dict(own_seconds(estimates, model, kind.start_type, kind.node_type))[Stage.WEIGHTS_LOADED]
    new = updated(Measured(expected, known.count if known is not None else 0), seconds)
    return Measured(new.seconds / size, new.count)


def _put(table: dict[Kind, V], kind: Kind, value: V) -> None:
    """Set a value as the last one seen; what was seen longest ago gives way."""
    table.pop(kind, None)
    table[kind] = value
    while len(table) > MAX_KINDS:
        table.pop(next(iter(table)))
