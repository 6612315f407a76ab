"""Where requests can go: the engines of each model, from pods as the mirror has them and from what answers show.

What the operator says in labels comes first. What requests meet comes second, and is quicker: a pod that takes no
connection, or breaks one before the first byte of an answer, is left out and probed; an engine that says it is in
another state than its label is left out for a moment. Both grow from 0.2 s to 5 s while it goes on.

Nothing here depends on the API server being there: what it said last stays until it says otherwise.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from warmfleet_api import assignment, names
from warmfleet_api.assignment import AssignmentError
from warmfleet_api.vocabulary import DesiredState, EngineState, WakePolicy
from warmfleet_http.origin import Origin
from warmfleet_router.breaker import Breaker
from warmfleet_router.catalog import ModelKey
from warmfleet_router.records import Pod

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
FRESH_SECONDS = 2.0
"""So long the load that an engine told with an answer is believed."""
LATENCY_WEIGHT = 0.2
"""Of the newest answer in the average."""

_READY = EngineState.READY.value
_ON_THE_WAY = frozenset({EngineState.DRAINING, EngineState.ASLEEP, EngineState.STARTING})
_KEPT_LOADS = 4096


class Address(NamedTuple):
    """Of a runner's API."""

    host: str
    port: int


@dataclass(slots=True)
class Pause:
    """How long something is left out, growing with each time it proves right."""

    until: float = 0.0
    times: int = 0

    def again(self, now: float) -> float:
        """Leave it out once more; return for how many seconds. What others met in the same pause is no more news."""
        if now < self.until:
            return self.until - now
        seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self.times, 10), LONGEST_PAUSE_SECONDS)
        self.times += 1
        self.until = now + seconds
        return seconds

    def over(self) -> None:
        """It proved wrong."""
        self.until, self.times = 0.0, 0


@dataclass(slots=True)
class Runner:
    """One pod, as far as all its engines share it."""

    uid: str
    namespace: str
    name: str
    address: Address
    is_leaving: bool = False
    is_lost: bool = False
    """It takes no connection, or breaks them; probes will tell."""
    origin: Origin = field(init=False)
    """Where connections to it go; those to a former pod at its address are others."""
    lines: tuple[bytes | None, bytes] | None = None
    """Headers of all requests to it, and the token among them."""

    def __post_init__(self) -> None:
        self.origin = Origin(self.address, self.uid)


class Waiting(Protocol):
    """Waits for the first byte of an answer."""

    def give_up(self, why: str) -> None:
        """None will come."""


class Load(NamedTuple):
    """What an engine's runner told of it with an answer."""

    running: int
    """Requests at the engine."""
    waiting: int
    """In its queue."""
    window: int
    """How many are sent to the engine at once."""
    queue: int
    """How many may wait."""

    @property
    def requests(self) -> int:
        """All that it has."""
        return self.running + self.waiting


