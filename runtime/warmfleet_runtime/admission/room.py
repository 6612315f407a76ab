"""Room in the engine: how many sequences of each class may run at once.

Each class above Low has sequences that no lower class takes, so that its requests start at once while lower ones fill
the engine; classes nest (the Russian dolls of RFC 4127): a level bounds a class and all below it together, and no class
is shut out because higher ones are many. Long prompts have a bound of their own.
"""

from warmfleet_api.vocabulary import Priority
from warmfleet_runtime.admission.entry import Entry, Lane

RESERVED_SHARE = 16
"""Each class above Low keeps one sequence in so many for itself and those above it, at least one."""
LONG_SHARE = 4
"""Long prompts run in one sequence of so many at most, at least in one."""
LONG_PREFILL_TOKENS = 8192
"""Long prompts the engine reads at once, or a single one: about what it takes into one step."""
_CLASSES = len(Priority)


def ceilings(max_sequences: int, window: int, *, reserves: bool) -> tuple[int, ...]:
    """Return by rank how many sequences a class and all below it may run together.

    The window bounds the lowest class; what is reserved lies above it as far as the engine has room.
    """
    step = max(1, max_sequences // RESERVED_SHARE) if reserves else 0
    return tuple(
        max(1, min(window + (_CLASSES - 1 - rank) * step, max_sequences - rank * step)) for rank in range(_CLASSES)
    )


class Room:
    """What runs, by class, and whether one more fits."""

    def __init__(self, limits: tuple[int, ...]) -> None:
        self.limits = limits
        self.running = [0] * _CLASSES
        """Sequences by rank."""
        self._long = 0
        self._reading: dict[int, tuple[int, float]] = {}

    def sequences(self, entry: Entry) -> int:
        """Return the room an entry takes: all of its class's if it has more sequences, which then take turns."""
        return min(entry.request.sequences, self.limits[entry.rank])

    def fits(self, rank: int, sequences: int) -> bool:
        """Whether so many more of a class may run."""
        together = sequences + sum(self.running[rank:])
        for level in range(rank, -1, -1):
            if level < rank:
                together += self.running[level]
            if together > self.limits[level]:
                return False
        return True

    def takes_long(self, entry: Entry, now: float) -> bool:
        """Whether one more long prompt may run beside those that do."""
        if self._long and self._long + self.sequences(entry) > max(1, self.limits[-1] // LONG_SHARE):
            return False
        read = sum(tokens for tokens, until in self._reading.values() if until > now)
        return not read or read + entry.request.prompt_tokens <= LONG_PREFILL_TOKENS

    def reading_until(self, now: float) -> float | None:
        """When the first of the long prompts is read, if it can be foreseen."""
        return min((until for _, until in self._reading.values() if now < until < float("inf")), default=None)

    def enter(self, entry: Entry, read_by: float) -> None:
        """Start an entry; a long one's prompt is taken for read at `read_by` if nothing is heard before."""
        entry.sequences = self.sequences(entry)
        self.running[entry.rank] += entry.sequences
        if entry.lane is not Lane.SHORT:
            self._long += entry.sequences
            self._reading[entry.id] = (entry.request.prompt_tokens, read_by)

    def has_read(self, entry: Entry) -> None:
        """Its prompt is read: the first token has come."""
        self._reading.pop(entry.id, None)

    def leave(self, entry: Entry) -> None:
        """End an entry that runs."""
        self.running[entry.rank] -= entry.sequences
        if entry.lane is not Lane.SHORT:
            self._long -= entry.sequences
            self._reading.pop(entry.id, None)
