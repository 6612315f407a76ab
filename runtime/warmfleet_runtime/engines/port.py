"""The port every engine is driven through: a process that serves the OpenAI API on a unix socket."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Stage


@dataclass(frozen=True, slots=True)
class Place:
    """What a runner offers an engine."""

    socket: Path
    cache: Path
    """Writable, for compile caches."""
    weights: Path
    """The view of the weight store; it may show a compile cache."""
    is_fresh: bool = False
    """The last starts failed: nothing that was compiled before is used."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    fork_arguments: tuple[str, ...] | None = None
    """What the zygote's child runs instead of `arguments`; None: this engine is always executed."""
    traces: tuple[Path, ...] = ()
    """Folders in which new names are signs of life: an engine that compiles may say nothing for minutes."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a line of an engine's log tells: at least that the start goes on."""

    stage: Stage | None = None
    """A stage it finished."""
    weight_bytes: int | None = None
    compile_cache_files: int | None = None
    """How many files of a compile cache it was given."""


class EngineAdapter(Protocol):
    """One kind of engine."""

    can_sleep: bool
    """It sleeps in place, asked by `/sleep` and `/wake_up`; else it sleeps by being stopped."""

    def command(self, engine: EngineAssignment, place: Place, environment: Mapping[str, str]) -> Command:
        """Return what starts the engine in `place`; `environment` is the runner's own."""

    def observe(self, line: str) -> Observation | None:
        """Read one line of the log; None if it says nothing about the start."""

    def explain(self, exit_code: int, log_tail: Sequence[str]) -> EngineError:
        """Say why the process ended, and what to do, from its exit code (negative: signal) and its last lines."""

    def max_sequences(self, engine: EngineAssignment) -> int:
        """Return how many sequences the engine runs at once; 0: not known."""

    def memory_bytes(self, engine: EngineAssignment, measured_bytes: int, *, is_asleep: bool = False) -> int:
        """Return the memory the engine holds, given what its process group was measured to hold."""


def how_it_ended(exit_code: int) -> str:
    """Say an exit code in words."""
    return f"was killed by signal {-exit_code}" if exit_code < 0 else f"exited with code {exit_code}"
