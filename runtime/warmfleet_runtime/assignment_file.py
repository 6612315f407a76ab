"""The assignment file as the kubelet keeps it: a symlink that is swapped as a whole."""

import os
from pathlib import Path

from warmfleet_api import assignment as wire
from warmfleet_api.assignment import AssignmentError
from warmfleet_runtime.machine.events import Assigned, AssignmentRefused

POLL_SECONDS = 0.1


class AssignmentFile:
    """Tells what is new in the file; polled, because inotify does not see swaps of a parent's symlink reliably."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._was_missing = False

    def poll(self) -> Assigned | AssignmentRefused | None:
        """Return what changed since the last call, if anything. Costs one stat when nothing did."""
        try:
            status = self._path.stat()
        except OSError as error:
            if self._was_missing:
                return None
            self._was_missing = True
            self._seen = None
            return AssignmentRefused(f"no assignment file at {self._path}: {os.strerror(error.errno or 0)}")
        self._was_missing = False
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if version == self._seen:
            return None
        self._seen = version
        return self._read()

    def _read(self) -> Assigned | AssignmentRefused:
        try:
            with self._path.open("rb") as file:
                content = file.read(wire.MAX_BYTES + 1)
            if len(content) > wire.MAX_BYTES:
                raise AssignmentError(f"assignment is over the limit of {wire.MAX_BYTES} bytes")
            assignment = wire.decode(content)
        except (OSError, AssignmentError) as error:
            return AssignmentRefused(f"{self._path}: {error}; the last good assignment stays")
        return Assigned(assignment)
