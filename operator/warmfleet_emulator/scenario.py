"""A fleet to simulate, as a person writes it in YAML: nodes, pools, models, and what clients will want of them.

`spec` of a pool and of a model are those of the objects in the cluster, with the same fields, defaults and checks.
"""

from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from warmfleet_api import quantity
from warmfleet_api.fields import MAX_GPUS, LabelValue, Quantity
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.rules import Block
from warmfleet_api.vocabulary import EngineType, Tier
from warmfleet_api.warm_pool import WarmPoolSpec

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
Seconds = Annotated[float, Field(ge=0, le=1_000_000)]
Count = Annotated[int, Field(ge=1, le=10_000)]


class NodeBlock(Block):
    """Nodes that are alike."""

    name: Name
    """Of one; several are numbered: n-0, n-1, …"""
    count: Count = 1
    gpus: Annotated[int, Field(ge=0, le=MAX_GPUS)] = 0
    gpu_memory: Quantity = "80Gi"
    """Of each GPU."""
    cpu: Quantity = "32"
    memory: Quantity = "512Gi"
    zone: LabelValue = ""
    cache_memory: Quantity = "256Gi"
    """How much the weight store keeps in memory."""
    remote: Quantity = "1Gi"
    """Bytes per second that come from afar into memory, all fetches together."""
    disk: Quantity = "2Gi"
    """Bytes per second from disk into memory."""
    load: Quantity = "20Gi"
    """Bytes per second from memory into GPUs, all engines of the node together."""


class PoolBlock(Block):
    """A WarmPool whose runners are up from the beginning."""

    name: Name
    spec: WarmPoolSpec
    runner_seconds: Seconds = 3.0
    """Until a runner that replaces a lost one takes engines."""


class StartBlock(Block):
    """What a start of the model takes, on its own."""

    bytes: Quantity = "0"
    """Weights that are loaded."""
    tier: Tier = Tier.MEMORY
    """Where they are at the beginning: Memory, Disk or Remote."""
    nodes: Annotated[list[str], Field(max_length=1000)] = []
    """The nodes that have them there. Default: all."""
    cpu_seconds: Seconds = 1.0
    """Of one core, before the weights are loaded: imports, configuration, processes."""
    initialize_seconds: Seconds = 0.0
    """After them, without any shared resource: graphs, caches, warm-up."""
    runner_seconds: Seconds = 3.0
    """Until a new runner's pod takes engines: scheduling, image, zygote."""
    wake_seconds: Seconds = 1.0
    sleep_seconds: Seconds = 0.5
    asleep_memory: Quantity = "1Gi"
    """What the sleeping engine still holds."""


class RequestsBlock(Block):
    """Requests at equal distances."""

    every_seconds: Annotated[float, Field(gt=0, le=1_000_000)]
    from_seconds: Seconds = 0.0
    until_seconds: Seconds
    serve_seconds: Seconds = 1.0
    """How long an engine works on one."""


class ModelBlock(Block):
    """Models that are alike."""

    name: Name
    """Of one; several are numbered: m-0, m-1, …"""
    count: Count = 1
    spec: ModelDeploymentSpec
    start: StartBlock = StartBlock()
    wanted_at_seconds: Seconds = 0.0
    """When the model is applied."""
    apart_seconds: Seconds = 0.0
    """How much later each of several is applied than the one before."""
    serve_seconds: Seconds = 0.0
    """How long clients keep it busy, once it is Ready."""
    requests: RequestsBlock | None = None
    """With requests the model sleeps until the first one; without, it is wanted as soon as it is applied."""


class LossBlock(Block):
    """Nodes that lose their power at one moment, and never get it back."""

    at_seconds: Seconds
    zone: LabelValue = ""
    """All nodes of it."""
    nodes: Annotated[list[str], Field(max_length=1000)] = []
    """These nodes too."""


class TraceBlock(Block):
    """How the requests of a trace, which name no models, become requests for these models.

    Popularity is by Zipf, in the order of the models. In each window of time only a few models have requests, as one
    would see it of many models with few users each.
    """

    file: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = ""
    """Path beside this file, or the name of a trace that ships with Warmfleet; `--trace` overrules it."""
    window_seconds: Annotated[float, Field(gt=0, le=1_000_000)] = 60.0
    active_models: Count = 3
    popularity: Annotated[float, Field(ge=0, le=10)] = 0.9
    """Exponent of the Zipf distribution; 0: all alike."""
    seed: int = 1
    prompt_tokens_per_second: Annotated[float, Field(gt=0)] = 8000.0
    answer_tokens_per_second: Annotated[float, Field(gt=0)] = 60.0


