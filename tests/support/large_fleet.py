"""A large fleet that is full: nodes of 8 GPUs, runners of pools and of models, sleeping engines, starts that wait.

Half of the nodes have a pool's runner of 8 GPUs each, with 8 engines awake and 4 asleep beside them; the other half
have a runner of a model's own per GPU. `scaled(1)` are 500 nodes with 5,000 engines and 1,000 waiting starts. Objects
are made once per shape, the way production makes them, and copied with other names: that takes a second where 8,000
parsed specs take a minute.
"""

import random
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import msgspec

from support import make, make_weights
from warmfleet_api import assignment as wire
from warmfleet_api import names
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import DesiredState, EngineState, Tier, WakePolicy
from warmfleet_operator.decide.assign import pooled_engine, whole
from warmfleet_operator.decide.fleet import Cache, Demand, Fleet, Model, ModelKey, Pool, Runner
from warmfleet_operator.decide.times import format_time
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.records import Node

NODES = 500
WAITING = 1000
GPUS_OF_A_NODE = 8
ASLEEP_IN_A_RUNNER = 4
NODES_OF_A_POOL = 50
FREE_PLACES = 60
"""Engines that are missing somewhere, so that a round has something to give away."""
BASES = 400
"""Different models on earth; the ModelDeployments serve one of them each."""
KEPT_ON_A_NODE = 24
"""Models whose weights are in memory of a node."""
CLASSES = (("Critical", 1), ("High", 9), ("Normal", 60), ("Low", 30))
SIZES = ((1, 60), (2, 20), (4, 12), (8, 8))
"""GPUs of a waiting start, and how many of a hundred have so many."""
_IDLE_SHARE = 0.1
Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Large:
    """Parts of the fleet, from which each round's snapshot is made."""

    fleet: Fleet
    """Every place taken."""
    engines: int
    waiting: int


