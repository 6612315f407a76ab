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


class Phases(NamedTuple):
    """A start as the timelines of a forecast see it."""

    before_seconds: float
    """Until an engine can begin: its runner is made, or told. Weights come into memory of the node meanwhile."""
    prepare_seconds: float
    """From there until the engine reads its weights. From here on its runner starts no other."""
    load_seconds: float
    """While it reads them over the node's link into its memory."""
    finish_seconds: float
    """From there until it is Ready and its runner has a turn for another."""
    tail_seconds: float
    """From there until requests reach it."""

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(self)


@dataclass(frozen=True, slots=True)
class Estimates:
    """What was measured so far. Immutable: `predict_learn.observe` returns a new one.

    How long starts queued and waited for weights is no part of it.
    """

    models: Mapping[Kind, Mapping[Stage, Measured]] = field(default_factory=dict)
    shared: Mapping[Kind, Mapping[Stage, Measured]] = field(default_factory=dict)
    """What starts of one type of engine have in common, whatever the model: the stages that it neither declares nor
    its bytes tell."""
    load_seconds_per_byte: Mapping[Kind, Measured] = field(default_factory=dict)
    """How fast engines of one type read weights that are in memory of their node."""
    phases: dict[Kind, Phases | None] = field(default_factory=dict, init=False, compare=False, repr=False)
    """What `predict_stages.phases` added up, None where nothing was measured: it is asked for the same thousands of
    times in a round."""
