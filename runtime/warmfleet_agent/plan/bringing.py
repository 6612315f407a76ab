"""Brings wanted entries where they should be: claims in the order of their turn, the way each takes, and its turn."""

from collections.abc import Iterable

from warmfleet_agent.plan import words
from warmfleet_agent.plan.room import HYSTERESIS, Claim, Refused
from warmfleet_agent.plan.round import Round
from warmfleet_agent.plan.state import room_bytes
from warmfleet_agent.plan.steps import Demote, Fetch, Promote, Wait
from warmfleet_api.vocabulary import EntryState, Priority, Tier, WeightsProblem

PROMOTIONS = 1
"""Copies from disk at once: two that share a disk both come as late as the second of two that don't."""
EXTRA = {Priority.CRITICAL: 2, Priority.HIGH: 1}
"""Fetches of a class beyond `parallel`, so that it never waits for the end of a lower one's. Nested: the higher has
more."""
EXTRA_AWAITED = 1
"""Transfers beyond these of what a runner waits for."""


def bring(outcome: Round) -> None:
    """Begin what has its turn and its room, and say of the others why they wait."""
    for claim in sorted(_claims(outcome), key=lambda each: each.turn):
        _serve(outcome, claim)


def _claims(outcome: Round) -> Iterable[Claim]:
    """Yield what is not where it should be, is not on its way, and of which the sizes are known."""
    memory, disk = outcome.state.memory.held, outcome.state.disk.held if outcome.state.disk is not None else {}
    for key in sorted(outcome.state.wanted.keys() | outcome.seen):
        wanted = outcome.state.wanted.get(key)
        target = Tier.MEMORY if key in outcome.seen or wanted is None else wanted.tier
        if target is Tier.REMOTE or key in memory or key in outcome.moving or key in outcome.state.asking:
            continue
        if key in disk:
            if target is Tier.DISK:
                continue
            file_bytes = disk[key].file_bytes
        elif wanted is None:
            outcome.waits.append(Wait(key, EntryState.WAITING, "a runner waits for it, but nobody says where it is"))
            continue
        elif (answer := outcome.answer(key)) is not None:
            file_bytes = answer.file_bytes
        else:
            continue
        size_bytes = sum(file_bytes)
        yield Claim(
            key=key,
            priority=outcome.values.priority(key),
            is_awaited=key in outcome.seen,
            target=target,
            file_bytes=file_bytes,
            merit=outcome.values.merit(key, size_bytes),
            seconds=outcome.values.promote_seconds(size_bytes)
            if key in disk
            else outcome.values.fetch_seconds(size_bytes),
        )


def _serve(outcome: Round, claim: Claim) -> None:
    if _never_fits(outcome, claim):
        return
    if (Tier.DISK, claim.key) in outcome.evicted:
        outcome.waits.append(Wait(claim.key, EntryState.WAITING, f"{claim.who}; its copy on disk just made room"))
    elif outcome.state.disk is not None and claim.key in outcome.state.disk.held:
        _promote(outcome, claim)
    else:
        _fetch(outcome, claim)


def _never_fits(outcome: Round, claim: Claim) -> bool:
    room = outcome.rooms.get(claim.target)
    if room is None:
        message = "it is wanted on disk, but this node keeps nothing on disk; give the WeightCache a disk"
    elif (needed := outcome.needed(claim, claim.target)) > room.capacity_bytes:
        field = f"{claim.target.lower()}.size"
        message = (
            f"it needs {words.size(needed)}, and {field} of this node's WeightCache is"
            f" {words.size(room.capacity_bytes)}; raise {field}, or take a smaller or quantized model"
        )
    else:
        return False
    outcome.waits.append(Wait(claim.key, EntryState.FAILED, message, WeightsProblem.NEVER_FITS))
    return True


