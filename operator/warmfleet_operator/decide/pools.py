"""One pool's plan: which of its runners go, which are to be emptied first, and which are missing.

A pure comparison of what is wanted with what is there. The rules, for N runners wanted:

* A runner *stays* while it is alive, of the current hash, on a node that is not cordoned and its devices are healthy;
  else it is *leaving*.
  One that was made before its node had a weight store counts as of an old hash: a pod's volumes are fixed.
  Beyond N, those with the fewest engines leave too.
* A leaving runner that hosts nothing goes. One that hosts engines is *retired*: their models start them elsewhere and
  take them out once others serve, so that nobody loses its last Ready engine. On cordoned nodes, with unhealthy
  devices and beyond N all leave at once; those of an old hash one at a time, the one with the fewest engines, and only
  while N others take engines.
* A missing runner is created while at most N + 1 are alive: one more than wanted, so that a full pool can roll.
* A lost runner is replaced when what was lost with it serves again (`recovery.py`), and goes when N others take
  engines. At most 2 N + 1 runners exist beside those that are terminating, so that a flapping network can't fill the
  fleet.
* With 0 wanted all go at once, busy or not: that is what 0 says.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from operator import attrgetter

from warmfleet_api import names
from warmfleet_operator.decide.fleet import Limits, Pool, Runner
from warmfleet_operator.decide.plan import Plan
from warmfleet_operator.decide.runners import is_pod_ready, node_of, place_of, unscheduled_seconds, why_left, why_lost
from warmfleet_operator.records import Node, Pod

SURGE = 1


@dataclass(frozen=True, slots=True)
class PoolRunner:
    """A runner as its pool's plan sees it."""

    runner: Runner
    node: str
    slot: int
    attempt: int
    is_current: bool
    """Made from the pool's present spec, and with a view of its node's weight store if there is one."""
    leaves: str
    """Why it is to be left when others can take over, in words; empty: it is not."""
    lost: str
    """Why it no longer counts though its pod exists, in words; empty while it does."""
    pool: Pool
    """As it was when it was looked at."""
    has_store: bool
    """Whether its node has a weight store."""

    # What follows from these, told once: a pool is planned anew while any of its runners changes.
    pod: Pod = field(init=False, repr=False)
    name: str = field(init=False, repr=False)
    """Of its pod."""
    is_terminating: bool = field(init=False, repr=False)
    """Whether its deletion is under way."""
    is_alive: bool = field(init=False, repr=False)
    """Whether it takes engines or still may."""
    takes_engines: bool = field(init=False, repr=False)
    """Whether engines may be assigned to it: it is heard of, and does not drain."""
    engines: int = field(init=False, repr=False)
    """How many engines it hosts: told to, or still ending."""
    is_settled_in: bool = field(init=False, repr=False)
    """Whether its pod is the pool's, has its node and neither ends nor has ended: then it may be counted on."""
    keep_rank: tuple[object, ...] = field(init=False, repr=False)
    """Sorts the runners to keep first: those with the most engines, then those that take some, then the older."""

    def __post_init__(self) -> None:
        pod, status = self.runner.pod, self.runner.status
        is_terminating = pod.metadata.deletion_timestamp is not None
        is_alive = not (self.lost or is_terminating or pod.is_terminal)
        tell = partial(object.__setattr__, self)
        tell("pod", pod)
        tell("name", pod.metadata.name)
        tell("is_terminating", is_terminating)
        tell("is_alive", is_alive)
        is_told = is_alive and self.runner.assignment is not None
        tell("takes_engines", is_told and status is not None and not status.draining)
        tell("engines", _engines(self.runner))
        is_here = bool(pod.spec.node_name) and not is_terminating and not pod.is_terminal
        tell("is_settled_in", is_here and pod.metadata.controller_uid == self.pool.metadata.uid)
        age = pod.metadata.creation_timestamp
        tell("keep_rank", (-self.engines, not self.takes_engines, age, self.name))

    @property
    def is_ready(self) -> bool:
        """Whether an engine would start in it at once."""
        return self.takes_engines and is_pod_ready(self.pod)


def _engines(runner: Runner) -> int:
    told = {each.id for each in runner.status.engines} if runner.status is not None else set()
    if runner.assignment is None:
        # Damaged: the labels still say of which models there were engines.
        return max(len(told), sum(label.startswith(names.SERVE_LABEL_PREFIX) for label in runner.pod.metadata.labels))
    return len(told | {each.id for each in runner.assignment.engines})


@dataclass(frozen=True, slots=True)
class MissingRunner:
    """A runner that a pool wants and does not have."""

    pool: Pool
    slot: int
    attempt: int
    reason: str


@dataclass(slots=True)
class PoolPlan(Plan[PoolRunner, MissingRunner]):
    """What shall change for one pool."""

    retiring: set[str] = field(default_factory=set)
    """Names of runners that are to be emptied; no engine is started in them."""


