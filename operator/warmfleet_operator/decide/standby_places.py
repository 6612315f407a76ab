"""Where standbys are: one round's search, after every start that serves has its place.

A standby takes what is left over and asks nobody to give way; whoever serves takes it back (`give_way.py`). It is never
where its model's replicas would be lost with it, nor on a node that was lost lately: a flapping node has no standby to
flap. Where it was before it stays while it can, as the status says: so the weights that are brought there stay too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from warmfleet_api.standby import Standby
from warmfleet_api.vocabulary import EngineState, StartType, Tier
from warmfleet_operator.decide import sleep
from warmfleet_operator.decide.actions import Promotion, StandingBy
from warmfleet_operator.decide.assign import MAX_WIRE_BYTES
from warmfleet_operator.decide.fleet import Model
from warmfleet_operator.decide.needs import need_of
from warmfleet_operator.decide.placing import Wanted, create
from warmfleet_operator.decide.pool_starts import with_unused_name
from warmfleet_operator.decide.predict_stages import node_type, phases
from warmfleet_operator.decide.replicas import Start, keep_rank, stays
from warmfleet_operator.decide.room import Room
from warmfleet_operator.decide.rooms import engine_need
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.sleep import is_dormant
from warmfleet_operator.decide.standby import STEADY_SECONDS, Standing, domain_of, holds_places, standing
from warmfleet_operator.decide.turns import LAST

_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class _Search:
    """One model's standby, and where it may be."""

    round_: Round
    model: Model
    now: Standing
    taken: frozenset[str]
    """Domains of the replicas."""
    shaky: frozenset[str]
    """Nodes that were lost lately."""

    @property
    def key(self) -> str:
        """The label that tells domains apart."""
        return self.standby.topology_key

    @property
    def standby(self) -> Standby:
        """The block of the spec."""
        assert self.model.spec.standby is not None
        return self.model.spec.standby

    def domain(self, node: str) -> str:
        """Return what is lost together with a node."""
        return domain_of(self.round_.fleet.nodes.get(node), self.standby)

    def may_be_on(self, node: str) -> bool:
        """Whether a standby may be there, room left aside."""
        domain = self.domain(node)
        return bool(domain) and domain not in self.taken and node not in self.shaky

    def order(self, node: str) -> tuple[object, ...]:
        """Sort nodes: where it was before, then by how near the weights are."""
        model, status = self.model, self.model.status.standby
        distance = self.round_.stores.distance(node, model.weights) if model.weights else ()
        return status is None or node not in status.nodes, distance

    def has_weights(self, node: str) -> bool:
        """Whether all it reads is in memory there."""
        model = self.model
        return not model.weights or self.round_.stores.fetched_from(node, model.weights) is Tier.MEMORY


def place_standbys(round_: Round) -> None:
    """Find every standby its place, in the order of class and age, and say what is missing."""
    wanting = round_.carried.models.with_standby.values()
    if not wanting:
        return
    shaky = frozenset(
        sight.node
        for uid, sight in round_.sights.items()
        if round_.runners[uid].returned_seconds is not None or any(member.lost for member in sight.members)
    )
    for wish in sorted(wanting, key=_line):
        model = wish.stable or wish
        if model.spec.replicas and not is_dormant(model):
            round_.standbys[model.key] = _place(round_, model, shaky)


def _line(model: Model) -> tuple[int, str, str]:
    """Sort models by class and age."""
    return model.spec.priority.rank, model.metadata.creation_timestamp, str(model.key)


def promotions_of(round_: Round) -> Iterator[Promotion]:
    """Yield the promotions that this round carries out."""
    for key, why in round_.promotions.items():
        placed = next((each for each in round_.placed if each.model == key), None)
        if placed is not None:
            where = f"in {placed.runner} on {placed.node}" if placed.runner else f"on {placed.node}"
            yield Promotion(key, f"{why}; its standby takes over {where} by a {placed.start_type} start")


def _place(round_: Round, model: Model, shaky: frozenset[str]) -> StandingBy:
    staying = sorted(
        (each for each in round_.members[model.key] if each.is_alive and stays(model, each)),
        key=lambda each: keep_rank(model, each),
    )
    now = standing(model, staying, round_.fleet.nodes)
    standby = model.spec.standby
    assert standby is not None
    taken = frozenset(domain_of(round_.fleet.nodes.get(each.node), standby) for each in now.replicas)
    search = _Search(round_, model, now, taken, shaky)
    serving = sum(each.is_serving for each in now.replicas)
    if serving < model.spec.replicas:
        nodes = tuple(each.node for each in now.standbys)
        words = f"{serving} of {model.spec.replicas} replicas serve; a standby is made when all do"
        return StandingBy(nodes, _ready(search), words)
    if holds_places(model):
        return _held(search)
    return _in_pools(search) if model.pools else _on_nodes(search)


