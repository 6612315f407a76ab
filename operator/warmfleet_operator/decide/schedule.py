"""The fleet pass: give every wanted engine a place and every runner its assignment and labels. Pure, over one snapshot.

A runner has room for engines: one of a model's own for that model alone, one of a pool for as many as fit. So a start
is one of two things: a new runner that comes with the engine, or an engine more in a runner that is there.

Order: classes strictly, inside a class who came first (creation time, then uid); a pool's missing runner has the turn
of the first model that waits for it. The first start of each class that has no place now, but could have
one, *holds* the room nearest to fitting it, on a node or in a runner: later starts of the round go elsewhere, so
that small starts can't starve a large one. What never fits holds nothing.

Silence of a runner is read from `Runner.silent_seconds`: whoever counts those seconds runs the pass when a runner
falls silent.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from warmfleet_api import names
from warmfleet_api.assignment import Assignment
from warmfleet_api.vocabulary import EngineState, Reason
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide.actions import CreateRunner, Decisions, DeleteRunner, PatchRunner, Waiting
from warmfleet_operator.decide.assign import assignment_of, whole
from warmfleet_operator.decide.edits import Edits
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey, Owner, OwnerKey, Pool, PoolKey, Runner
from warmfleet_operator.decide.ledger import Ledger
from warmfleet_operator.decide.matching import zone_of
from warmfleet_operator.decide.placement import Need, NoPlace, Places, Spread, need_of, need_of_pool
from warmfleet_operator.decide.pools import MissingRunner, PoolPlan, PoolRunner, plan_pool, pool_runner_of
from warmfleet_operator.decide.protection import label_runner, last_ready
from warmfleet_operator.decide.replicas import ModelPlan, Start, is_outdated, plan_model
from warmfleet_operator.decide.rooms import Rooms
from warmfleet_operator.decide.runners import Member, by_owner, members_of, node_of, unscheduled_seconds
from warmfleet_operator.decide.start_budget import MINIMUM_SECONDS, fetch_budget_seconds, start_budget_seconds
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.decide.weights_places import Candidates, why_not_yet
from warmfleet_operator.decide.weights_stores import Stores
from warmfleet_operator.records import Pod

MAX_CREATES = 50
"""Runners created in one round: the next one follows at once, with what became of these in view."""
NEXT_ROUND_SECONDS = 0.1
HANDOVER_SECONDS = 3.0
"""Between the moment a pool's runner stops being served for a model and the order to end its engine: until every node
has heard of it, as the preStop hook does for a whole runner."""
_QUEUES = {Reason.WAITING_FOR_TURN, Reason.NO_FREE_MEMORY, Reason.NO_MATCHING_NODE}
"""Why a start waits for others to make room."""
_AFTER_ALL_CLASSES = (99, "", "")


@dataclass(frozen=True, slots=True)
class Made:
    """What a new runner is made with."""

    assignment: Assignment
    start_budget_seconds: int
    """How long its container may take to start, once its weights are in memory of its node."""
    weights: tuple[NeededEntry, ...] | None
    """What its engine reads. None: it needs no weight store. Empty: it is for any model and uses one that is there."""


@dataclass(slots=True)
class Round:
    """What one round knows and has found so far."""

    fleet: Fleet
    now: datetime
    edits: Edits
    pool_runners: Mapping[PoolKey, list[PoolRunner]]
    pool_plans: Mapping[PoolKey, PoolPlan]
    members: Mapping[ModelKey, list[Member]]
    plans: Mapping[ModelKey, ModelPlan]
    places: Places
    rooms: Rooms
    stores: Stores
    deletes: list[DeleteRunner] = field(default_factory=list)
    creates: list[CreateRunner] = field(default_factory=list)
    refused: dict[OwnerKey, NoPlace] = field(default_factory=dict)
    """Models and pools with a start that has no place, in the order of their turn."""
    taken_names: frozenset[tuple[str, str]] = frozenset()
    """Namespaces and names of strangers' pods."""
    told_ids: frozenset[tuple[str, str]] = frozenset()
    """Namespaces and ids of all engines that pools' runners tell of, those included that are only ending."""
    holding: set[int] = field(default_factory=set)
    """Ranks of the classes whose first waiting start holds room."""
    recheck_seconds: float | None = None

    def recheck(self, seconds: float | None) -> None:
        """Run again after this many seconds at latest."""
        if seconds is not None:
            self.recheck_seconds = seconds if self.recheck_seconds is None else min(self.recheck_seconds, seconds)