class Known(Block):
    """What is known of such a fleet from elsewhere, to print beside the figures."""

    serial_seconds: Seconds
    contended_seconds: Seconds


class Scenario(Block):
    """A fleet and what will happen to it."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "fleet"
    until_seconds: Annotated[float, Field(gt=0, le=1_000_000)] = 3600.0
    """The simulation ends here at the latest."""
    nodes: Annotated[list[NodeBlock], Field(min_length=1, max_length=1000)]
    pools: Annotated[list[PoolBlock], Field(max_length=100)] = []
    models: Annotated[list[ModelBlock], Field(min_length=1, max_length=1000)]
    losses: Annotated[list[LossBlock], Field(max_length=100)] = []
    trace: TraceBlock | None = None
    known: Known | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """Let a model leave out its uri: what is simulated loads nothing from there."""
        if isinstance(data, dict) and isinstance(data.get("models"), list):
            data = {**data, "models": [_with_uri(each) for each in data["models"]]}
        return data

    @model_validator(mode="after")
    def _names_meet(self: Self) -> Self:
        for kind, names in (("pools", [each.name for each in self.pools]), ("models", self.model_names())):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{kind}: the name {twice} stands there twice; give each its own")
        pools = {each.name for each in self.pools}
        nodes = set(self.node_names())
        if len(nodes) < sum(each.count for each in self.nodes):
            raise ValueError("nodes: two have the same name; give each its own")
        for index, model in enumerate(self.models):
            missing = [name for name in model.spec.pools if name not in pools]
            if missing:
                raise ValueError(
                    f"models.{index}.spec.pools: there is no pool {missing[0]}; add it to pools, or remove it"
                )
            unknown = [name for name in model.start.nodes if name not in nodes]
            if unknown:
                raise ValueError(f"models.{index}.start.nodes: there is no node {unknown[0]}; there are {_some(nodes)}")
            if model.spec.engine.type is EngineType.SIMULATED and quantity.to_bytes(model.start.bytes):
                raise ValueError(
                    f"models.{index}.start.bytes: a Simulated engine loads no weights; write engine.type: VLLM"
                )
        return self

    @model_validator(mode="after")
    def _losses_are_of_nodes(self: Self) -> Self:
        nodes, zones = set(self.node_names()), {each.zone for each in self.nodes if each.zone}
        for index, loss in enumerate(self.losses):
            if loss.zone and loss.zone not in zones:
                there = f"there are {_some(zones)}" if zones else "no node has one"
                raise ValueError(f"losses.{index}.zone: there is no zone {loss.zone}; {there}")
            unknown = [name for name in loss.nodes if name not in nodes]
            if unknown:
                raise ValueError(f"losses.{index}.nodes: there is no node {unknown[0]}; there are {_some(nodes)}")
            if not loss.zone and not loss.nodes:
                raise ValueError(f"losses.{index}.zone: it names no node; write zone: or nodes:")
        return self

    @model_validator(mode="after")
    def _weights_fit(self: Self) -> Self:
        """What is in memory of a node at the beginning fits into its weight store."""
        for index, block in enumerate(self.nodes):
            there = set(numbered(block.name, block.count))
            most = 0
            for name in there:
                kept = (each for each in self.models if each.start.tier is Tier.MEMORY)
                here = (each for each in kept if not each.start.nodes or name in each.start.nodes)
                most = max(most, sum(each.count * quantity.to_bytes(each.start.bytes) for each in here))
            if most > quantity.to_bytes(block.cache_memory):
                raise ValueError(
                    f"nodes.{index}.cacheMemory: {block.cache_memory} is less than {quantity.format_bytes(most)} of "
                    "models whose weights are in memory at the beginning; raise it, or write start.tier: Disk"
                )
        return self

    def node_names(self) -> list[str]:
        """Names of all nodes."""
        return [name for each in self.nodes for name in numbered(each.name, each.count)]

    def model_names(self) -> list[str]:
        """Names of all models."""
        return [name for each in self.models for name in numbered(each.name, each.count)]


def numbered(name: str, count: int) -> list[str]:
    """Return the name, or if there are several, each with its number."""
    return [name] if count == 1 else [f"{name}-{number}" for number in range(count)]


def _some(names: set[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (", …" if len(ordered) > 5 else "")


def _with_uri(model: Any) -> Any:
    if not isinstance(model, dict) or not isinstance(spec := model.get("spec", {}), dict) or "model" in spec:
        return model
    return {**model, "spec": {"model": {"uri": f"hf://emulated/{model.get('name', 'model')}"}, **spec}}