@dataclass(slots=True, eq=False)
class Endpoint:
    """One engine of a model in one runner."""

    model: ModelKey
    runner: Runner
    state: str
    """Value of its label."""
    wakes: bool = False
    """Its runner wakes it by itself when a request comes."""
    hash: str = ""
    """Of the spec it was started from; empty: not known."""
    seed: int = 0
    """For hashing: the same in every router."""
    in_flight: int = 0
    """Requests of this router that are there."""
    used_at: float = 0.0
    latency_seconds: float | None = None
    """To the first byte, averaged over answers; None: none yet."""
    breaker: Breaker = field(default_factory=Breaker)
    pause: Pause = field(default_factory=Pause)
    waiting: set[Waiting] = field(default_factory=set)
    """This router's requests there that have no first byte yet."""
    _load: Load | None = None
    _load_at: float = 0.0
    _in_flight_then: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether it answers, by what the operator says."""
        return self.state == _READY and not self.runner.is_leaving

    @property
    def is_wakeable(self) -> bool:
        """Whether a request sent there wakes it: on the way to sleep and back its runner lets it wait as well."""
        return self.wakes and self.state in _ON_THE_WAY and not self.runner.is_leaving

    def is_usable(self, now: float) -> bool:
        """Whether a request may be sent, apart from its breaker."""
        return (self.is_ready or self.is_wakeable) and not self.runner.is_lost and now >= self.pause.until

    def load(self, now: float) -> Load | None:
        """Return what its runner told lately."""
        return self._load if self._load is not None and now - self._load_at < FRESH_SECONDS else None

    def requests(self, now: float) -> int:
        """Estimate how many requests it has: this router's own, and others' as it told lately."""
        load = self.load(now)
        others = max(0, load.requests - self._in_flight_then) if load else 0
        return self.in_flight + others

    def room(self, now: float, unknown: int) -> int:
        """Estimate how many more it takes without refusing; `unknown`: how many in all, where it has not told."""
        load = self.load(now)
        most = load.window + load.queue if load else unknown
        return most - self.requests(now)

    def told(self, load: Load, now: float) -> None:
        """Take over what came with an answer."""
        self._load, self._load_at, self._in_flight_then = load, now, self.in_flight

    def begin(self, now: float) -> None:
        """A request goes there."""
        self.in_flight += 1
        self.used_at = now
        self.breaker.begin()

    def answered(self, seconds: float) -> None:
        """A request got its first byte after so long."""
        self.pause.over()
        self.breaker.succeeded()
        known = self.latency_seconds
        self.latency_seconds = seconds if known is None else known + LATENCY_WEIGHT * (seconds - known)

    def end(self) -> None:
        """A request is there no more."""
        self.in_flight -= 1

    def gone(self, why: str) -> None:
        """No answer will come from there: requests without a first byte need not wait until their patience ends."""
        for each in list(self.waiting):
            each.give_up(why)


Changed = Callable[[ModelKey], None]


class Endpoints:
    """All endpoints by model. `changed` hears of each model whose endpoints did."""

    def __init__(self, changed: Changed, api_port: int = names.API_PORT) -> None:
        self._changed = changed
        self._port = api_port
        self._runners: dict[tuple[str, str], tuple[Runner, dict[ModelKey, Endpoint]]] = {}
        self._members: dict[ModelKey, dict[tuple[str, str], Endpoint]] = {}
        self._by_model: dict[ModelKey, tuple[Endpoint, ...]] = {}

    def of(self, model: ModelKey) -> tuple[Endpoint, ...]:
        """Return the endpoints of a model, whatever their state."""
        return self._by_model.get(model, ())

    def all(self) -> Iterator[Endpoint]:
        """Yield every endpoint."""
        for endpoints in self._by_model.values():
            yield from endpoints

    def runners(self) -> Iterator[Runner]:
        """Yield every runner."""
        return (runner for runner, _ in self._runners.values())

    def follow(self, pod: Pod) -> None:
        """Take over a pod that is new or changed."""
        place = pod.metadata.namespace, pod.metadata.name
        known = self._runners.get(place)
        address = Address(pod.status.pod_ip, self._port)
        is_over = pod.status.phase in {"Succeeded", "Failed"}
        if known is not None and (known[0].uid, known[0].address) != (pod.metadata.uid, address):
            self._drop(place)
            known = None
        if not pod.status.pod_ip or is_over:
            self._drop(place)
            return
        runner, endpoints = known or (Runner(pod.metadata.uid, *place, address), {})
        runner.is_leaving = pod.metadata.deletion_timestamp is not None
        self._runners[place] = runner, endpoints
        states = _states(pod)
        assigned = _assigned(pod)
        touched = set(endpoints) | set(states)
        for model in set(endpoints) - set(states):
            del endpoints[model], self._members[model][place]
        for model, state in states.items():
            endpoint = endpoints.get(model)
            if endpoint is None:
                endpoint = endpoints[model] = Endpoint(model, runner, state, seed=seed_of(runner.uid))
                self._members.setdefault(model, {})[place] = endpoint
            elif endpoint.state != state:
                # News from the operator: what requests met before counts no more.
                endpoint.state = state
                endpoint.pause.over()
                if state == names.SERVE_LOST:
                    endpoint.gone("its runner is lost")
            known_engine = assigned.get(model.name)
            endpoint.wakes = known_engine is not None and known_engine.wakes
            endpoint.hash = known_engine.hash if known_engine is not None else ""
        self._rebuild(touched)

    def forget(self, pod: Pod) -> None:
        """Take over that a pod is gone."""
        self._drop((pod.metadata.namespace, pod.metadata.name))

    def lost(self, runner: Runner) -> bool:
        """A runner can't be reached; return whether that is news."""
        was, runner.is_lost = runner.is_lost, True
        return not was

    def found(self, runner: Runner) -> None:
        """A lost runner answers a probe."""
        runner.is_lost = False
        for known, endpoints in self._runners.values():
            if known is runner:
                for model in endpoints:
                    self._changed(model)

    def is_current(self, runner: Runner) -> bool:
        """Whether a runner is still there."""
        known = self._runners.get((runner.namespace, runner.name))
        return known is not None and known[0] is runner

    def _drop(self, place: tuple[str, str]) -> None:
        known = self._runners.pop(place, None)
        if known is not None:
            for model in known[1]:
                del self._members[model][place]
            self._rebuild(known[1])
            for endpoint in known[1].values():
                endpoint.gone("its pod is gone")

    def _rebuild(self, models: Iterable[ModelKey]) -> None:
        for model in list(models):
            members = self._members.get(model)
            if members:
                self._by_model[model] = tuple(sorted(members.values(), key=lambda each: each.runner.uid))
            else:
                self._members.pop(model, None)
                self._by_model.pop(model, None)
            self._changed(model)