def schedule(fleet: Fleet, now: datetime) -> Decisions:
    """Decide one round."""
    # 1. See each runner with its node and status, and compare each pool's wish with its runners.
    runners = by_owner(fleet.runners)
    pool_runners = {
        key: [pool_runner_of(runner, pool, fleet.nodes, fleet.caches) for runner in runners.get(key, ())]
        for key, pool in fleet.pools.items()
    }
    pool_plans = {key: plan_pool(pool, pool_runners[key], fleet.limits, now) for key, pool in fleet.pools.items()}
    # 2. See the places each model has in runners, and compare its wish with them.
    members = _members(fleet, runners, pool_plans)
    plans = {key: plan_model(model, members[key], fleet.limits, now) for key, model in fleet.models.items()}
    # 3. Account for every pod, and for every engine in the pools: what goes keeps its room until it is gone.
    stores = Stores(fleet.caches)
    places = Places(fleet.nodes, Ledger(fleet.nodes, _pods_by_node(fleet)), stores)
    rooms = _rooms(fleet, stores, pool_runners, pool_plans)
    edits = Edits(fleet.models, fleet.limits)
    outcome = Round(fleet, now, edits, pool_runners, pool_plans, members, plans, places, rooms, stores)
    outcome.taken_names = frozenset((pod.metadata.namespace, pod.metadata.name) for pod in fleet.strangers)
    outcome.told_ids = frozenset(
        (key.namespace, engine.id)
        for key, group in pool_runners.items()
        for each in group
        for engine in (each.runner.status.engines if each.runner.status is not None else ())
    )
    # 4. Let go what the plans let go, and what nobody owns.
    _delete_orphans(outcome, runners)
    _let_go(outcome)
    # 5. Give the starts their places, in the order of their turn.
    _place_starts(outcome)
    # 6. Label what remains, and bring its assignments up to date.
    _label(outcome)
    _recheck_unscheduled(outcome)
    patches = sorted(edits.patches(), key=_protects_first)
    for key, why in edits.too_long.items():
        outcome.refused.setdefault(key, NoPlace(Reason.INVALID_ARGS, why))
    # 7. Protecting labels first: a runner that leaves is not the last one any more.
    return Decisions(
        actions=(*patches, *outcome.deletes, *outcome.creates),
        waiting=_waiting(outcome.refused),
        recheck_seconds=outcome.recheck_seconds,
    )


def turn(model: Model) -> tuple[int, str, str]:
    """Sort models by their turn: class, then who came first."""
    return model.spec.priority.rank, model.metadata.creation_timestamp, model.metadata.uid


def _members(
    fleet: Fleet, runners: Mapping[OwnerKey, list[Runner]], pool_plans: Mapping[PoolKey, PoolPlan]
) -> defaultdict[ModelKey, list[Member]]:
    """Return the places of all models, those that are gone included."""
    members: defaultdict[ModelKey, list[Member]] = defaultdict(list)
    for key, group in runners.items():
        plan = pool_plans.get(key) if isinstance(key, PoolKey) else None
        retiring = plan.retiring | plan.deleted if plan is not None else frozenset()
        for runner in group:
            for member in members_of(runner, fleet.nodes, retiring):
                members[member.model].append(member)
    return members


def _rooms(
    fleet: Fleet,
    stores: Stores,
    pool_runners: Mapping[PoolKey, list[PoolRunner]],
    pool_plans: Mapping[PoolKey, PoolPlan],
) -> Rooms:
    """Return the runners of pools in which engines may be started now."""
    rooms = Rooms(fleet.pools, stores)
    for key, group in pool_runners.items():
        plan = pool_plans[key]
        for each in group:
            node = fleet.nodes.get(each.node)
            leaves = each.is_cordoned or each.name in plan.retiring | plan.deleted
            if each.takes_engines and not leaves and node is not None and each.runner.assignment is not None:
                rooms.add(fleet.pools[key], each.runner, node, each.runner.assignment.engines)
    return rooms


