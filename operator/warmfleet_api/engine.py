"""The block `spec.engine`: the inference engine and its options."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from warmfleet_api.fields import MAX_GPUS, URI_PATTERN, Quantity, Uri
from warmfleet_api.lists import UniqueBy
from warmfleet_api.rules import Block, rule
from warmfleet_api.vocabulary import EngineType


class SimulatedFaultSpec(Block):
    """A fault for tests of what stands around an engine."""

    kind: Literal["CrashAtStart", "HangAtStart", "CrashAfterSeconds", "FailRequests", "FailSleep", "HangAtWake"]
    """CrashAtStart, HangAtStart, CrashAfterSeconds (of being Ready), FailRequests, FailSleep or HangAtWake."""
    after_seconds: Annotated[int, Field(ge=0, le=86400)] = 0
    """For CrashAfterSeconds: how long the engine is Ready before it crashes."""


class SimulatedSpec(Block):
    """How a Simulated engine behaves."""

    load_milliseconds: Annotated[int, Field(ge=0, le=3_600_000)] = 200
    """Time to load the weights."""
    initialize_milliseconds: Annotated[int, Field(ge=0, le=3_600_000)] = 100
    """Time to allocate caches and initialise."""
    first_token_milliseconds: Annotated[int, Field(ge=0, le=600_000)] = 20
    """Time from a request to its first token."""
    tokens_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Rate of the tokens after the first, per request."""
    sleep_milliseconds: Annotated[int, Field(ge=0, le=600_000)] = 50
    """Time to fall asleep."""
    wake_milliseconds: Annotated[int, Field(ge=0, le=600_000)] = 100
    """Time to wake up."""
    memory: Quantity = 0
    """Memory the engine says it holds awake."""
    asleep_memory: Quantity = 0
    """Memory it says it holds asleep."""
    holds_memory: bool = False
    """Whether it really holds that memory, beside what its process needs."""
    fault: SimulatedFaultSpec | None = None
    """A fault to show."""


class EnvVarSpec(Block):
    """An environment variable of the engine."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Name of the variable."""
    value: Annotated[str, StringConstraints(max_length=2048)] = ""
    """Its value. Not for secrets: it is readable by whoever may read pods."""


class Parallelism(Block):
    """Over how many GPUs one engine is spread; their product is the number of GPUs."""

    tensor: Annotated[int, Field(ge=1, le=MAX_GPUS)] = 1
    """Each layer is split over so many GPUs; a divisor of the model's attention heads."""
    pipeline: Annotated[int, Field(ge=1, le=MAX_GPUS)] = 1
    """The layers are dealt out to so many groups of GPUs."""
    data: Annotated[int, Field(ge=1, le=MAX_GPUS)] = 1
    """So many copies of the model share the requests of one engine."""

    @property
    def product(self) -> int:
        """GPUs of one engine."""
        return self.tensor * self.pipeline * self.data

    @rule(
        f"self.tensor * self.pipeline * self.data <= {MAX_GPUS}",
        f"engine.parallelism multiplies to more than {MAX_GPUS} GPUs; an engine runs on one node",
    )
    def fits_a_node(self: Self) -> bool:  # noqa: D102
        return self.product <= MAX_GPUS


class Speculative(Block):
    """Speculative decoding: a small draft model proposes tokens, the model checks them in one step."""

    uri: Uri
    """Where the draft model is, e.g. hf://meta-llama/Llama-3.2-1B; it shares the model's vocabulary."""
    tokens: Annotated[int, Field(ge=1, le=64)]
    """How many tokens are proposed at a time, e.g. 5."""

    @rule(
        f"self.uri.matches(r'{URI_PATTERN}')",
        "engine.speculative.uri starts with hf:// s3:// gs:// https:// oci:// or file:/// and has no spaces",
        field_path=".uri",
    )
    def uri_has_a_known_scheme(self: Self) -> bool:  # noqa: D102
        return re.fullmatch(URI_PATTERN, self.uri) is not None


class Engine(Block):
    """The inference engine and its options."""

    type: EngineType = EngineType.VLLM
    """VLLM, or Simulated: the same process model and API without weights, for tests and fleets without GPUs."""
    parallelism: Parallelism | None = None
    """Over how many GPUs one engine is spread. Default: each layer is split over all of resources.gpus."""
    max_model_len: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Longest context in tokens. Default: the model's own."""
    quantization: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)] | None = None
    """How the weights are quantized, in the engine's own words, e.g. fp8. Default: as the model's config.json says."""
    speculative: Speculative | None = None
    """Speculative decoding with a draft model."""
    args: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=1024)]],
        Field(max_length=64),
    ] = []
    """Further options as pasted from `vllm serve`, e.g. [--enable-chunked-prefill]. An unknown option is
    shown as Stalled/InvalidArgs."""
    env: Annotated[list[EnvVarSpec], Field(max_length=32), UniqueBy("name")] = []
    """Environment of the engine."""
    simulated: SimulatedSpec | None = None
    """Behaviour of a Simulated engine."""

    @rule(
        "!has(self.simulated) || self.type == 'Simulated'",
        "engine.simulated belongs to engine.type: Simulated; set that type or remove the block",
    )
    def simulated_needs_its_type(self: Self) -> bool:  # noqa: D102
        return self.simulated is None or self.type is EngineType.SIMULATED

    @rule(
        "self.type != 'Simulated' || !has(self.args) || size(self.args) == 0",
        "engine.args are options of `vllm serve`; a Simulated engine takes none",
    )
    def simulated_takes_no_args(self: Self) -> bool:  # noqa: D102
        return self.type is not EngineType.SIMULATED or not self.args

    @rule(
        "self.type != 'Simulated' || !(has(self.quantization) || has(self.speculative))",
        "engine.quantization and engine.speculative are for VLLM; a Simulated engine computes nothing",
    )
    def simulated_computes_nothing(self: Self) -> bool:  # noqa: D102
        return self.type is not EngineType.SIMULATED or (self.quantization is None and self.speculative is None)
