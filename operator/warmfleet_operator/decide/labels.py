"""The last look at the runners that stay: their labels follow their engines, their assignments follow the specs.

A model is *settled* when it and all its runners needed nothing in a round and nothing happens in them: until one of
them changes, no round has to look at it again. It still takes part where a runner it shares with others is labelled.
"""

from collections import defaultdict
from collections.abc import Iterable, Set

from warmfleet_operator.decide.actions import PatchRunner
from warmfleet_operator.decide.fleet import ModelKey, Runner
from warmfleet_operator.decide.protection import label_engines, label_protection, last_ready
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.standby import as_shown


def settle(round_: Round, patches: Iterable[PatchRunner]) -> None:
    """Remember the models for which there was nothing to do, and in whose runners nothing happens."""
    changed = {patch.pod.metadata.uid for patch in patches} | {each.pod.metadata.uid for each in round_.deletes}
    for key, plan in round_.plans.items():
        if plan.deletes or plan.wants_room or plan.standbys:
            continue
        members = round_.members.get(key, ())
        uids = {member.pod.metadata.uid for member in members}
        if not members or uids & changed or not all(round_.sights[uid].is_calm for uid in uids):
            continue
        round_.carried.models.unsettled.pop(key, None)


def label_runners(round_: Round) -> None:
    """Want the labels of all runners in which something may differ."""
    fleet, members = round_.fleet, round_.members
    edited = round_.edits.runners()
    models, uids = _to_look_at(round_, edited)
    gone = {delete.pod.metadata.uid for delete in round_.deletes}
    runners: dict[str, Runner] = {}
    shown: defaultdict[str, dict[str, list[Member]]] = defaultdict(lambda: defaultdict(list))
    protects: dict[str, str] = {}
    for pool, pool_plan in round_.pool_plans.items():
        for each in round_.pool_runners[pool]:
            uid = each.pod.metadata.uid
            if uid in uids and not (each.is_terminating or each.pod.is_terminal or each.name in pool_plan.deleted):
                runners[uid] = each.runner
    for key in models:
        rests = fleet.models[key].spec.standby is not None
        plan = round_.plans.get(key)
        kept = _kept(members[key], plan.deleted if plan is not None and plan.deletes else frozenset())
        for member in kept:
            uid = member.pod.metadata.uid
            if not member.pool or round_.keeps(member):
                runners[uid] = member.runner
            shown[uid][key.name].append(as_shown(member, fleet.models[key]) if rests else member)
        last, ends_in_seconds = last_ready(kept, fleet.nodes, fleet.limits, round_.now)
        round_.recheck(ends_in_seconds)
        if last is not None:
            protects[last.pod.metadata.uid] = key.name
    for uid, runner in runners.items():
        if uid not in gone:
            edit = round_.edits.of(runner)
            if uid in edited or not round_.sights[uid].is_calm:
                label_engines(edit, shown[uid])
            label_protection(edit, protects.get(uid))


def _to_look_at(round_: Round, edited: Set[str]) -> tuple[list[ModelKey], set[str]]:
    """Return the models that are not settled with all they share runners with, and the runners of all these.

    Runners in which something happens, or that host nobody, are looked at too.
    """
    models = dict.fromkeys(round_.plans)
    carried, keys = round_.carried, round_.fleet.limits.trusted_keys
    uids = {record.uid for record in carried.restless if record.sight is not None and not record.is_calm}
    uids |= edited
    if keys is not None:
        uids.update(carried.with_other_keys(keys))
    todo = list(uids)
    todo += [member.pod.metadata.uid for key in models for member in round_.members.get(key, ())]
    seen: set[str] = set()
    while todo:
        uid = todo.pop()
        if uid in seen:
            continue
        seen.add(uid)
        for member in round_.sights[uid].members if uid in round_.sights else ():
            if member.model not in models and member.model in round_.fleet.models:
                models[member.model] = None
                todo += [each.pod.metadata.uid for each in round_.members[member.model]]
    # In the order of the fleet, so that the outcome depends on nothing else.
    return carried.models.in_order(key for key in models if key in round_.members), seen


def _kept(members: Iterable[Member], gone: Set[str]) -> list[Member]:
    """Return the places that are not going in any way."""
    return [member for member in members if not member.is_terminating and member.name not in gone]
