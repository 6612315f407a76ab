"""Fairness: whoever was served the least tokens goes first.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) over tokens instead of bytes, as the Virtual Token Counter does
for language models (Sheng et al., OSDI 2024): of two tenants that both wait all the time, neither is served more than
one largest request ahead of the other, and who was away has no claim to what it did not use meanwhile.
"""

import heapq
from collections import Counter

ANSWER_WEIGHT = 2
"""An answer token costs the engine a step of its own, prompt tokens go many at once (weights of VTC)."""
_MOST_REMEMBERED = 1024


def cost(prompt_tokens: float, answer_tokens: float) -> float:
    """Return the work of a request, in prompt tokens."""
    return prompt_tokens + ANSWER_WEIGHT * answer_tokens


class Ledger:
    """What each tenant was served, as virtual time: never falls, and starts from the floor for newcomers."""

    def __init__(self) -> None:
        self._floor = 0.0
        self._served: dict[str, float] = {}
        self._credit: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._absent: list[tuple[float, str]] = []

    def served(self, tenant: str) -> float:
        """Return a tenant's virtual time."""
        return self._served.get(tenant, self._floor)

    def enter(self, tenant: str) -> None:
        """A request of the tenant waits. If it is the only one, the tenant starts from the floor at least."""
        if tenant not in self._waiting:
            self._served[tenant] = max(self.served(tenant), self._floor)
        self._waiting[tenant] += 1

    def leave(self, tenant: str) -> None:
        """A request of the tenant waits no more."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
            self._remember(tenant)

    def start(self, tenant: str, work: float) -> None:
        """Charge a tenant for a request that is sent to the engine."""
        served = self.served(tenant)
        self._floor = max(self._floor, served)
        credit = self._credit.pop(tenant, 0.0)
        self._served[tenant] = served + max(0.0, work - credit)
        if credit > work:
            self._credit[tenant] = credit - work
        self._remember(tenant)

    def correct(self, tenant: str, difference: float) -> None:
        """Charge what a request took beyond what it was charged for; if it took less, the next is the cheaper."""
        if difference > 0:
            self._served[tenant] = self.served(tenant) + difference
        elif tenant in self._served:
            self._credit[tenant] = self._credit.get(tenant, 0.0) - difference
        self._remember(tenant)

    def _remember(self, tenant: str) -> None:
        """Forget absent tenants which the floor has reached, and the nearest to it if there are too many."""
        if tenant in self._served and tenant not in self._waiting:
            heapq.heappush(self._absent, (self._served[tenant], tenant))
        while self._absent and (self._absent[0][0] <= self._floor or len(self._absent) > _MOST_REMEMBERED):
            served, absent = heapq.heappop(self._absent)
            if absent not in self._waiting and self._served.get(absent) == served:
                del self._served[absent]
                self._credit.pop(absent, None)


class ClassTurns:
    """Turns of the classes whose requests are overdue: each gets its weight's share of the engine's work.

    Without it a class that never gets all its work done would shut out those below it for ever.
    """

    WEIGHTS = (8, 4, 2, 1)
    """By rank."""

    def __init__(self) -> None:
        self._floor = 0.0
        self._served = [0.0] * len(self.WEIGHTS)
        self._overdue: frozenset[int] = frozenset()

    def note(self, overdue: frozenset[int]) -> None:
        """Hear which ranks are overdue; one that was not before starts from the floor."""
        for rank in overdue - self._overdue:
            self._served[rank] = max(self._served[rank], self._floor)
        self._overdue = overdue

    def first(self, ranks: frozenset[int]) -> int:
        """Return whose turn it is of some ranks."""
        return min(ranks, key=lambda rank: (self._served[rank], rank))

    def start(self, rank: int, work: float) -> None:
        """Charge a class for a request that is sent to the engine, if it was overdue."""
        if rank in self._overdue:
            self._floor = max(self._floor, self._served[rank])
            self._served[rank] += work / self.WEIGHTS[rank]
