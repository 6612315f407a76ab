"""What is starting, kept beyond the life of PID 1: an engine whose start takes the container down is told by it.

The run directory is an emptyDir: it outlives the container, and goes with the pod.
"""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from warmfleet_runtime.machine.state import Phase, State, start_key

_log = logging.getLogger("supervisor.journal")


class _Journal(msgspec.Struct):
    starting: list[str] = []
    """Keys of the engines that are starting."""
    deaths: dict[str, int] = {}
    """How often the container died while an engine was starting, since it last was Ready."""


class StartJournal:
    """The starts under way, and those that ended with the container."""

    def __init__(self, run_directory: Path) -> None:
        self._path = run_directory / ".starting"
        self._journal = self._read()
        for key in self._journal.starting:
            self._journal.deaths[key] = self._journal.deaths.get(key, 0) + 1
        self._journal.starting = []

    @property
    def deaths(self) -> Mapping[str, int]:
        """How often the container died while an engine was starting, by `start_key`."""
        return dict(self._journal.deaths)

    def note(self, state: State) -> None:
        """Write down what is starting, if that is news."""
        starting = []
        deaths = dict(self._journal.deaths)
        for engine in state.engines.values():
            key = start_key(engine.content)
            if engine.is_start_open:
                starting.append(key)
            elif engine.phase is Phase.READY:
                deaths.pop(key, None)
        if starting == self._journal.starting and deaths == self._journal.deaths:
            return
        self._journal = _Journal(starting, deaths)
        self._write()

    def _read(self) -> _Journal:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Journal)
        except FileNotFoundError:
            return _Journal()
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("the journal of starts is lost: %s", error)
            return _Journal()

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        # Without it a deadly start is only told later, and a full disk must not end PID 1.
        with contextlib.suppress(OSError):
            temporary.write_bytes(msgspec.json.encode(self._journal))
            temporary.rename(self._path)
