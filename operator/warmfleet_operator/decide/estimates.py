"""How long the stages of starts take, as measured: by model and type of node, declared or assumed values first."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from warmfleet_api.vocabulary import Stage, StartType


@dataclass(frozen=True, slots=True)
class Measured:
    """One stage of one model on one type of node."""

    seconds: float
    """Exponentially weighted mean."""
    count: int
    """How many starts it rests on."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What was measured so far. Immutable: `observe` of the prediction's module returns a new one."""

    stages: Mapping[tuple[str, str, StartType, Stage], Measured] = field(default_factory=dict)
    """(Hash of the model's spec, type of node, start type, stage) → its time."""