def scaled(factor: int, seed: int = 1) -> Large:
    """Return the fleet, `factor` times as large."""
    chance = random.Random(seed)
    makers = _Makers(chance)
    count = NODES * factor
    nodes = [_node(number) for number in range(count)]
    caches = {node.metadata.name: makers.cache(node.metadata.name) for node in nodes}
    pools: list[Pool] = []
    models: list[Model] = []
    runners: list[Runner] = []
    pooled, owned = nodes[: count // 2], nodes[count // 2 :]
    for number, node in enumerate(pooled):
        if number % NODES_OF_A_POOL == 0:
            pools.append(_pool(f"pool-{len(pools)}", min(NODES_OF_A_POOL, len(pooled) - number)))
        hosted = [
            makers.model(f"p{number}-{each}", pools[-1].key.name, is_asleep=each >= GPUS_OF_A_NODE)
            for each in range(GPUS_OF_A_NODE + ASLEEP_IN_A_RUNNER)
        ]
        models += hosted
        runners.append(makers.pool_runner(pools[-1], number % NODES_OF_A_POOL, node, hosted))
    for number, node in enumerate(owned):
        own = [makers.model(f"o{number}-{each}", "") for each in range(GPUS_OF_A_NODE)]
        models += own
        runners += [makers.own_runner(model, node) for model in own]
    engines = len(models)
    for number in range(WAITING * factor):
        pool = pools[number % len(pools)].key.name if number % 2 else ""
        models.append(makers.waiting(f"w{number}", pool))
    return Large(
        Fleet(
            models={model.key: model for model in models},
            nodes={node.metadata.name: node for node in nodes},
            pools={pool.key: pool for pool in pools},
            runners=tuple(runners),
            caches=caches,
            demand={model.key: Demand(held=3, queued=3) for model in models[engines:]},
            limits=make.LIMITS,
        ),
        engines,
        WAITING * factor,
    )


def varied(large: Large, factor: int, chance: random.Random) -> Fleet:
    """Return the fleet as another round would see it: other engines are missing, others are idle."""
    fleet = large.fleet
    runners: list[Runner | None] = list(fleet.runners)
    models = dict(fleet.models)
    for index in chance.sample(range(len(runners)), FREE_PLACES * factor):
        runners[index], gone = _without_engine(fleet.runners[index], chance)
        del models[ModelKey("default", gone)]
    kept = [runner for runner in runners if runner is not None]
    for index in chance.sample(range(len(kept)), len(kept) // 20):
        kept[index] = _worked(kept[index], chance)
    return replace(fleet, models=models, runners=tuple(kept))


class _Makers:
    """Makers that copy one object of each shape."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._models: dict[tuple[str, str, int, bool], Model] = {}
        self._runners: dict[bool, Runner] = {}
        self._entries = [
            NeededEntry(
                uri=f"hf://org/base-{number}",
                revision=make_weights.REVISION,
                bytes=chance.randint(1, 60) * make.GIB,
            )
            for number in range(BASES)
        ]

    def cache(self, node: str) -> Cache:
        """The weight store of a node with some models in memory."""
        there = self._chance.sample(self._entries, KEPT_ON_A_NODE)
        return make_weights.cache(
            node,
            *(make_weights.seen(each.key, Tier.MEMORY, revision=each.revision, bytes=each.bytes) for each in there),
            memory_bytes=1024 * make.GIB,
        )

    def model(self, name: str, pool: str, *, gpus: int = 1, is_asleep: bool = False) -> Model:
        """A model of a random class that reads one of the bases."""
        priority = self._of(CLASSES)
        shape = (priority, pool, gpus, is_asleep)
        if shape not in self._models:
            dormant = {"time": make.ago(900), "reason": "no request for 300 s"}
            self._models[shape] = make_weights.model(
                priority=priority,
                gpus=gpus,
                resources={"gpus": gpus, "gpuMemory": "60Gi", "cpu": "4", "memory": "16Gi"},
                coldStart={"deadlineSeconds": 30},
                status={"dormant": dormant} if is_asleep else None,
                pools=[pool] if pool else [],
            )
        return self._named(self._models[shape], name)

    def waiting(self, name: str, pool: str) -> Model:
        """A model that wants a start, and has for up to ten minutes."""
        made = self.model(name, pool, gpus=self._of(SIZES))
        pending = {
            "position": 1,
            "of": 1,
            "startType": "Warm" if pool else "Cold",
            "stage": "Queued",
            "queuedTime": make.ago(self._chance.uniform(1, 600)),
            "summary": "waits",
        }
        status = type(made.status).model_validate({"pendingStart": pending})
        return replace(made, status=status)

    def own_runner(self, model: Model, node: Node) -> Runner:
        """A runner of a model's own, serving."""
        if True not in self._runners:
            self._runners[True] = make.serving(make.runner(model, node.metadata.name, age_seconds=900))
        assigned = pooled_engine(model, 0, 1, range(model.spec.gpus))
        return self._copy(self._runners[True], model, node, [assigned], 0)

    def pool_runner(self, pool: Pool, slot: int, node: Node, hosted: list[Model]) -> Runner:
        """A runner of a pool that hosts models, the first ones awake."""
        if False not in self._runners:
            self._runners[False] = make.up(
                make.pool_runner(pool, node.metadata.name, age_seconds=900, sees_weights=True)
            )
        engines = []
        for index, model in enumerate(hosted):
            engine = pooled_engine(model, 0, 1, [index % GPUS_OF_A_NODE])
            if index >= GPUS_OF_A_NODE:
                engine = msgspec.structs.replace(
                    engine, state=DesiredState.ASLEEP, wake=WakePolicy.ON_ASSIGNMENT, asleep_bytes=make.GIB
                )
            engines.append(engine)
        return self._copy(self._runners[False], pool, node, engines, slot)

    def _copy(
        self, made: Runner, owner: Model | Pool, node: Node, engines: list[wire.EngineAssignment], slot: int
    ) -> Runner:
        name = owner.key.name
        pod_name = f"{name}-{slot}-1"
        uid = f"uid-{pod_name}"
        states = {
            each.id: EngineState.ASLEEP if each.state is DesiredState.ASLEEP else EngineState.READY for each in engines
        }
        references = tuple(
            msgspec.structs.replace(each, name=name, uid=owner.metadata.uid)
            for each in made.pod.metadata.owner_references
        )
        labels = {
            key: value
            for key, value in made.pod.metadata.labels.items()
            if not key.startswith(names.SERVE_LABEL_PREFIX)
        } | {names.serve_label(each.model): states[each.id].value for each in engines}
        labels |= {
            names.LABEL_OWNER: name,
            names.LABEL_SLOT: str(slot),
            names.LABEL_TEMPLATE_HASH: owner.hash,
            names.LABEL_SCALE_OF: owner.metadata.uid,
            names.LABEL_PROTECTED: "true",
        }
        metadata = msgspec.structs.replace(
            made.pod.metadata, name=pod_name, uid=uid, labels=labels, owner_references=references, annotations={}
        )
        spec = msgspec.structs.replace(made.pod.spec, node_name=node.metadata.name)
        assignment = whole(7, engines, ())
        told = tuple(
            EngineStatus(
                id=each.id,
                model=each.model,
                model_uid=each.model_uid,
                hash=each.hash,
                state=states[each.id],
                starts=1,
                awake_memory_bytes=each.awake_bytes,
                asleep_memory_bytes=make.GIB,
            )
            for each in engines
        )
        runner = Runner(
            pod=msgspec.structs.replace(made.pod, metadata=metadata, spec=spec),
            assignment=assignment,
            status=RunnerStatus(pod_uid=uid, revision=assignment.revision, engines=told),
            silent_seconds=0.2,
        )
        return _worked(runner, self._chance)

    def _named(self, model: Model, name: str) -> Model:
        age = timedelta(seconds=self._chance.uniform(600, 6000))
        metadata = msgspec.structs.replace(
            model.metadata, name=name, uid=f"uid-{name}", creation_timestamp=format_time(make.NOW - age)
        )
        key = model.key._replace(name=name)
        return replace(model, key=key, metadata=metadata, weights=(self._chance.choice(self._entries),))

    def _of(self, shares: tuple[tuple[Choice, int], ...]) -> Choice:
        return self._chance.choices([each for each, _ in shares], [share for _, share in shares])[0]


def _node(number: int) -> Node:
    return make.node(
        f"n{number:05}",
        gpus=GPUS_OF_A_NODE,
        cpu="128",
        memory="2048Gi",
        gpu_memory_mib=80 * 1024,
        zone=f"zone-{number % 3}",
    )


def _pool(name: str, replicas: int) -> Pool:
    return make.pool(
        name, replicas=replicas, gpus=GPUS_OF_A_NODE, cpu="64", memory="1024Gi", maxEngines=16, age_seconds=9000
    )


def _worked(runner: Runner, chance: random.Random) -> Runner:
    """Return the runner with other engines of it idle, and for other times."""
    told = runner.status.engines if runner.status is not None else ()
    ready = [each.id for each in told if each.state is EngineState.READY]
    return replace(
        runner,
        awake_seconds={id_: chance.uniform(5, 3600) for id_ in ready},
        idle_seconds={id_: chance.uniform(0, 600) for id_ in ready if chance.random() < _IDLE_SHARE},
    )


def _without_engine(runner: Runner, chance: random.Random) -> tuple[Runner | None, str]:
    """Return the runner without one of its awake engines, and that one's model; an own runner is gone with it."""
    assert runner.assignment is not None
    assert runner.status is not None
    engines, told = runner.assignment.engines, runner.status.engines
    if len(engines) == 1:
        return None, engines[0].model
    gone = engines[chance.randrange(GPUS_OF_A_NODE)]
    labels = {key: value for key, value in runner.pod.metadata.labels.items() if key != names.serve_label(gone.model)}
    metadata = msgspec.structs.replace(runner.pod.metadata, labels=labels)
    left = replace(
        runner,
        pod=msgspec.structs.replace(runner.pod, metadata=metadata),
        assignment=msgspec.structs.replace(
            runner.assignment, engines=tuple(each for each in engines if each is not gone)
        ),
        status=msgspec.structs.replace(runner.status, engines=tuple(each for each in told if each.id != gone.id)),
        awake_seconds={id_: seconds for id_, seconds in runner.awake_seconds.items() if id_ != gone.id},
        idle_seconds={id_: seconds for id_, seconds in runner.idle_seconds.items() if id_ != gone.id},
    )
    return left, gone.model
