"""Compile caches in the plan of the weight stores: which there are, where each node gets them, and who sees them.

What a runner offers is taken by its own node; from there the nodes that run the same model on the same kind of machine,
or keep its weights, get it by the digest that the first one's NodeCache names. The key is computed here, from the
assignment and the node: a runner's word counts for its name only. Nobody waits for a compile cache.

Nothing is remembered between rounds: what exists stands in the NodeCaches, and so does what it is worth.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from warmfleet_api import artifacts, names
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.vocabulary import EntryState, Priority, Tier
from warmfleet_operator.build.template import image_of
from warmfleet_operator.decide.assign import assignment_of
from warmfleet_operator.decide.caches_uses import uses_per_day
from warmfleet_operator.decide.fleet import Fleet, Model, PoolKey, Runner
from warmfleet_operator.decide.runners import node_of
from warmfleet_operator.records import Pod

MOST_SAVED_SECONDS = 3600
"""A runner says how long it compiled; it is not believed beyond this."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """A compile cache in the outbox of a runner."""

    node: str
    uri: str
    seconds: int


@dataclass(slots=True)
class _Worth:
    """Who would start with a compile cache."""

    priority: Priority = Priority.LOW
    uses_per_day: int = 0


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where nodes get a compile cache from."""

    peers: Mapping[str, str]
    """Uri at an agent that has it → digest."""
    offer: _Offer | None
    """The one that is to be taken, while nobody has it."""
    saves_seconds: int


