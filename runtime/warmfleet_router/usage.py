"""How many tokens a request cost: what the engine says at the end of its answer, else an estimate."""

import re
from dataclasses import dataclass

BYTES_PER_TOKEN = 4
"""Of ordinary text, where the engine does not tell."""
_TAIL_BYTES = 4096
_TOTAL = re.compile(rb'"total_tokens": ?(\d{1,12})')


@dataclass(slots=True)
class Usage:
    """Looks at an answer while it goes by."""

    prompt_bytes: int
    stream: bool
    _events: int = 0
    _bytes: int = 0
    _tail: bytes = b""

    def saw(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._bytes += len(data)
        if self.stream:
            # JSON has no line ends of its own: events can be counted unread.
            self._events += data.count(b"\n\n")
        self._tail = data[-_TAIL_BYTES:] if len(data) >= _TAIL_BYTES else (self._tail + data)[-_TAIL_BYTES:]

    @property
    def tokens(self) -> int:
        """Prompt and answer together; in a text of the answer the quotes of the engine's own words are escaped."""
        if told := _TOTAL.findall(self._tail):
            return int(told[-1])
        if not self._bytes:
            return 0
        answer = max(0, self._events - 1) if self.stream else self._bytes // BYTES_PER_TOKEN
        return self.prompt_bytes // BYTES_PER_TOKEN + answer
