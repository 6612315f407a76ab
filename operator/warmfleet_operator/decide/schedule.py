"""The fleet pass: give every wanted engine a place and every runner its assignment and labels. Pure, over one snapshot.

A runner has room for engines: one of a model's own for that model alone, one of a pool for as many as fit. So a start
is one of three things: an engine that is woken where it sleeps, an engine more in a runner that is there, or a new
runner that comes with the engine.

Read `turns.py` for who comes first, `placing.py` for what a start may take, `give_way.py` for who makes room for it,
`sleep.py` for who sleeps. Nothing is remembered from one round to the next but what never changes: a model whose
runners are calm and that needed nothing is *settled* until something of it changes.

Silence of a runner is read from `Runner.silent_seconds`: whoever counts those seconds runs the pass when a runner
falls silent.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import accumulate

from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState, Reason, StartType
from warmfleet_operator.decide import sleep
from warmfleet_operator.decide.actions import Decisions, DeleteRunner, Waiting
from warmfleet_operator.decide.assign import assignment_of
from warmfleet_operator.decide.canary import variant
from warmfleet_operator.decide.carried import Runners, carry
from warmfleet_operator.decide.claims import claims_of
from warmfleet_operator.decide.edits import Edits
from warmfleet_operator.decide.fleet import Fleet, ModelKey, OwnerKey, PoolKey
from warmfleet_operator.decide.fragmentation import fragmentation
from warmfleet_operator.decide.give_way import Rules
from warmfleet_operator.decide.labels import label_runners, settle
from warmfleet_operator.decide.ledger import Ledger, requests_once
from warmfleet_operator.decide.links import Fetch, Links
from warmfleet_operator.decide.placement import NoPlace, Places
from warmfleet_operator.decide.placing import MAX_CREATES, NEXT_ROUND_SECONDS, place_starts
from warmfleet_operator.decide.predict import Placed, forecast
from warmfleet_operator.decide.predict_progress import Coming, coming
from warmfleet_operator.decide.replicas import plan_model
from warmfleet_operator.decide.room import END_SECONDS
from warmfleet_operator.decide.rooms import Rooms
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.runners import Member, unscheduled_seconds
from warmfleet_operator.decide.standby import is_reserve
from warmfleet_operator.decide.standby_places import place_standbys, promotions_of
from warmfleet_operator.decide.unreachable import unreachable
from warmfleet_operator.decide.weights_stores import Stores

__all__ = ["HANDOVER_SECONDS", "MAX_CREATES", "schedule"]

HANDOVER_SECONDS = 3.0
"""Between the moment a pool's runner stops being served for a model and the order to end its engine: until every node
has heard of it, as the preStop hook does for a whole runner."""
_QUEUES = {Reason.WAITING_FOR_TURN, Reason.NO_FREE_MEMORY, Reason.NO_MATCHING_NODE, Reason.FLOORS_HELD}
"""Why a start waits for others to make room."""


def schedule(fleet: Fleet, now: datetime) -> Decisions:
    """Decide one round."""
    # 1. See each runner with its node and status, and compare what models and pools wish with what is there.
    # 2. Account for every pod and engine: what goes keeps its room until it is gone.
    round_ = _begin(fleet, now)
    # 3. Let go what the plans let go, and what nobody owns; let dormant models sleep.
    _delete_orphans(round_)
    _let_go(round_)
    _let_sleep(round_)
    # 4. Give the starts their places, in the order of their turn: links and cores, others that give way included. What
    #    only stands by takes what they leave.
    round_.links = _links(round_)
    place_starts(round_)
    place_standbys(round_)
    # 5. Label what remains, and bring its assignments up to date.
    label_runners(round_)
    _recheck_unscheduled(round_)
    patches = round_.edits.patches()
    for key, why in round_.edits.too_long.items():
        round_.refused.setdefault(key, NoPlace(Reason.INVALID_ARGS, why))
    settle(round_, patches)
    # 6. Say of all that waits for what, and of all that starts until when.
    waiting = _waiting(fleet, round_.refused)
    homes = {room.name: room.node_name for room in round_.rooms.by_runner.values()}
    under_way = {key: round_.members[key] for key in round_.plans if key in round_.members}
    return Decisions(
        actions=(*patches, *round_.deletes, *round_.creates),
        waiting=waiting,
        yields=round_.yields,
        preemptions=tuple(round_.preemptions),
        standbys=round_.standbys,
        promotions=tuple(promotions_of(round_)),
        forecasts=forecast(fleet, under_way, waiting, round_.placed, homes, now),
        fragmentation=fragmentation(round_, _without_room(round_)),
        recheck_seconds=round_.recheck_seconds,
    )


def _begin(fleet: Fleet, now: datetime) -> Round:
    """Return the round before anything is decided."""
    carried = carry(fleet, now)
    members, live = carried.members, Runners(carried.records)
    plans = {}
    for key in carried.models.in_order(carried.models.unsettled):
        model = fleet.models[key]
        if key in members:
            plans[key] = plan_model(model, members[key], fleet.limits, now, fleet.caches, nodes=fleet.nodes)
        else:
            carried.models.sort_out(model)
    base, come = carried.base, carried.restless
    ledger = Ledger.over(base.capacity, base.free)
    ledger.count((record.node, record.runner.pod) for record in come if not record.stays)
    ledger.count((pod.spec.node_name, pod) for pod in base.ending)
    looked_at = {record.uid for record in come}
    heard = (record.node for record in carried.records.values() if record.uid not in looked_at)
    out_of_reach = unreachable((record.runner for record in come), heard, fleet.nodes)
    stores = Stores(fleet.caches)
    rooms = Rooms(fleet.pools, stores)
    for pool_key, part in carried.pools.items():
        leaves = part.plan.retiring | part.plan.deleted
        for record, each in zip(part.records, part.runners, strict=True):
            node = fleet.nodes.get(each.node)
            if each.takes_engines and not each.leaves and each.name not in leaves and node is not None:
                rooms.add(carried.room_in(record, fleet.pools[pool_key], node))
    return Round(
        fleet=fleet,
        now=now,
        edits=Edits(fleet.models, fleet.limits),
        carried=carried,
        runners=live,
        sights=carried.sights,
        pool_runners={key: part.runners for key, part in carried.pools.items()},
        pool_plans={key: part.plan for key, part in carried.pools.items()},
        members=members,
        plans=plans,
        newcomers=carried.models.newcomers,
        ledger=ledger,
        places=Places(carried.suited_by(stores.by_node, out_of_reach), ledger, stores),
        rooms=rooms,
        stores=stores,
        links=Links(fleet.nodes),
        claims=claims_of(record.runner for record in come),
        rules=Rules(fleet, members, live),
        taken_names=base.stranger_names,
        promotions={key: plan.promotes for key, plan in plans.items() if plan.promotes},
        told_ids=frozenset(
            (record.owner.namespace, engine.id)
            for record in come
            if isinstance(record.owner, PoolKey) and record.owner in fleet.pools
            for engine in (record.status.engines if record.status is not None else ())
        ),
    )


def _delete_orphans(round_: Round) -> None:
    """Let runners and engines go whose model or pool is gone; the garbage collector removes runners too, only later."""
    carried, fleet = round_.carried, round_.fleet
    homeless = [key for key in carried.homeless if key not in fleet.unreadable]
    strays = [key for key in carried.strays if key not in fleet.unreadable]
    if not homeless and not strays:
        return
    left = [record for record in carried.records.values() if record.owner in {*homeless, *strays}]
    for record in sorted(left, key=lambda each: each.index):
        if record.runner.pod.metadata.deletion_timestamp is None:
            kind = names.WARM_POOL_KIND if record.is_pooled else names.MODEL_DEPLOYMENT_KIND
            round_.deletes.append(DeleteRunner(record.runner.pod, f"its {kind} {record.owner} is gone"))
    for model in sorted(homeless):
        for member in round_.members[model]:
            if member.pool and round_.keeps(member):
                _remove(round_, member, f"its ModelDeployment {model} is gone")


def _let_go(round_: Round) -> None:
    """Carry out what the plans let go: runners are deleted, engines are taken out of their runners."""
    for pool_plan in round_.pool_plans.values():
        round_.deletes += [DeleteRunner(runner.pod, reason) for runner, reason in pool_plan.deletes]
    for plan in round_.plans.values():
        for member, reason in plan.deletes:
            if not member.pool:
                round_.deletes.append(DeleteRunner(member.pod, reason))
            elif round_.keeps(member):
                _take_out(round_, member, f"{member.name} goes: {reason}")
    for delete in round_.deletes:
        sight = round_.sights.get(delete.pod.metadata.uid)
        if sight is not None and delete.pod.metadata.deletion_timestamp is None and not delete.pod.is_terminal:
            round_.ledger.release(sight.node, requests_once(delete.pod))


def _take_out(round_: Round, member: Member, reason: str) -> None:
    """Take an engine out of its runner, once clients have heard that the model is not served there any more."""
    uid, gone = member.pod.metadata.uid, round_.plan_of(member.model).deleted
    others = [each for each in round_.members[member.model] if each.pod.metadata.uid == uid and each.name not in gone]
    left = 0.0
    if member.is_ready and not any(each.is_ready for each in others):
        if member.serve_label == EngineState.READY:
            left = HANDOVER_SECONDS
        elif member.serve_label == EngineState.DRAINING:
            left = HANDOVER_SECONDS - round_.runners[uid].unserved_seconds.get(member.model.name, 0.0)
    if left > 0:
        round_.edits.of(member.runner).hand_over(member.model.name, reason)
        round_.recheck(left)
    else:
        _remove(round_, member, reason)


def _remove(round_: Round, member: Member, reason: str) -> None:
    """Take an engine out of its runner; its room is free when the runner tells of it no more."""
    round_.edits.of(member.runner).take_out(member.name, reason)
    room = round_.rooms.by_runner.get(member.pod.metadata.uid)
    if room is not None and member.name in room.engines:
        room.take_out(member.name)
        room.coming, room.coming_seconds = room.coming or f"{member.name} ends", END_SECONDS


def _let_sleep(round_: Round) -> None:
    """Let the engines of dormant models sleep, and wake those of others whose memory nobody else has."""
    for key, plan in round_.plans.items():
        for member in plan.sleepers:
            engine = member.assigned
            if engine is not None and not member.is_told_to_sleep and not member.is_terminating:
                round_.edits.of(member.runner).put(sleep.on_request(engine), f"{engine.id} sleeps: {key} is dormant")
        woken = [each for each in plan.wakes if each.wakes_on_request or not each.pool] if plan.wakes else ()
        for member in woken:
            if member.assigned is not None:
                engine, how, start_type = sleep.awake(member.assigned), "wakes", StartType.HOT
            elif is_reserve(member) and (model := variant(round_.fleet.models[key], member.hash)).knows_weights:
                (engine,), how, start_type = assignment_of(model, 1).engines, "starts", StartType.WARM
            else:
                continue
            round_.edits.of(member.runner).put(engine, f"{engine.id} {how}")
            round_.placed.append(Placed(key, start_type, member.node, member.pod.metadata.name))
            round_.rules.woken.add((key, member.name))
            plan.wakes.remove(member)


def _links(round_: Round) -> Links:
    """Return the starts that are under way on each node."""
    unsettled = {key: round_.members[key] for key in round_.plans if key in round_.members}

    def under_way() -> Iterator[tuple[Coming, Fetch]]:
        for each in coming(round_.fleet, unsettled, round_.now):
            if each.start_type is not StartType.HOT and each.member.name not in round_.plans[each.model.key].deleted:
                yield each, round_.fetch(each.member.node, each.model)

    return Links(round_.fleet.nodes, under_way())


def _recheck_unscheduled(round_: Round) -> None:
    for record in round_.carried.restless:
        pod = record.runner.pod
        waited = unscheduled_seconds(pod, round_.now) if not pod.spec.node_name else None
        if waited is not None and pod.metadata.deletion_timestamp is None:
            round_.recheck(max(NEXT_ROUND_SECONDS, round_.fleet.limits.unscheduled_seconds - waited))


def _waiting(fleet: Fleet, refused: Mapping[OwnerKey, NoPlace]) -> dict[OwnerKey, Waiting]:
    """Number the models that wait; one that never fits, or whose weights are not known, is not in the queue."""
    are_queued = [isinstance(key, ModelKey) and refusal.reason in _QUEUES for key, refusal in refused.items()]
    count, positions = sum(are_queued), accumulate(map(int, are_queued))
    return {
        key: Waiting(
            key,
            position if is_queued else 0,
            count,
            refusal.reason,
            refusal.blocker,
            refusal.advice,
            refusal.is_of_weights,
            refusal.start_type or _start_type(fleet, key),
            refusal.place,
            refusal.available_seconds,
        )
        for (key, refusal), is_queued, position in zip(refused.items(), are_queued, positions, strict=True)
    }


def _without_room(round_: Round) -> Iterator[ModelKey]:
    """Yield the models whose start waits for room, and is promised none."""
    for key, refusal in round_.refused.items():
        if isinstance(key, ModelKey) and refusal.reason in _QUEUES and not refusal.place:
            yield key


def _start_type(fleet: Fleet, key: OwnerKey) -> StartType:
    """Return how a start goes that wakes nobody."""
    return StartType.WARM if isinstance(key, ModelKey) and fleet.models[key].pools else StartType.COLD