@dataclass(slots=True)
class Artifacts:
    """One round's compile caches.

    Args:
        agents: node → the pod of its agent.
        troubled: nodes whose agent does not work.
    """

    fleet: Fleet
    agents: Mapping[str, Pod]
    troubled: Container[str]
    now: datetime
    _holders: dict[str, dict[str, str]] = field(init=False)
    """Key → node that has it whole → digest."""
    _offers: dict[str, list[_Offer]] = field(init=False)
    """By key."""
    _former: dict[str, dict[str, WantedEntry]] = field(init=False)
    """Key → node → what it was told."""
    _worth: dict[str, _Worth] = field(init=False)
    """By key."""
    _of_models: dict[str, dict[str, list[str]]] = field(init=False)
    """UID of a model → device → keys."""
    _sources: dict[str, _Sources] = field(default_factory=dict)
    """By key, as they are asked for."""

    def __post_init__(self) -> None:
        self._holders, self._former = defaultdict(dict), defaultdict(dict)
        for node, cache in sorted(self.fleet.caches.items()):
            for key, seen in cache.seen.items():
                if seen.digest and artifacts.name_in(key):
                    self._holders[key][node] = seen.digest
            for entry in cache.spec.entries:
                if artifacts.name_in(entry.key):
                    self._former[entry.key][node] = entry
        self._offers = defaultdict(list)
        for runner in self.fleet.runners:
            for key, offer in self._offered(runner):
                self._offers[key].append(offer)
        self._worth, self._of_models = defaultdict(_Worth), {}
        if self._holders or self._offers:
            for model in self.fleet.models.values():
                self._add_model(model)

    def shown(self, runner: Runner) -> tuple[str, ...]:
        """Return the keys of what a runner's engines may begin with, as far as its node has it or gets it."""
        if not (self._holders or self._offers):
            return ()
        node = node_of(runner.pod)
        return tuple(sorted({key for key, _ in self._keys(runner) if self._source(key, node) is not None}))

    def of_model(self, model: Model, node: str) -> tuple[str, ...]:
        """Return the keys of what engines of a model may begin with on a node, as far as the node has it or gets it."""
        keys = self._of_models.get(model.metadata.uid, {}).get(self._device(node), ())
        return tuple(key for key in keys if self._source(key, node) is not None)

    def entry(self, key: str, node: str) -> WantedEntry | None:
        """Return what a node is told of a compile cache; None: it can't have it."""
        source = self._source(key, node)
        if source is None:
            return None
        uri, digest = source
        worth = self._worth.get(key, _Worth())
        return WantedEntry(
            key=key,
            uri=uri,
            tier=Tier.REMOTE,
            priority=worth.priority,
            uses_per_day=worth.uses_per_day,
            saves_seconds=self._sources_of(key).saves_seconds,
            digest=digest or None,
        )

    def is_wanted(self, key: str) -> bool:
        """Whether a model that is there would start with it."""
        return key in self._worth

    def overlay(self, keys: Iterable[str], node: str) -> Mapping[str, WantedEntry]:
        """Return what a node is told of those of the keys that are of compile caches."""
        found = {key: self.entry(key, node) for key in keys if artifacts.name_in(key)}
        return {key: entry for key, entry in found.items() if entry is not None}

    def _source(self, key: str, node: str) -> tuple[str, str] | None:
        """Return uri and digest; what a node was told before stays while it is true."""
        former = self._former.get(key, {}).get(node)
        if former is not None and node in self._holders.get(key, ()):
            return former.uri, former.digest or ""
        sources = self._sources_of(key)
        if former is not None and former.uri in sources.peers:
            return former.uri, sources.peers[former.uri]
        if sources.peers:
            return next(iter(sources.peers.items()))
        return (sources.offer.uri, "") if sources.offer is not None and sources.offer.node == node else None

    def _sources_of(self, key: str) -> _Sources:
        if key not in self._sources:
            former, offers = self._former.get(key, {}), self._offers.get(key, ())
            peers = {
                f"{artifacts.AGENT_SCHEME}://{_address(agent)}/{key}": digest
                for node, digest in self._holders.get(key, {}).items()
                if (agent := self.agents.get(node)) is not None and agent.status.pod_ip and node not in self.troubled
            }
            seconds = (*(each.saves_seconds for each in former.values()), *(offer.seconds for offer in offers))
            self._sources[key] = _Sources(peers, self._taken_offer(key), max(seconds, default=0))
        return self._sources[key]

    def _taken_offer(self, key: str) -> _Offer | None:
        """Return the offer that is to be taken: one that was begun with first, one that failed last."""

        def turn(offer: _Offer) -> tuple[bool, bool, str, str]:
            former = self._former.get(key, {}).get(offer.node)
            was_told = former is not None and former.uri == offer.uri
            seen = self.fleet.caches[offer.node].seen.get(key)
            has_failed = was_told and seen is not None and seen.state is EntryState.FAILED
            return has_failed, not was_told, offer.node, offer.uri

        return min(self._offers.get(key, ()), key=turn, default=None)

    def _offered(self, runner: Runner) -> Iterator[tuple[str, _Offer]]:
        if runner.status is None or not runner.status.offers:
            return
        metadata, node = runner.pod.metadata, node_of(runner.pod)
        milliseconds = {offer.name: offer.milliseconds for offer in runner.status.offers}
        for key, name in self._keys(runner):
            if name in milliseconds:
                uri = f"{artifacts.RUNNER_SCHEME}://{metadata.namespace}/{metadata.uid}/{name}"
                yield key, _Offer(node, uri, min(MOST_SAVED_SECONDS, -(-milliseconds[name] // 1000)))

    def _keys(self, runner: Runner) -> Iterator[tuple[str, str]]:
        """Yield keys and names of what the engines of a runner compile."""
        device = self._device(node_of(runner.pod))
        engines = runner.assignment.engines if runner.assignment is not None else ()
        if not device or runner.pod.is_terminal:
            return
        image = next((each.image for each in runner.pod.spec.containers if each.name == names.RUNNER_CONTAINER), "")
        for engine in engines:
            name = artifacts.cache_name(engine.engine)
            namespace = runner.pod.metadata.namespace
            yield artifacts.entry_key(name, namespace=namespace, image=image, device=device), name

    def _add_model(self, model: Model) -> None:
        if not model.weights or not model.knows_weights:
            return
        name = artifacts.cache_name(assignment_of(model, 1).engines[0].engine)
        namespace, default = model.key.namespace, self.fleet.limits.default_image
        pools = [pool for each in model.pools if (pool := self.fleet.pools.get(PoolKey(namespace, each))) is not None]
        own = (image_of(model.spec, default),) if not model.pools else ()
        images = {*own, *(pool.spec.image or default for pool in pools)}
        by_device: dict[str, list[str]] = {}
        for device in {cache.status.device for cache in self.fleet.caches.values()} - {""}:
            keys = [artifacts.entry_key(name, namespace=namespace, image=image, device=device) for image in images]
            by_device[device] = known = [key for key in keys if key in self._holders or key in self._offers]
            for key in known:
                worth = self._worth[key]
                worth.priority = min(worth.priority, model.spec.priority, key=lambda each: each.rank)
                worth.uses_per_day += uses_per_day(model, self.now)
        self._of_models[model.metadata.uid] = by_device

    def _device(self, node: str) -> str:
        cache = self.fleet.caches.get(node)
        return cache.status.device if cache is not None else ""


def _address(agent: Pod) -> str:
    """Return where an agent listens."""
    ip = agent.status.pod_ip
    return f"[{ip}]:{names.AGENT_PORT}" if ":" in ip else f"{ip}:{names.AGENT_PORT}"
