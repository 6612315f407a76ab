"""What has to change in a place until a start fits: the least that is enough, and the place where that is least."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from warmfleet_operator.decide.give_way import Candidate
from warmfleet_operator.decide.stakes import Bound, Step


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that would change for who gives way; `undo` and `do` are for trying it."""

    candidate: Candidate
    do: Callable[[], None]
    undo: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Offer:
    """Who would give way in one place."""

    candidates: tuple[Candidate, ...]

    @property
    def seconds(self) -> float:
        """In how long the last of them may be told."""
        return max(each.seconds for each in self.candidates)

    @property
    def step(self) -> Step:
        """The most that is asked of one of them."""
        return max(each.step for each in self.candidates)

    @property
    def gone_seconds(self) -> float:
        """In how long the room is free."""
        return max(each.seconds + each.gone_seconds for each in self.candidates)

    @property
    def order(self) -> tuple[object, ...]:
        """Sorts better offers first."""
        return (*self.bound, self.gone_seconds)

    @property
    def bound(self) -> Bound:
        """What decides first: whether it can begin at once, how much is asked, and of how many."""
        return self.seconds > 0, self.step, len(self.candidates)

    @property
    def why(self) -> str:
        """Who gives way and why, in words."""
        return ", ".join(dict.fromkeys(each.why for each in self.candidates))


def choose(changes: Iterable[Change], fits: Callable[[], bool]) -> Offer | None:
    """Return the least that has to change until `fits`; None where all together are not enough.

    Changes are tried in their order, those that disturb the least first. What was tried is undone.
    """
    done: list[Change] = []
    is_enough = False
    for change in changes:
        change.do()
        done.append(change)
        if fits():
            is_enough = True
            break
    kept: list[Change] = []
    for change in done if is_enough else ():
        # The least disturbing were tried first; what they gave may not be needed after all. What was done last is.
        if change is done[-1]:
            kept.append(change)
            continue
        change.undo()
        if not fits():
            change.do()
            kept.append(change)
    for change in kept if is_enough else done:
        change.undo()
    return Offer(tuple(change.candidate for change in kept)) if is_enough else None


@dataclass(slots=True)
class Search:
    """The places where others could give way to starts of one need and class, those that have to change least first.

    It lives for one round. What a place takes at least is cheap to tell and enough to put it into its order; who would
    give way is found out only for the first ones. A place that has changed since is put into its order anew.
    """

    heap: list[tuple[Bound, str, int]] = field(default_factory=list)
    """What a place takes at least, its name, and the version of the place it was seen at."""

    def best(
        self,
        version: Callable[[str], int],
        bound: Callable[[str], Bound | None],
        offer: Callable[[str], Offer | None],
        suits: Callable[[str], bool],
    ) -> tuple[str, Offer] | None:
        """Return the place with the best offer for one start, and that offer.

        Args:
            version: Of a place.
            bound: What a place takes at least; None: it can't have the room at all.
            offer: Who would give way there.
            suits: Whether this very start may go there.
        """
        found: tuple[str, Offer] | None = None
        aside = []
        while self.heap and (found is None or self.heap[0][0] < found[1].bound):
            least, name, seen = heappop(self.heap)
            if seen != version(name):
                again = bound(name)
                if again is not None:
                    heappush(self.heap, (again, name, version(name)))
                continue
            if suits(name):
                made = offer(name)
                if made is None:
                    continue
                least = made.bound
                if found is None or (made.order, name) < (found[1].order, found[0]):
                    found = name, made
            aside.append((least, name, seen))
        for each in aside:
            heappush(self.heap, each)
        return found