def _pods_by_node(fleet: Fleet) -> Iterable[tuple[str, Pod]]:
    for runner in fleet.runners:
        yield node_of(runner.pod), runner.pod
    for pod in fleet.strangers:
        yield pod.spec.node_name, pod


def _delete_orphans(outcome: Round, runners: Mapping[OwnerKey, list[Runner]]) -> None:
    """Let runners and engines go whose model or pool is gone; the garbage collector removes runners too, only later."""
    fleet = outcome.fleet
    for key, orphans in runners.items():
        if key in fleet.models or key in fleet.pools or key in fleet.unreadable:
            continue
        kind = names.MODEL_DEPLOYMENT_KIND if isinstance(key, ModelKey) else names.WARM_POOL_KIND
        for runner in orphans:
            if runner.pod.metadata.deletion_timestamp is None:
                outcome.deletes.append(DeleteRunner(runner.pod, f"its {kind} {key} is gone"))
    for model, members in outcome.members.items():
        if model not in fleet.models and model not in fleet.unreadable:
            for member in members:
                if member.pool and _is_kept(outcome, member):
                    outcome.edits.of(member.runner).take_out(member.name, f"its ModelDeployment {model} is gone")


def _let_go(outcome: Round) -> None:
    """Carry out what the plans let go: runners are deleted, engines are taken out of their runners."""
    for pool_plan in outcome.pool_plans.values():
        outcome.deletes += [DeleteRunner(runner.pod, reason) for runner, reason in pool_plan.deletes]
    for plan in outcome.plans.values():
        for member, reason in plan.deletes:
            if not member.pool:
                outcome.deletes.append(DeleteRunner(member.pod, reason))
            elif _is_kept(outcome, member):
                _take_out(outcome, member, f"{member.name} goes: {reason}")


def _take_out(outcome: Round, member: Member, reason: str) -> None:
    """Take an engine out of its runner, once clients have heard that the model is not served there any more."""
    edit = outcome.edits.of(member.runner)
    gone = outcome.plans[member.model].deleted
    others = [each for each in outcome.members[member.model] if each.runner is member.runner and each.name not in gone]
    left = 0.0
    if member.is_ready and not any(each.is_ready for each in others):
        if member.serve_label == EngineState.READY:
            left = HANDOVER_SECONDS
        elif member.serve_label == EngineState.DRAINING:
            left = HANDOVER_SECONDS - member.runner.unserved_seconds.get(member.model.name, 0.0)
    if left > 0:
        edit.hand_over(member.model.name, reason)
        outcome.recheck(left)
    else:
        edit.take_out(member.name, reason)


def _is_kept(outcome: Round, member: Member) -> bool:
    """Whether the runner of a pool stays for now, so that its assignment and labels matter."""
    if member.is_terminating or member.pod.is_terminal:
        return False
    plan = outcome.pool_plans.get(PoolKey(member.model.namespace, member.pool))
    return plan is not None and member.pod.metadata.name not in plan.deleted


def _place_starts(outcome: Round) -> None:
    """Place start after start; the first of a class that has to wait holds the room it comes nearest to."""
    models = [outcome.fleet.models[key] for key, plan in outcome.plans.items() if plan.starts]
    turns: dict[OwnerKey, tuple[int, str, str]] = {model.key: turn(model) for model in models}
    for pool, plan in outcome.pool_plans.items():
        if plan.starts:
            waits = (turn(each) for each in models if pool.name in each.pools and pool.namespace == each.key.namespace)
            turns[pool] = min(waits, default=_AFTER_ALL_CLASSES)
    candidates = Candidates(outcome.fleet)
    # Of equal turns the pool's first: what waits for its runner is not placed before it anyway.
    for key in sorted(turns, key=lambda each: (turns[each], isinstance(each, ModelKey), str(each))):
        rank = turns[key][0]
        if isinstance(key, PoolKey):
            _create_for_pool(outcome, outcome.fleet.pools[key], rank)
        elif (unknown := why_not_yet(outcome.fleet.models[key], outcome.fleet, candidates)) is not None:
            outcome.refused[key] = unknown
        elif outcome.fleet.models[key].pools:
            _start_in_pool(outcome, outcome.fleet.models[key], rank)
        else:
            _create_for_model(outcome, outcome.fleet.models[key], rank)


