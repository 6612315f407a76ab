"""Claims: runners without a node, so that a cluster autoscaler makes one for them.

Only where an administrator says that there is such an autoscaler (`WARMFLEET_AUTOSCALER=On`). The rules:

* A claim is made for a start that no present node has room for, now or when all that ends is gone, and to which nobody
  gives way. The turn decides who comes first, and at most `Limits.claims` stand at once, those that are only ending
  included.
* It is a runner's pod like any other, but pinned to no node, and with the PriorityClass of its class: these never
  preempt, and order claims alone, in the queue of Kubernetes and for the autoscaler.
* As Kubernetes would bind it wherever there is room, it is *withdrawn* as soon as there is room on a present node, now
  or when others end: its start, or whoever comes before it, is to have that in its turn. One that Kubernetes could bind
  at once, and whose turn it is, stays: its room is counted as taken.
* The worst of them is withdrawn for a start of a higher class. One without a node after `CLAIM_SECONDS` is withdrawn
  too, and its owner asks for none in as long a time: others may have nodes that can be made.
* Once bound to a node it is a runner like any other. The ledger counts it there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from warmfleet_api.vocabulary import Priority, Reason
from warmfleet_operator.decide.actions import Decisions, DeleteRunner
from warmfleet_operator.decide.fleet import OwnerKey, Runner
from warmfleet_operator.decide.needs import Need
from warmfleet_operator.decide.placement import NoPlace
from warmfleet_operator.decide.runners import by_owner, is_claim, owner_of
from warmfleet_operator.decide.times import seconds_since

if TYPE_CHECKING:
    from warmfleet_operator.decide.rounds import Round

CLAIM_SECONDS = 600.0
"""After which a claim without a node is withdrawn, and for which its owner asks for none then."""
_ASKS = frozenset({Reason.NO_FREE_MEMORY, Reason.NO_MATCHING_NODE, Reason.NEVER_FITS, Reason.FLOORS_HELD})
"""Why a start has no place, where a node more may help."""
_CLASSES = tuple(Priority)


@dataclass(frozen=True, slots=True)
class Standing:
    """A claim that stands."""

    runner: Runner
    rank: int
    """Of its class."""


def class_of(rank: int) -> Priority:
    """Return the class of that rank; a pool's runner for which nobody waits is of the lowest."""
    return _CLASSES[min(rank, len(_CLASSES) - 1)]


def claims_of(runners: Iterable[Runner]) -> dict[OwnerKey, list[Runner]]:
    """Return the claims that nobody withdrew yet, by whose they are."""
    there = [runner for runner in runners if not runner.pod.spec.node_name and is_claim(runner.pod)]
    return {
        owner: group for owner, all_ in by_owner(there).items() if (group := [each for each in all_ if _is_up(each)])
    }


def why_withdrawn(round_: "Round", claim: Runner, need: Need) -> str | None:
    """Return why a claim is to be withdrawn whoever else waits, in words; None: it is not."""
    if not round_.fleet.limits.claims:
        return "no cluster autoscaler is asked for nodes any more: WARMFLEET_AUTOSCALER is Off"
    if is_late(claim, round_.now):
        return f"no node came for it in {CLAIM_SECONDS:.0f} s"
    node = round_.places.takeable(need)
    return f"there is room on {node}, or will be" if node is not None else None


def is_late(claim: Runner, now: datetime) -> bool:
    """Whether a claim has waited for its node as long as it may."""
    return _waited_seconds(claim, now) >= CLAIM_SECONDS


def withdraw(round_: "Round", claim: Runner, reason: str) -> None:
    """Delete a claim; its start is planned anew."""
    round_.deletes.append(DeleteRunner(claim.pod, reason))


def stand(round_: "Round", claim: Runner, rank: int, need: Need) -> NoPlace:
    """Let a claim stand, and say that its start waits for a node."""
    round_.standing.append(Standing(claim, rank))
    round_.recheck(max(0.1, CLAIM_SECONDS - _waited_seconds(claim, round_.now)))
    return waits(need, claim.pod.metadata.creation_timestamp)


def waits(need: Need, since: str) -> NoPlace:
    """Say that a node is asked for: since a time of the clock, as seconds would be another wait every second."""
    return NoPlace(
        Reason.NO_MATCHING_NODE, f"needs {need}; a node for it is asked of the cluster autoscaler, since {since}"
    )


def may_ask(round_: "Round", owner: OwnerKey, refusal: NoPlace, need: Need) -> bool:
    """Whether a node may be asked for: no present one has the room, and none was asked for in vain lately."""
    return (
        refusal.reason in _ASKS
        and not refusal.place
        and not refusal.is_of_weights
        and owner not in round_.fleet.unanswered
        and round_.places.takeable(need) is None
    )


def displace(round_: "Round", rank: int, winner: str) -> bool:
    """Withdraw the worst claim for a start of a higher class, if there is one of a lower."""
    worst = max(
        round_.standing,
        key=lambda each: (each.rank, each.runner.pod.metadata.creation_timestamp, each.runner.pod.metadata.name),
        default=None,
    )
    if worst is None or worst.rank <= rank:
        return False
    round_.standing.remove(worst)
    withdraw(round_, worst.runner, f"a node is asked for {winner} first, which is of the higher class {class_of(rank)}")
    return True


def count(runners: Iterable[Runner]) -> int:
    """Return how many claims there are, those that are only ending included."""
    return sum(is_claim(runner.pod) for runner in runners)


def unanswered(decisions: Decisions, now: datetime) -> Iterator[OwnerKey]:
    """Yield the owners whose claims a round withdraws as no node came."""
    for action in decisions.actions:
        if isinstance(action, DeleteRunner) and is_claim(action.pod):
            waited = seconds_since(action.pod.metadata.creation_timestamp, now)
            if waited is not None and waited >= CLAIM_SECONDS:
                yield owner_of(action.pod)


def _is_up(runner: Runner) -> bool:
    return runner.pod.metadata.deletion_timestamp is None and not runner.pod.is_terminal


def _waited_seconds(claim: Runner, now: datetime) -> float:
    return seconds_since(claim.pod.metadata.creation_timestamp, now) or 0.0