def _ready(search: _Search) -> int:
    """Return how many of the places that are held could take over now."""
    if search.standby.mode is StartType.HOT:
        return sum(each.engine is not None and each.engine.state is EngineState.ASLEEP for each in search.now.standbys)
    return sum(each.runner.status is not None and search.has_weights(each.node) for each in search.now.standbys)


def _held(search: _Search) -> StandingBy:
    """Make the places in runners that are missing."""
    round_, model, found = search.round_, search.model, search.now.standbys
    nodes, missing = [each.node for each in found], ""
    for wish in round_.plan_of(model.key).standbys:
        made = _start_in_pool(search, wish) if model.pools else _create(search, wish)
        if isinstance(made, Place):
            nodes.append(made.node)
        else:
            missing = missing or made
    ready = _ready(search)
    if not missing and ready < search.standby.replicas:
        missing = "; ".join(_why_not_ready(search, each) for each in found) or f"it starts on {', '.join(nodes)}"
    return StandingBy(tuple(nodes), ready, "" if ready >= search.standby.replicas else missing)


def _why_not_ready(search: _Search, member: Member) -> str:
    engine = member.engine
    if engine is not None and engine.error is not None:
        return f"on {member.node} it fails: {engine.error.reason}: {engine.error.message}"
    if search.standby.mode is StartType.WARM and member.runner.status is not None:
        return f"its weights are brought into memory of {member.node}"
    return f"it starts on {member.node}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a standby is made."""

    node: str


def _start_in_pool(search: _Search, wish: Start) -> Place | str:
    """Start an engine that is to sleep at once."""
    round_, model = search.round_, search.model
    rooms = [each for each in _free_rooms(search, wish, is_now=True) if not each.loads]
    if not rooms:
        return _why_no_room(search, wish)
    room = min(rooms, key=lambda each: (*search.order(each.node_name), len(each.engines), each.name))
    node = room.node_name
    fetch = round_.fetch(node, model)
    needed = phases(round_.fleet.estimates, model, StartType.WARM, node_type(room.node))
    busy = round_.links.busy(node, needed, fetch)
    if busy is not None:
        round_.recheck(busy.seconds)
        return f"it starts on {node} when what loads there is done: {busy.why}"
    engine = sleep.on_request(round_.rooms.take(room, with_unused_name(round_, wish), round_.spread_of((), ())))
    room.engines[engine.id] = engine
    round_.edits.of(room.runner).put(engine, f"{engine.id} starts to sleep: {wish.reason}")
    round_.links.add(node, needed, fetch)
    return Place(node)


def _create(search: _Search, wish: Start) -> Place | str:
    """Create a runner of the model's own."""
    round_, model = search.round_, search.model
    need = need_of(model.spec, round_.stores.kinds_for(model.weights))
    able = round_.places.able(need)
    nodes = [each for each in able if search.may_be_on(each) and round_.ledger.fits(each, need.amounts)]
    if not nodes:
        return _why_no_node(search, able) or f"no node elsewhere has {need} free; add one, or lower what others take"
    node = min(nodes, key=lambda each: (*search.order(each), each))
    wanted = Wanted(model, need, model.weights or None, LAST.rank, LAST.rank)
    if not create(round_, wanted, wish, node):
        return f"it starts on {node} next"
    round_.ledger.take(node, need.amounts)
    return Place(node)


def _in_pools(search: _Search) -> StandingBy:
    """Keep room in runners of pools, or for Cold only remember which nodes they are on."""
    round_, model = search.round_, search.model
    wish = Start(model, model.spec.replicas, 1, f"stands by for {model.key.name}")
    former = model.status.standby.nodes if model.status.standby is not None else ()
    # Where it was before comes first, so as long as that suits nobody looks at all the others.
    chosen = _best_rooms(search, wish, former) if former else []
    if len(chosen) < search.standby.replicas:
        chosen = _best_rooms(search, wish)
    if search.standby.mode is StartType.WARM:
        for room in chosen:
            round_.rooms.claim(room, wish, f"the standby of {model.key}")
    nodes = tuple(each.node_name for each in chosen)
    missing = "" if len(nodes) == search.standby.replicas else _why_no_room(search, wish)
    return _counted(search, nodes, missing)


