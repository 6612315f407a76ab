"""Follows an engine's log file: lines as they come, the last ones for a post-mortem, and a bound on its size."""

import os
import re
from collections import deque
from pathlib import Path

KEPT_LINES = 400
"""Enough for the cause of a failure above the tracebacks of three processes."""
MAX_FILE_BYTES = 16 * 1024 * 1024
_MAX_LINE_CHARACTERS = 2000
_READ_BYTES = 256 * 1024
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LINE_ENDS = re.compile(r"[\r\n]+")


class LogTail:
    """One engine's log, from the moment its process starts."""

    def __init__(self, path: Path) -> None:
        self.last: deque[str] = deque(maxlen=KEPT_LINES)
        path.unlink(missing_ok=True)
        self._path = path
        self._offset = 0
        self._partial = ""

    def read(self) -> list[str]:
        """Return the lines written since the last call; a carriage return ends a line too (progress bars)."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_READ_BYTES)
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._partial = _LINE_ENDS.split(self._partial + data.decode(errors="replace"))
        self._partial = self._partial[-_MAX_LINE_CHARACTERS:]
        if self._offset > MAX_FILE_BYTES:
            # The writers append, so they go on at the new end.
            os.truncate(self._path, 0)
            self._offset = 0
        clean = [_ANSI.sub("", line)[:_MAX_LINE_CHARACTERS].rstrip() for line in lines]
        found = [line for line in clean if line]
        self.last.extend(found)
        return found

    def read_to_end(self) -> list[str]:
        """Return all that is left, an unfinished last line included: for a process that has ended."""
        lines = []
        while found := self.read():
            lines += found
        if self._partial.strip():
            lines.append(self._partial.strip())
            self.last.append(self._partial.strip())
            self._partial = ""
        return lines
