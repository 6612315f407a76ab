"""A fleet whose zone is lost: the same for the cluster and for the emulator, and what came of it in both."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

from localcluster.audit import Request
from support.kubeapi import Object
from support.models import simulated
from support.pools import warm_pool
from support.storm import Wish, bookings, inversions, labels, started
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState, Priority
from warmfleet_emulator.outcome import Outcome
from warmfleet_emulator.scenario import Scenario

POOL = "fleet"
NONE = "None"
"""Of models without a standby."""
LOAD_SECONDS, INITIALIZE_SECONDS, WAKE_SECONDS, SLEEP_SECONDS = 2.0, 1.0, 0.5, 0.2
STANDBYS = ("Hot", "Warm", "Cold", NONE)
_SETTLE_SECONDS = 300.0
"""How long the emulated fleet has before its loss."""
_AFTER_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Member:
    """A model of the fleet."""

    name: str
    priority: Priority
    standby: str
    """Hot, Warm, Cold or `NONE`."""

    @property
    def spec(self) -> dict[str, Any]:
        """What its spec has beside a Simulated engine."""
        fields: dict[str, Any] = {"priority": self.priority.value, "idle": {"policy": "Keep"}, "pools": [POOL]}
        if self.standby != NONE:
            fields["standby"] = {"mode": self.standby, "topologyKey": names.NODE_LABEL_ZONE}
        return fields


@dataclass(frozen=True, slots=True)
class Zoned:
    """A fleet over some zones, with one runner of `gpus` GPUs on each node."""

    models: int
    nodes: int
    zones: int
    gpus: int

    def members(self, seed: int = 1) -> list[Member]:
        """Return the models: classes and standbys have nothing to do with each other."""
        classes = list(Priority)
        found = [
            Member(f"m-{number}", classes[number % len(classes)], STANDBYS[number // len(classes) % len(STANDBYS)])
            for number in range(self.models)
        ]
        Random(seed).shuffle(found)
        return found

    @property
    def pool_spec(self) -> dict[str, Any]:
        """The WarmPool's spec."""
        return {"replicas": self.nodes, "gpus": self.gpus, "cpu": "1", "memory": "64Gi", "maxEngines": 4 * self.gpus}

    def objects(self) -> tuple[Object, list[Object]]:
        """Return the pool and the models, as they are applied."""
        milliseconds = round(LOAD_SECONDS * 1000)
        models = [simulated(each.name, gpus=1, load_milliseconds=milliseconds, **each.spec) for each in self.members()]
        for model in models:
            model["spec"]["engine"]["simulated"] |= {
                "initializeMilliseconds": round(INITIALIZE_SECONDS * 1000),
                "wakeMilliseconds": round(WAKE_SECONDS * 1000),
                "sleepMilliseconds": round(SLEEP_SECONDS * 1000),
            }
        return warm_pool(POOL, **self.pool_spec), models

    def scenario(self) -> Scenario:
        """Return the same fleet for the emulator, which loses zone-a."""
        resources = {"gpus": 1, "cpu": "10m", "memory": "512Mi"}
        start = {
            "cpuSeconds": 0,
            "initializeSeconds": LOAD_SECONDS + INITIALIZE_SECONDS,
            "wakeSeconds": WAKE_SECONDS,
            "sleepSeconds": SLEEP_SECONDS,
            "asleepMemory": "0",
        }
        nodes = [
            {
                "name": f"n-{zone}",
                "count": (self.nodes + self.zones - 1 - number) // self.zones,
                "gpus": self.gpus,
                "cpu": "64",
                "zone": zone,
            }
            for number, zone in enumerate(self.zone_names())
        ]
        return Scenario.model_validate(
            {
                "name": "a lost zone",
                "untilSeconds": _SETTLE_SECONDS + _AFTER_SECONDS,
                "nodes": nodes,
                "pools": [{"name": POOL, "spec": self.pool_spec}],
                "models": [
                    {
                        "name": each.name,
                        "spec": {"engine": {"type": "Simulated"}, "resources": resources} | each.spec,
                        "start": start,
                    }
                    for each in self.members()
                ],
                "losses": [{"atSeconds": _SETTLE_SECONDS, "zone": self.zone_names()[0]}],
            }
        )

    def zone_names(self) -> list[str]:
        """Names of the zones; the first one is lost."""
        return [f"zone-{chr(ord('a') + number)}" for number in range(self.zones)]


@dataclass(frozen=True, slots=True)
class Recovery:
    """A model that served in the lost zone, and is Ready again elsewhere."""

    member: Member
    placed_seconds: float
    """From the loss until an engine elsewhere was told to serve it."""
    ready_seconds: float


def recoveries_of(outcome: Outcome, members: Iterable[Member]) -> list[Recovery]:
    """Return what came of the emulated loss."""
    known = {each.name: each for each in members}
    return [
        Recovery(known[start.model], start.assigned - start.wanted, start.seconds)
        for start in outcome.starts
        if start.wanted >= _SETTLE_SECONDS
    ]


def recoveries_in(
    requests: Sequence[Request], namespace: str, lost_at: datetime, members: Iterable[Member], lost: Collection[str]
) -> list[Recovery]:
    """Return what came of the loss in a cluster, by the API server's audit log.

    Args:
        members: models that served in the zone.
        lost: names of its runners.
    """
    placed = started([each for each in bookings(requests, namespace) if each.runner not in lost])
    ready: dict[str, datetime] = {}
    for each in labels(requests, namespace):
        if each.state == EngineState.READY and each.runner not in lost:
            ready.setdefault(each.model, each.time)
    return [
        Recovery(
            each,
            (placed[each.name] - lost_at).total_seconds(),
            (ready[each.name] - lost_at).total_seconds(),
        )
        for each in members
        if each.name in placed and each.name in ready
    ]


def overtaken(
    requests: Sequence[Request], namespace: str, members: Iterable[Member], lost: Collection[str]
) -> list[str]:
    """Say which models with a standby were given a place before one of a higher class that has one too.

    Counted from the moment in which the operator said of the higher one that its runner is lost: it can't know sooner.
    """
    history = [each for each in bookings(requests, namespace) if each.runner not in lost]
    known: dict[str, datetime] = {}
    for each in labels(requests, namespace):
        if each.state == names.SERVE_LOST:
            known.setdefault(each.model, each.time)
    there = list(members)
    wishes = {
        each.name: Wish(each.priority, known[each.name])
        for each in there
        if each.standby != NONE and each.name in known
    }
    return inversions(history, wishes, {each.name: each.priority for each in there})
