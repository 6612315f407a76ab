"""The Simulated engine: same process model and API, no weights. The process itself is `warmfleet_runtime.simulated`."""

import signal
import sys
from collections.abc import Mapping, Sequence

import msgspec

from warmfleet_api.assignment import EngineAssignment, SimulatedEngine
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Reason, Stage
from warmfleet_runtime.engines.port import Command, Observation, Place, how_it_ended

STAGE_LINE = "stage finished: "
"""Starts the log lines by which the process tells its stages."""


class SimulatedAdapter:
    """Starts `python -m warmfleet_runtime.simulated`."""

    can_sleep = True

    def command(self, engine: EngineAssignment, place: Place, environment: Mapping[str, str]) -> Command:
        """Hand the engine's spec over as an argument."""
        spec = msgspec.json.encode(engine.engine).decode()
        arguments = (sys.executable, "-m", "warmfleet_runtime.simulated", "--socket", str(place.socket), spec)
        return Command(arguments, environment)

    def observe(self, line: str) -> Observation | None:
        """Read the stages the process tells."""
        if not line.startswith(STAGE_LINE):
            return None
        return Observation(stage=Stage(line.removeprefix(STAGE_LINE)))

    def explain(self, exit_code: int, log_tail: Sequence[str]) -> EngineError:
        """Every exit of a Simulated engine is a crash: its fault, or memory too small for the runner's processes."""
        last = log_tail[-1] if log_tail else "no output"
        advice = "Raise resources.memory" if exit_code == -signal.SIGKILL else "Remove engine.simulated.fault"
        message = f"the simulated engine {how_it_ended(exit_code)}: {last}. {advice}"
        return EngineError(reason=Reason.ENGINE_CRASHING, message=message, exit_code=exit_code)

    def max_sequences(self, engine: EngineAssignment) -> int:
        """It runs any number at once."""
        return 0

    def memory_bytes(self, engine: EngineAssignment, measured_bytes: int, *, is_asleep: bool = False) -> int:
        """Return the memory the spec says it holds, or what it does hold where the spec asks for that."""
        behaviour = engine.engine.simulated or SimulatedEngine()
        if behaviour.holds_memory:
            return measured_bytes
        return behaviour.asleep_memory if is_asleep else behaviour.memory