def _create_for_model(outcome: Round, model: Model, rank: int) -> None:
    """Give a model runners of its own, each with its engine."""
    plan, present = outcome.plans[model.key], outcome.members[model.key]
    need = need_of(model.spec, outcome.stores.kinds_for(model.weights))
    assignment = assignment_of(model, 1, outcome.fleet.limits)
    made = Made(assignment, start_budget_seconds(model), model.weights or None)
    holder = f"{model.key} ({model.spec.priority}, waits for {need})"
    _create_runners(outcome, model.key, plan, present, need, made, rank, holder)


def _create_for_pool(outcome: Round, pool: Pool, rank: int) -> None:
    """Give a pool its missing runners, free ones."""
    need, plan, present = need_of_pool(pool.spec), outcome.pool_plans[pool.key], outcome.pool_runners[pool.key]
    made = Made(whole(1, (), outcome.fleet.limits.trusted_keys), MINIMUM_SECONDS, ())
    holder = f"a runner of pool {pool.key} (waits for {need})"
    _create_runners(outcome, pool.key, plan, present, need, made, rank, holder)


def _create_runners(  # noqa: PLR0917 - what differs between a model and a pool
    outcome: Round,
    owner: OwnerKey,
    plan: ModelPlan | PoolPlan,
    present: Iterable[Member | PoolRunner],
    need: Need,
    made: Made,
    rank: int,
    holder: str,
) -> None:
    """Give an owner's missing runners their nodes; `holder` names the one that waits, in words."""
    spread = _spread(outcome.fleet, plan.avoid, present)
    for start in plan.starts:
        place = outcome.places.find(need, spread, made.weights)
        if isinstance(place, NoPlace):
            outcome.refused[owner] = place
            if rank not in outcome.holding and outcome.places.hold(need, holder):
                outcome.holding.add(rank)
            return
        outcome.places.take(place, need, spread)
        _create(outcome, start, place, made)


def _start_in_pool(outcome: Round, model: Model, rank: int) -> None:
    """Start engines of a model in runners that are there."""
    plan, rooms = outcome.plans[model.key], outcome.rooms
    spread = _spread(outcome.fleet, plan.avoid, outcome.members[model.key])
    for wish in plan.starts:
        start = _with_unused_name(outcome, wish)
        room = rooms.find(start, spread)
        if isinstance(room, NoPlace):
            if not _swap(outcome, start, spread):
                outcome.refused[model.key] = room
                if rank not in outcome.holding and rooms.hold(start, f"{model.key} ({model.spec.priority})"):
                    outcome.holding.add(rank)
            return
        engine = rooms.take(room, start, spread)
        outcome.edits.of(room.runner).put(engine, f"{engine.id} starts: {start.reason}")


def _swap(outcome: Round, start: Start, spread: Spread) -> bool:
    """Let a start take the place of an engine of the former spec, where there is no room beside it; one at a time."""
    model = start.model
    members = [member for member in outcome.members[model.key] if member.is_alive]
    if any(not is_outdated(model, member) and not member.is_serving for member in members):
        return False
    for member in sorted(members, key=lambda each: (each.is_serving, each.age)):
        former = member.assigned
        if member.pool and former is not None and member.hash != model.hash:
            engine = outcome.rooms.swap(start, former, member.runner, spread)
            if engine is not None:
                edit = outcome.edits.of(member.runner)
                edit.take_out(former.id, f"{former.id} makes room for the changed spec")
                edit.put(engine, f"{engine.id} starts: {start.reason}")
                return True
    return False


def _with_unused_name(outcome: Round, start: Start) -> Start:
    """Return the start with an attempt that no engine bears, not even one that is only ending."""
    attempt = start.attempt
    while (start.model.key.namespace, runner_name(start.model.key.name, start.slot, attempt)) in outcome.told_ids:
        attempt += 1
    return replace(start, attempt=attempt)