@functools.lru_cache(_KEPT_LOADS)
def read_load(value: bytes) -> Load | None:
    """Read the header X-Warmfleet-Load; None if it says nothing that can be used.

    It is `running=3;waiting=0;window=16;queue=256`; what else it may say one day is passed over.
    """
    found: dict[bytes, int] = {}
    for part in value.split(b";"):
        name, _, number = part.partition(b"=")
        if number.isdigit():
            found[name.strip()] = int(number)
    try:
        return Load(found[b"running"], found[b"waiting"], found[b"window"], found[b"queue"])
    except KeyError:
        return None


def _states(pod: Pod) -> Mapping[ModelKey, str]:
    prefix = names.SERVE_LABEL_PREFIX
    return {
        ModelKey(pod.metadata.namespace, name.removeprefix(prefix)): value
        for name, value in pod.metadata.labels.items()
        if name.startswith(prefix)
    }


class _Engine(NamedTuple):
    """What the assignment says of a model's engine there."""

    hash: str
    wakes: bool


def _assigned(pod: Pod) -> dict[str, _Engine]:
    """Return the engines there by model; of a model with engines of two specs nobody knows which one answers."""
    value = pod.metadata.annotations.get(names.ANNOTATION_ASSIGNMENT)
    if value is None:
        return {}
    try:
        told = assignment.decode(value)
    except AssignmentError:
        # Of a version this router does not know: it serves what is Ready, and asks the operator for the rest.
        return {}
    engines: dict[str, _Engine] = {}
    for each in told.engines:
        wakes = each.state is DesiredState.ASLEEP and each.wake is WakePolicy.ON_REQUEST
        former = engines.get(each.model)
        if former is None:
            engines[each.model] = _Engine(each.hash, wakes)
        else:
            engines[each.model] = _Engine(each.hash if each.hash == former.hash else "", wakes or former.wakes)
    return engines


def seed_of(uid: str) -> int:
    """Return 64 bits that stand for a runner."""
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest(), "big")