def pool_runner_of(
    runner: Runner, pool: Pool, nodes: Mapping[str, Node], caches: Container[str] = frozenset()
) -> PoolRunner:
    """Read a runner's part from its pod, its node and its status; `caches` are the nodes with a weight store."""
    metadata = runner.pod.metadata
    node_name = node_of(runner.pod)
    node = nodes.get(node_name)
    slot, attempt = place_of(metadata.name)
    return PoolRunner(
        runner=runner,
        node=node_name,
        slot=slot,
        attempt=attempt,
        is_current=metadata.labels.get(names.LABEL_TEMPLATE_HASH) == pool.hash
        and (runner.pod.spec.sees_weights or node_name not in caches),
        leaves=why_left(runner.pod, node),
        lost=why_lost(runner, node_name, node),
        pool=pool,
        has_store=node_name in caches,
    )


def plan_pool(pool: Pool, runners: Sequence[PoolRunner], limits: Limits, now: datetime) -> PoolPlan:
    """Compare what the pool wants with its runners, all that carry its name, whatever their state."""
    plan = PoolPlan()
    own = _sort_out(plan, pool, runners, limits, now)
    wanted = pool.spec.replicas
    if wanted == 0:
        plan.delete(own, "replicas is 0")
        return plan

    alive = sorted((runner for runner in own if runner.is_alive), key=attrgetter("keep_rank"))
    staying = [runner for runner in alive if runner.is_current and not runner.leaves]
    excess, staying = staying[wanted:], staying[:wanted]
    old = [runner for runner in alive if not runner.is_current and not runner.leaves]
    left = [runner for runner in alive if runner.leaves]
    if pool.problem is not None:
        # Nothing can replace the runners of the old spec: they stay as many as are wanted.
        kept = wanted - len(staying)
        excess, old = [*excess, *old[kept:]], []

    _retire(plan, excess, f"{wanted} of {len(alive)} runners are wanted")
    for runner in left:
        _retire(plan, [runner], runner.leaves)
    _retire(plan, _next_to_roll(old, staying, wanted), "it is of an old spec")

    lost = [runner for runner in own if runner.lost]
    plan.avoid.update(runner.node for runner in lost)
    if sum(runner.takes_engines for runner in staying) >= wanted:
        for runner in lost:
            plan.delete([runner], f"replaced, as {runner.lost}")
        lost = []

    if pool.problem is None:
        remaining = len(alive) - sum(runner.is_alive for runner, _ in plan.deletes)
        room = min(wanted, 2 * wanted - len(lost)) + SURGE - remaining
        plan.starts = _starts(pool, runners, staying, min(wanted - len(staying), room))
    return plan


def _next_to_roll(old: Sequence[PoolRunner], staying: Sequence[PoolRunner], wanted: int) -> Sequence[PoolRunner]:
    """Return the runners of the old spec that leave now: useless ones, else one that can be spared."""
    useless = [runner for runner in old if not runner.takes_engines and not runner.engines]
    spare = sum(runner.takes_engines for runner in (*staying, *old)) - wanted
    return useless or (old[-1:] if spare > 0 else ())


def _retire(plan: PoolPlan, runners: Iterable[PoolRunner], reason: str) -> None:
    for runner in runners:
        if runner.engines:
            plan.retiring.add(runner.name)
        else:
            plan.delete([runner], reason)


def _sort_out(
    plan: PoolPlan, pool: Pool, runners: Sequence[PoolRunner], limits: Limits, now: datetime
) -> list[PoolRunner]:
    """Delete what can't take engines any more; return the others, terminating ones left out."""
    own = []
    for runner in runners:
        if runner.is_settled_in:
            own.append(runner)
            continue
        unscheduled = unscheduled_seconds(runner.pod, now)
        if runner.is_terminating:
            continue
        if runner.pod.metadata.controller_uid != pool.metadata.uid:
            plan.delete([runner], f"its WarmPool {pool.key} was deleted and made anew")
        elif runner.pod.is_terminal:
            plan.delete([runner], f"its pod ended: {runner.pod.status.reason or runner.pod.status.phase}")
            plan.avoid.add(runner.node)
        elif runner.lost and not runner.pod.spec.node_name:
            plan.delete([runner], f"not scheduled, and {runner.lost}")
        elif unscheduled is not None and unscheduled >= limits.unscheduled_seconds:
            scheduled = runner.pod.condition("PodScheduled")
            said = scheduled.message if scheduled is not None else ""
            plan.delete([runner], f"not scheduled on {runner.node} in {limits.unscheduled_seconds:.0f} s: {said}")
            plan.avoid.add(runner.node)
        else:
            own.append(runner)
    return own


def _starts(
    pool: Pool, runners: Sequence[PoolRunner], staying: Sequence[PoolRunner], count: int
) -> list[MissingRunner]:
    """Return the lowest slots that nobody staying holds; each attempt is above all that were seen."""
    held = {runner.slot for runner in staying}
    starts: list[MissingRunner] = []
    slot = 0
    while len(starts) < count:
        if slot not in held:
            attempt = 1 + max((runner.attempt for runner in runners if runner.slot == slot), default=0)
            reason = f"runner {slot + 1} of {pool.spec.replicas}"
            starts.append(MissingRunner(pool, slot, attempt, reason))
        slot += 1
    return starts