def _promote(outcome: Round, claim: Claim) -> None:
    problem = outcome.standing(claim.key, Tier.DISK)
    if problem is not None:
        outcome.fail(claim.key, problem)
        return
    if outcome.copies >= PROMOTIONS + (EXTRA_AWAITED if claim.is_awaited else 0):
        _wait_for_turn(outcome, claim, f"{outcome.copies} copied between disk and memory", Tier.DISK)
        return
    needed = outcome.needed(claim, Tier.MEMORY)
    made = outcome.make_room(claim, Tier.MEMORY, needed)
    if made is None:
        return
    outcome.copies += 1
    outcome.rooms[Tier.DISK].keep(claim.key, "being copied to memory")
    speed = f"{words.size(claim.bytes)} from disk, about {words.duration(claim.seconds)}"
    outcome.steps.append(Promote(claim.key, claim.bytes, needed, f"{claim.who}; {speed}{made}"))


def _fetch(outcome: Round, claim: Claim) -> None:
    problem = outcome.standing(claim.key, Tier.REMOTE)
    if problem is not None:
        outcome.fail(claim.key, problem)
        return
    limit = outcome.state.parallel + EXTRA.get(claim.priority, 0) + (EXTRA_AWAITED if claim.is_awaited else 0)
    if outcome.fetches >= limit:
        _wait_for_turn(outcome, claim, f"{outcome.fetches} fetched, {limit} may be at once for it", Tier.REMOTE)
        return
    target = _way(outcome, claim)
    needed = outcome.needed(claim, target)
    made = outcome.make_room(claim, target, needed)
    if made is None:
        return
    outcome.fetches += 1
    way = " by way of the disk" if target is not claim.target else ""
    speed = f"{words.size(claim.bytes)} from afar{way}, about {words.duration(claim.seconds)}"
    outcome.steps.append(Fetch(claim.key, target, claim.bytes, needed, f"{claim.who}; {speed}{made}"))


def _way(outcome: Round, claim: Claim) -> Tier:
    """Return where to fetch to: the disk first where it has room, so that what leaves memory comes back soon.

    What nobody demands goes from there only for what is worth more.
    """
    disk = outcome.rooms.get(Tier.DISK)
    if claim.target is Tier.DISK or disk is None or outcome.standing(claim.key, Tier.DISK) is not None:
        return claim.target
    made = disk.make(claim, outcome.needed(claim, Tier.DISK), outcome.now)
    if isinstance(made, Refused):
        return claim.target
    lost = sum(each.value * each.room_bytes for each in made.victims if not each.is_demanded)
    gained = outcome.values.value(claim.key, claim.bytes, Tier.DISK) * claim.bytes
    return Tier.DISK if HYSTERESIS * lost <= gained else claim.target


def _wait_for_turn(outcome: Round, claim: Claim, busy: str, tier: Tier) -> None:
    ahead = sum(wait.reason is None for wait in outcome.waits)
    going = sorted(
        each.key for each in outcome.state.transfers if (each.source is Tier.REMOTE) == (tier is Tier.REMOTE)
    )
    under_way = f" ({words.listing(going)})" if going else ""
    message = f"{claim.who}; {busy}{under_way}; {ahead} wait before it"
    outcome.waits.append(Wait(claim.key, EntryState.WAITING, message))


def demote(outcome: Round) -> None:
    """Copy the most valuable entry that is in memory alone to disk, so that its eviction will cost little."""
    disk, room = outcome.state.disk, outcome.rooms.get(Tier.DISK)
    if disk is None or room is None or outcome.copies > 0 or outcome.fetches > 0:
        return
    candidates = []
    for key, held in outcome.state.memory.held.items():
        if (
            key in disk.held
            or key in outcome.moving
            or key not in outcome.state.wanted
            or (Tier.MEMORY, key) in outcome.evicted
        ):
            continue
        if outcome.standing(key, Tier.DISK) is None:
            candidates.append((-outcome.values.value(key, held.bytes, Tier.DISK), key, held))
    for negative, key, held in sorted(candidates, key=lambda each: each[:2]):
        needed = room_bytes(held.file_bytes, disk.page_bytes)
        made = room.make_below(-negative, needed)
        if made is None:
            continue
        outcome.clear(Tier.DISK, made.victims, f"{key} is worth more there")
        room.take(key, needed)
        again = words.duration(outcome.values.fetch_seconds(held.bytes))
        reason = f"it is in memory alone, and would take {again} from afar; the disk has nothing else to do"
        outcome.steps.append(Demote(key, held.bytes, needed, reason))
        return
