"""One plan of one node. Pure, over one state.

Order: classes strictly, inside a class what a runner waits for first, then what is there soonest. What can't go on (no
room, a failure that is not over, its turn has not come) blocks nothing behind it.
"""

from warmfleet_agent.plan import words
from warmfleet_agent.plan.bringing import bring, demote
from warmfleet_agent.plan.round import Round
from warmfleet_agent.plan.state import NodeState, Wanted
from warmfleet_agent.plan.steps import Ask, Discard, Link, Plan, Stop, Unlink, Wait
from warmfleet_api.artifacts import name_in
from warmfleet_api.vocabulary import EntryState, Tier

ASKS = 8
"""Sources asked at once."""


def plan(state: NodeState, now: float) -> Plan:
    """Decide what to begin now. `now`: unix seconds."""
    outcome = Round(state, now)
    # 1. Views: what is there is shown, what is not wanted in a view any more leaves it.
    _show(outcome)
    # 2. What nobody wants any more ends, and gives its room and turn back.
    outcome.open_rooms(_stop_unwanted(outcome))
    # 3. A tier that shrank gives back what it can.
    _shrink(outcome)
    # 4. Ask sources about what is not known.
    _ask(outcome)
    # 5. Bring what is not where it should be.
    bring(outcome)
    # 6. With nothing else to do for the disk, copy down what is in memory alone.
    demote(outcome)
    return outcome.plan()


def _show(outcome: Round) -> None:
    views, links, held = outcome.state.views, outcome.state.links, outcome.state.memory.held
    for view, shown in sorted(links.items()):
        for key in sorted(shown - views.get(view, frozenset())):
            outcome.steps.append(Unlink(view, key, f"the runner of {view} does not host it any more"))
    for view, keys in sorted(views.items()):
        # A start begins once its weights are shown, and takes the compile cache that is there by then.
        for key in sorted(keys - links.get(view, frozenset()), key=lambda key: (not name_in(key), key)):
            if key in held:
                outcome.steps.append(Link(view, key, f"it is in memory, and the runner of {view} waits for it"))


def _stop_unwanted(outcome: Round) -> frozenset[str]:
    stopped = set()
    for transfer in sorted(outcome.state.transfers, key=lambda each: each.key):
        # A copy to disk is made for what is worth keeping, demanded or not.
        if transfer.target is Tier.DISK and transfer.source is Tier.MEMORY and transfer.key in outcome.state.wanted:
            continue
        if outcome.values.least_tier(transfer.key) is not Tier.REMOTE:
            continue
        done = f"{words.size(transfer.done_bytes)} of {words.size(transfer.bytes)}"
        reason = f"nobody wants it any more; {done} were there"
        outcome.steps.append(Stop(transfer.key, transfer.target, reason))
        if transfer.target is Tier.DISK:
            outcome.steps.append(Discard(transfer.key, Tier.DISK, reason))
        stopped.add(transfer.key)
        outcome.moving.discard(transfer.key)
        if transfer.source is Tier.REMOTE:
            outcome.fetches -= 1
        else:
            outcome.copies -= 1
    for tier, store in outcome.stores():
        for key, size_bytes in sorted(store.idle_drafts.items()):
            if key not in outcome.state.wanted and key not in outcome.seen:
                outcome.steps.append(Discard(key, tier, f"nobody wants it any more; {words.size(size_bytes)} go"))
            elif key in store.held:
                outcome.steps.append(Discard(key, tier, f"it is whole by now; {words.size(size_bytes)} go"))
            else:
                continue
            stopped.add(key)
    return frozenset(stopped)


def _shrink(outcome: Round) -> None:
    for tier, room in outcome.rooms.items():
        if room.free_bytes >= 0:
            continue
        over = words.size(-room.free_bytes)
        victims = room.shrink()
        outcome.clear(tier, victims, f"{tier.lower()} holds {over} more than it may")
        if room.free_bytes < 0:
            outcome.warnings.append(
                f"{tier.lower()} holds {words.size(-room.free_bytes)} more than its"
                f" {words.size(room.capacity_bytes)}, and nothing more may go: it is pinned or in use"
            )


def _ask(outcome: Round) -> None:
    asking = len(outcome.state.asking)
    waiting = 0
    order = sorted(
        outcome.state.wanted.values(), key=lambda each: (each.priority.rank, each.key not in outcome.seen, each.key)
    )
    for wanted in order:
        if not _is_unknown(outcome, wanted):
            continue
        problem = outcome.standing(wanted.key, Tier.REMOTE)
        if problem is not None:
            outcome.fail(wanted.key, problem)
        elif asking >= ASKS:
            waiting += 1
            message = f"{ASKS} other sources are being asked; it is number {waiting} of those that wait"
            outcome.waits.append(Wait(wanted.key, EntryState.WAITING, message))
        else:
            asking += 1
            outcome.steps.append(Ask(wanted.key, f"its files and sizes are not known; {wanted.priority}"))


def _is_unknown(outcome: Round, wanted: Wanted) -> bool:
    """Whether its source has to be asked before anything else can be decided."""
    key = wanted.key
    if key in outcome.state.asking or key in outcome.moving or key in outcome.state.memory.held:
        return False
    if outcome.state.disk is not None and key in outcome.state.disk.held:
        return False
    return outcome.answer(key) is None
