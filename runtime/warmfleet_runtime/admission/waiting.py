"""What waits, and whose turn it is.

Between classes the earliest due goes first; of classes that are overdue each gets its share. Inside a class the tenant
that was served least goes first, with the earliest deadline among its requests.
"""

from collections.abc import Iterator

from warmfleet_api.vocabulary import Priority
from warmfleet_runtime.admission.backlog import Backlog
from warmfleet_runtime.admission.entry import Entry, Lane
from warmfleet_runtime.admission.fairness import ClassTurns, Ledger
from warmfleet_runtime.admission.order import Line, Sorted
from warmfleet_runtime.admission.policies import HELD_FROM
from warmfleet_runtime.admission.room import Room
from warmfleet_runtime.admission.shedding import Longest


class _Class:
    """What waits of one class."""

    def __init__(self, longest_wait_seconds: float) -> None:
        self.ledger = Ledger()
        self.lines = {lane: Line(self.ledger) for lane in Lane}
        self.longest = Longest()
        self.backlog = Backlog(longest_wait_seconds)


class Waiting:
    """The waiting requests of one engine."""

    def __init__(self, longest_wait_seconds: float) -> None:
        self._entries: dict[int, Entry] = {}
        self._held: dict[int, Entry] = {}  # by policies, in order of arrival
        self._deadlines = Sorted()
        self._turns = ClassTurns()
        self._classes = [_Class(longest_wait_seconds) for _ in Priority]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def add(self, entry: Entry) -> None:
        """Take an entry in."""
        tenant, own = entry.request.tenant, self._classes[entry.rank]
        self._entries[entry.id] = entry
        if entry.rank >= HELD_FROM and entry.lane is not Lane.COLD:
            self._held[entry.id] = entry
        self._deadlines.add(entry.id, entry.deadline)
        own.ledger.enter(tenant)
        own.lines[entry.lane].add(entry)
        own.longest.add(tenant)
        own.backlog.add(tenant, entry.due, entry.cost)

    def remove(self, entry: Entry) -> None:
        """Take an entry out."""
        tenant, own = entry.request.tenant, self._classes[entry.rank]
        del self._entries[entry.id]
        self._held.pop(entry.id, None)
        self._deadlines.remove(entry.id)
        own.lines[entry.lane].remove(entry)
        own.longest.remove(tenant)
        own.ledger.leave(tenant)
        own.backlog.remove(tenant, entry.due, entry.cost)

    def start(self, entry: Entry) -> None:
        """Take an entry out for the engine, and charge its tenant and class."""
        self.remove(entry)
        self._classes[entry.rank].ledger.start(entry.request.tenant, entry.cost)
        self._turns.start(entry.rank, entry.cost)

    def correct(self, entry: Entry, difference: float) -> None:
        """Charge a tenant for what its entry took beyond its expected cost."""
        self._classes[entry.rank].ledger.correct(entry.request.tenant, difference)

    # Turns -----------------------------------------------------------------------------------------------------

    def next(self, room: Room, *, is_open: bool, now: float) -> Entry | None:
        """Return the entry to send to the engine, if one has its turn and fits; `is_open`: policies let some through.

        One that does not fit holds up its own class and those below it, for it would starve behind narrower ones.
        """
        lines = self._heads(room, now)
        if not is_open:
            lines = lines[: _count_above(lines, HELD_FROM)]
        self._turns.note(frozenset(rank for rank, due, _ in lines if due <= now))
        while lines:
            overdue = frozenset(rank for rank, due, _ in lines if due <= now)
            in_turn = self._turns.first(overdue) if overdue else min(lines, key=lambda each: each[1])[0]
            line = next(line for rank, _, line in lines if rank == in_turn)
            entry = self._entries[_known(line.first())]
            if room.fits(entry.rank, room.sequences(entry)):
                return entry
            lines = lines[: _count_above(lines, in_turn)]
        return None

    def _heads(self, room: Room, now: float) -> list[tuple[int, float, Line]]:
        """Return of each class that has something to send: its rank, its earliest due, and the line of that."""
        heads: list[tuple[int, float, Line]] = []
        for rank, each in enumerate(self._classes):
            if not each.longest:
                continue
            line, due = each.lines[Lane.SHORT], each.lines[Lane.SHORT].due
            long = each.lines[Lane.LONG]
            if (long_due := long.due) is not None and (due is None or long_due < due):
                first = self._entries[_known(long.first())]
                if room.takes_long(first, now):
                    line, due = long, long_due
            if due is not None:
                heads.append((rank, due, line))
        return heads

    # Questions -------------------------------------------------------------------------------------------------

    @property
    def crowd(self) -> tuple[int, float]:
        """How many wait that policies hold, and when the first of them arrived."""
        first = next(iter(self._held.values()), None)
        return len(self._held), first.request.arrived if first else 0.0

    @property
    def has_long(self) -> bool:
        """Whether long prompts wait."""
        return any(each.lines[Lane.LONG] for each in self._classes)

    def count(self, rank: int) -> int:
        """Return how many of a class wait."""
        return sum(len(line) for line in self._classes[rank].lines.values())

    def is_empty_down_to(self, rank: int) -> bool:
        """Whether nothing of this class or a higher one waits."""
        return not any(each.longest for each in self._classes[: rank + 1])

    def first_deadline(self) -> tuple[float, int] | None:
        """Return the earliest deadline, and whose it is."""
        return self._deadlines.first()

    def work_ahead(self, rank: int, tenant: str, due: float) -> float:
        """Return the work that goes before a new request.

        Of other classes that is what is due before it. Of its own, tenants take turns: until its tenant's own work is
        done, each other one gets as much done.
        """
        own = self._classes[rank]
        tenants = len(own.longest) + (tenant not in own.backlog.of_tenant)
        ahead = min(own.backlog.total, float(own.backlog.of_tenant.get(tenant, 0) * tenants))
        return ahead + sum(each.backlog.before(due) for each in self._classes if each is not own)

    def work(self) -> float:
        """Return the work of all that wait."""
        return sum(each.backlog.total for each in self._classes)

    def giving_way(self, rank: int, tenant: str, sure: int) -> Entry | None:
        """Return who leaves a full queue to a new request, if anybody has to.

        The lowest class gives way first, but keeps its last `sure` places, and one that has fewer takes them from a
        higher class: else higher ones that come all the time would shut out who has to wait its turn. Otherwise a
        tenant gives way to one of its class that has fewer waiting. Of the tenant with most it is the latest deadline.
        """
        ranks = [*range(len(self._classes) - 1, rank, -1), *range(rank - 1 if self.count(rank) < sure else -1, -1, -1)]
        other = next((each for each in ranks if self.count(each) > sure), None)
        loser = self._classes[rank if other is None else other]
        longest = loser.longest.first()
        if longest is None or (other is None and loser.longest.count(longest) < loser.longest.count(tenant) + 2):
            return None
        lasts = (line.last_of(longest) for line in loser.lines.values())
        return self._entries[max(last for last in lasts if last is not None)[1]]


def _count_above(lines: list[tuple[int, float, Line]], rank: int) -> int:
    return sum(each < rank for each, _, _ in lines)


def _known(key: int | None) -> int:
    if key is None:
        raise AssertionError("a line that has a due has a first one")
    return key