def _best_rooms(search: _Search, wish: Start, nodes: Sequence[str] | None = None) -> list[Room]:
    """Return the best runners for a model's standbys, each on another node; `nodes`: on these alone."""
    is_warm = search.standby.mode is StartType.WARM
    rooms = _free_rooms(search, wish, is_now=False, nodes=nodes) if is_warm else _rooms(search, wish, nodes)
    best: dict[str, Room] = {}
    for room in sorted(rooms, key=lambda each: (*search.order(each.node_name), len(each.engines), each.name)):
        best.setdefault(room.node_name, room)
    return list(best.values())[: search.standby.replicas]


def _on_nodes(search: _Search) -> StandingBy:
    """Remember where a runner of the model's own would come."""
    round_, model = search.round_, search.model
    need = need_of(model.spec, round_.stores.kinds_for(model.weights))
    able = round_.places.able(need)
    nodes = sorted((each for each in able if search.may_be_on(each)), key=lambda each: (*search.order(each), each))
    chosen = tuple(nodes[: search.standby.replicas])
    missing = "" if len(chosen) == search.standby.replicas else _why_no_node(search, able)
    return _counted(search, chosen, missing or f"only {len(chosen)} nodes elsewhere take it")


def _counted(search: _Search, nodes: tuple[str, ...], missing: str) -> StandingBy:
    wanted = search.standby.replicas
    if search.standby.mode is StartType.COLD:
        return StandingBy(nodes, len(nodes), missing if len(nodes) < wanted else "")
    there = [each for each in nodes if search.has_weights(each)]
    if not missing and len(there) < wanted:
        missing = f"its weights are brought into memory of {', '.join(each for each in nodes if each not in there)}"
    return StandingBy(nodes, len(there), missing if len(there) < wanted else "")


def _rooms(search: _Search, wish: Start, nodes: Sequence[str] | None = None) -> Iterator[Room]:
    """Yield the runners of its pools where it may be, however full; `nodes`: on these alone."""
    need = engine_need(wish, search.round_.rooms.stores)
    for room in search.round_.rooms.able(wish, nodes):
        if search.may_be_on(room.node_name) and room.wire_bytes + need.wire_bytes <= MAX_WIRE_BYTES:
            yield room


def _free_rooms(search: _Search, wish: Start, *, is_now: bool, nodes: Sequence[str] | None = None) -> Iterator[Room]:
    rooms = search.round_.rooms
    need = engine_need(wish, rooms.stores)
    for room in _rooms(search, wish, nodes):
        fits_later, fits_now = rooms.fitting(room, need)
        if fits_now if is_now else fits_later:
            yield room


def _why_no_room(search: _Search, wish: Start) -> str:
    round_, model = search.round_, search.model
    able = [each.node_name for each in round_.rooms.suited(wish)]
    why = _why_no_node(search, able)
    if why:
        return why
    pool = model.pools[0]
    need = engine_need(wish, round_.rooms.stores)
    return (
        f"no runner of pool {' or '.join(model.pools)} on another {search.key} has {need} free; raise its replicas: "
        f"kubectl -n {model.key.namespace} scale wp/{pool} --replicas=N"
    )


def _why_no_node(search: _Search, able: Sequence[str]) -> str:
    """Say why none of these nodes, which suit otherwise, may have the standby; empty: one may."""
    nodes: Mapping[str, str] = {each: search.domain(each) for each in able}
    key, taken = search.key, _listed(sorted(search.taken))
    if not able:
        return "no node that is up suits it now"
    if not any(nodes.values()):
        return (
            f"no node that suits has the label {key}, so nobody knows which are lost together; give them one: "
            f"kubectl label node {able[0]} {key}=VALUE, or correct standby.topologyKey"
        )
    elsewhere = [each for each, domain in nodes.items() if domain and domain not in search.taken]
    if not elsewhere:
        return (
            f"all nodes that suit are where the replicas are ({key} {taken}); add nodes or runners elsewhere, or "
            "choose another standby.topologyKey"
        )
    if all(each in search.shaky for each in elsewhere):
        return (
            f"{_listed(sorted(set(elsewhere)))} was lost less than {STEADY_SECONDS:.0f} s ago; a standby comes there "
            "when it has stayed for so long"
        )
    return ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
