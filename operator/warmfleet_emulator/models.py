"""The models of the emulated fleet as the operator has them: parsed, with their weights and what their starts take.

The scheduler knows the times that the scenario declares, as it would after a start of each model on each type of node.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from warmfleet_api import quantity
from warmfleet_api.status import LastStart, StageStatus
from warmfleet_api.vocabulary import EngineType, Stage, StartType
from warmfleet_api.weights import entry_key
from warmfleet_emulator.nodes import Entry
from warmfleet_emulator.runners import DELIVERY_SECONDS, WARM_UP_SECONDS, Hosted
from warmfleet_emulator.scenario import ModelBlock, NodeBlock, Scenario, StartBlock, numbered
from warmfleet_kube.objects import Metadata
from warmfleet_operator.decide.estimates import Estimates
from warmfleet_operator.decide.fleet import Limits, Model, Pool
from warmfleet_operator.decide.parse import parse_model, parse_pool
from warmfleet_operator.decide.predict_learn import observe
from warmfleet_operator.records import ModelDeployment, WarmPool

NAMESPACE = "emulated"
REVISION = "emulated"
ROUTABLE_SECONDS = 0.3
"""From Ready until requests reach the engine: labels, endpoints."""
LIMITS = Limits(default_image="warmfleet-runtime:emulated")


@dataclass(slots=True)
class EmulatedModel:
    """A model, what a start of it takes, and its object."""

    name: str
    block: ModelBlock
    record: Model
    applied: float
    """When its object is made."""
    entries: tuple[Entry, ...] = ()

    @property
    def hosted(self) -> Hosted:
        """What a runner has to know of it."""
        return Hosted(self.block.start, self.record.spec.priority.rank, self.entries)

    def set_status(self, **fields: object) -> None:
        """Change fields of its status."""
        self.record = replace(self.record, status=self.record.status.model_copy(update=fields))


def models_of(scenario: Scenario, created: str) -> Iterator[EmulatedModel]:
    """Yield the models of a scenario; `created` is the time of their creation until the world changes it."""
    has_default_pool = any(pool.name == "default" for pool in scenario.pools)
    for block in scenario.models:
        for number, name in enumerate(numbered(block.name, block.count)):
            uri = block.spec.model.uri if block.count == 1 else f"{block.spec.model.uri}-{number}"
            entry = _entry(block, uri)
            spec = block.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
            spec["model"]["uri"] = uri
            weights = {"key": entry.key, "uri": uri, "revision": REVISION, "bytes": entry.bytes} if entry else None
            if weights and block.spec.model.revision:
                weights["requested"] = block.spec.model.revision
            made = ModelDeployment(
                metadata=Metadata(
                    name=name, namespace=NAMESPACE, uid=f"uid-{name}", generation=1, creation_timestamp=created
                ),
                spec=spec,
                status={"weights": [weights]} if weights else {},
            )
            record = parse_model(made, LIMITS, has_default_pool=has_default_pool)
            if isinstance(record, str):
                raise ValueError(f"models.{name}: {record}")
            applied = block.wanted_at_seconds + number * block.apart_seconds
            yield EmulatedModel(name, block, record, applied, (entry,) if entry else ())


def pools_of(scenario: Scenario, created: str) -> Iterator[Pool]:
    """Yield the pools of a scenario."""
    for block in scenario.pools:
        made = WarmPool(
            metadata=Metadata(
                name=block.name, namespace=NAMESPACE, uid=f"uid-pool-{block.name}", creation_timestamp=created
            ),
            spec=block.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
        )
        pool = parse_pool(made, LIMITS)
        if isinstance(pool, str):
            raise ValueError(f"pools.{block.name}: {pool}")
        yield pool


def _entry(block: ModelBlock, uri: str) -> Entry | None:
    """Return the weights of a model. One that loads nothing has an entry without bytes: every VLLM engine reads one."""
    if block.spec.engine.type is EngineType.SIMULATED:
        return None
    return Entry(entry_key(uri, REVISION), REVISION, quantity.to_bytes(block.start.bytes))


def estimates_of(models: Iterable[EmulatedModel], nodes: Mapping[str, NodeBlock]) -> Estimates:
    """Return what is known of starts: one of each type of each model on each type of node."""
    estimates = Estimates()
    for model in models:
        for type_, block in nodes.items():
            for start_type in StartType:
                ended = _declared(model.block.start, block, start_type)
                estimates = observe(estimates, model.record, type_, ended)
    return estimates


def declared_stages(start: StartBlock, node: NodeBlock, start_type: StartType) -> dict[Stage, float]:
    """Return the seconds of each stage of a start that shares nothing with others; its weights are in memory."""
    if start_type is StartType.HOT:
        own = {Stage.WEIGHTS_LOADED: start.wake_seconds}
    else:
        own = {
            Stage.ENGINE_FORKED: start.cpu_seconds / min(1.0, quantity.to_millicores(node.cpu) / 1000),
            Stage.WEIGHTS_LOADED: quantity.to_bytes(start.bytes) / quantity.to_bytes(node.load),
            Stage.CACHE_ALLOCATED: start.initialize_seconds,
        }
    ready = start.runner_seconds if start_type is StartType.COLD else DELIVERY_SECONDS
    return {
        Stage.RUNNER_READY: ready,
        **own,
        Stage.WARMED_UP: WARM_UP_SECONDS,
        Stage.ROUTABLE: ROUTABLE_SECONDS,
    }


def _declared(start: StartBlock, node: NodeBlock, start_type: StartType) -> LastStart:
    stages = [
        StageStatus(name=stage, milliseconds=round(seconds * 1000))
        for stage, seconds in declared_stages(start, node, start_type).items()
    ]
    return LastStart(
        start_type=start_type,
        result="Succeeded",
        duration_milliseconds=sum(each.milliseconds for each in stages),
        time="2026-01-01T00:00:00Z",
        node="emulated",
        stages=stages,
        summary="declared",
    )