def _create(outcome: Round, start: Start | MissingRunner, node: str, made: Made) -> None:
    """Create a runner, under a name that nobody bears."""
    owner: Owner = start.model if isinstance(start, Start) else start.pool
    if len(outcome.creates) >= MAX_CREATES:
        outcome.recheck(NEXT_ROUND_SECONDS)
        return
    namespace, name, attempt = owner.key.namespace, owner.key.name, start.attempt
    cache = outcome.fleet.caches.get(node)
    while (namespace, runner_name(name, start.slot, attempt)) in outcome.taken_names:
        attempt += 1
    outcome.creates.append(
        CreateRunner(
            owner=owner,
            slot=start.slot,
            attempt=attempt,
            node=node,
            assignment=made.assignment,
            start_budget_seconds=made.start_budget_seconds + fetch_budget_seconds(made.weights or (), cache),
            reason=start.reason,
            sees_weights=made.weights is not None and cache is not None,
        )
    )


def _spread(fleet: Fleet, avoid: Iterable[str], present: Iterable[Member | PoolRunner]) -> Spread:
    spread = Spread(avoid=frozenset(avoid))
    for each in present:
        if not each.is_terminating and each.node in fleet.nodes:
            spread.nodes[each.node] += 1
            spread.zones[zone_of(fleet.nodes[each.node])] += 1
    return spread


def _label(outcome: Round) -> None:
    """Let the labels of the runners that stay follow their engines, and their assignments follow the specs."""
    fleet = outcome.fleet
    runners: dict[str, Runner] = {}
    shown: defaultdict[str, dict[str, list[Member]]] = defaultdict(lambda: defaultdict(list))
    protects: dict[str, str] = {}
    for pool, plan in outcome.pool_plans.items():
        for each in outcome.pool_runners[pool]:
            if not (each.is_terminating or each.pod.is_terminal or each.name in plan.deleted):
                runners[each.pod.metadata.uid] = each.runner
    for key in fleet.models:
        kept = _kept(outcome.members[key], outcome.plans[key])
        for member in kept:
            if not member.pool or _is_kept(outcome, member):
                runners[member.pod.metadata.uid] = member.runner
            shown[member.pod.metadata.uid][key.name].append(member)
        last, ends_in_seconds = last_ready(kept, fleet.nodes, fleet.limits, outcome.now)
        outcome.recheck(ends_in_seconds)
        if last is not None:
            protects[last.pod.metadata.uid] = key.name
    for uid, runner in runners.items():
        label_runner(outcome.edits.of(runner), shown[uid], protects.get(uid))


def _kept(members: Iterable[Member], plan: ModelPlan) -> list[Member]:
    """Return the places that are not going in any way."""
    gone = plan.deleted
    return [member for member in members if not member.is_terminating and member.name not in gone]


def _protects_first(patch: PatchRunner) -> bool:
    return patch.labels.get(names.LABEL_PROTECTED) != "true"


def _recheck_unscheduled(outcome: Round) -> None:
    for runner in outcome.fleet.runners:
        waited = unscheduled_seconds(runner.pod, outcome.now)
        if waited is not None and runner.pod.metadata.deletion_timestamp is None:
            outcome.recheck(max(NEXT_ROUND_SECONDS, outcome.fleet.limits.unscheduled_seconds - waited))


def _waiting(refused: Mapping[OwnerKey, NoPlace]) -> dict[OwnerKey, Waiting]:
    """Number the models that wait; one that never fits, or whose weights are not known, is not in the queue."""
    queued = [key for key, refusal in refused.items() if isinstance(key, ModelKey) and refusal.reason in _QUEUES]
    position: dict[OwnerKey, int] = {key: number for number, key in enumerate(queued, start=1)}
    return {
        key: Waiting(
            key,
            position.get(key, 0),
            len(queued),
            refusal.reason,
            refusal.blocker,
            refusal.advice,
            refusal.is_of_weights,
        )
        for key, refusal in refused.items()
    }
