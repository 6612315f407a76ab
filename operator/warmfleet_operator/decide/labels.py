"""The last look at the runners that stay: their labels follow their engines, their assignments follow the specs.

A model is *settled* when it and all its runners needed nothing in a round and nothing happens in them: until one of
them changes, no round has to look at it again. It still takes part where a runner it shares with others is labelled.
"""

from collections import defaultdict
from collections.abc import Iterable

from warmfleet_operator.decide.actions import PatchRunner
from warmfleet_operator.decide.fleet import Limits, Model, ModelKey, Runner
from warmfleet_operator.decide.protection import label_runner, last_ready
from warmfleet_operator.decide.remembered import MOST
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.runners import Member

_settled: dict[ModelKey, tuple[Model, Limits, list[Member]]] = {}
"""As in `remembered.py`, and for every model in every round: so without its detours."""


def is_settled(model: Model, members: list[Member], limits: Limits) -> bool:
    """Whether a former round found that there is nothing to do for this very model with these very members."""
    known = _settled.get(model.key)
    return known is not None and known[0] is model and known[1] is limits and known[2] == members


def settle(round_: Round, patches: Iterable[PatchRunner]) -> None:
    """Remember the models for which there was nothing to do, and in whose runners nothing happens."""
    changed = {patch.pod.metadata.uid for patch in patches} | {each.pod.metadata.uid for each in round_.deletes}
    for key, plan in round_.plans.items():
        if plan.deletes or plan.wants_room:
            continue
        members, model = round_.members[key], round_.fleet.models[key]
        uids = {member.pod.metadata.uid for member in members}
        if not members or uids & changed or not all(round_.sights[uid].is_calm for uid in uids):
            continue
        if len(_settled) >= MOST:
            _settled.clear()
        _settled[key] = model, round_.fleet.limits, members


def label_runners(round_: Round) -> None:
    """Want the labels of all runners in which something may differ."""
    fleet, members = round_.fleet, round_.members
    models, uids = _to_look_at(round_)
    gone = {delete.pod.metadata.uid for delete in round_.deletes}
    runners: dict[str, Runner] = {}
    shown: defaultdict[str, dict[str, list[Member]]] = defaultdict(lambda: defaultdict(list))
    protects: dict[str, str] = {}
    for pool, plan in round_.pool_plans.items():
        for each in round_.pool_runners[pool]:
            uid = each.pod.metadata.uid
            if uid in uids and not (each.is_terminating or each.pod.is_terminal or each.name in plan.deleted):
                runners[uid] = each.runner
    for key in models:
        if not members[key]:
            continue
        kept = _kept(members[key], round_.plan_of(key).deleted)
        for member in kept:
            uid = member.pod.metadata.uid
            if not member.pool or round_.keeps(member):
                runners[uid] = member.runner
            shown[uid][key.name].append(member)
        last, ends_in_seconds = last_ready(kept, fleet.nodes, fleet.limits, round_.now)
        round_.recheck(ends_in_seconds)
        if last is not None:
            protects[last.pod.metadata.uid] = key.name
    for uid, runner in runners.items():
        if uid not in gone:
            label_runner(round_.edits.of(runner), shown[uid], protects.get(uid))


def _to_look_at(round_: Round) -> tuple[list[ModelKey], set[str]]:
    """Return the models that are not settled with all they share runners with, and the runners of all these.

    Runners in which something happens, or that host nobody, are looked at too.
    """
    models = dict.fromkeys(round_.plans)
    uids = {uid for uid, sight in round_.sights.items() if not sight.is_calm}
    uids |= round_.edits.runners()
    keys = round_.fleet.limits.trusted_keys
    uids |= {
        uid
        for uid, runner in round_.runners.items()
        if runner.assignment is not None and runner.assignment.trusted_keys != keys and uid in round_.sights
    }
    todo = list(uids)
    todo += [member.pod.metadata.uid for key in models for member in round_.members[key]]
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
    return [key for key in round_.fleet.models if key in models], seen


def _kept(members: Iterable[Member], gone: set[str]) -> list[Member]:
    """Return the places that are not going in any way."""
    return [member for member in members if not member.is_terminating and member.name not in gone]
