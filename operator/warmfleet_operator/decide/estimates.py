"""How long starts take, as measured: by model and type of node, and for models that never started by kind of engine.

Plain data; `predict_stages` reads it, `predict_learn` makes a new one of it and a start that ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from warmfleet_api.vocabulary import Stage, StartType

ANY_NODE = ""
"""Type of node under which what was measured anywhere is kept too."""


class Kind(NamedTuple):
    """What kind of start was measured."""

    subject: str
    """Hash of the model's spec; among `Estimates.shared` the type of its engine."""
    node_type: str
    """As `predict_stages.node_type` says, or `ANY_NODE`."""
    start_type: StartType


@dataclass(frozen=True, slots=True)
class Measured:
    """One stage of one kind of start."""

    seconds: float
    """Exponentially weighted mean."""
    count: int
    """How many starts it rests on."""


@dataclass(frozen=True, slots=True)
class Times:
    """The stages of one kind of start. How long it queued and waited for weights is no part of it."""

    stages: Mapping[Stage, Measured]
    seconds: float
    """All stages together."""
    before_seconds: float
    """Those of them that pass before an engine needs its weights: a node fetches them meanwhile."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What was measured so far. Immutable: `predict_learn.observe` returns a new one."""

    models: Mapping[Kind, Times] = field(default_factory=dict)
    shared: Mapping[Kind, Times] = field(default_factory=dict)
    """What starts of one type of engine have in common, whatever the model: all stages but the loading of weights."""
    load_seconds_per_byte: Mapping[Kind, Measured] = field(default_factory=dict)
    """How fast engines of one type read weights that are in memory of their node."""
