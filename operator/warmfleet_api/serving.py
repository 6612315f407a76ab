"""The blocks `spec.serving` and `spec.coldStart`: how requests are admitted, and what an engine answers first."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints

from warmfleet_api.rules import Block, rule
from warmfleet_api.vocabulary import BatchingPolicy, BrokenStream, FailureMode, IdlePolicy, RoutingPolicy, WarmupMode


class QueueSpec(Block):
    """Requests that wait for the engine."""

    max_requests: Annotated[int, Field(ge=1, le=100_000)] = 256
    """How many may wait; more are refused with 429 and the time to come back."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long a request may wait for its first token; one that can't make it is refused at once."""


class BatchingSpec(Block):
    """When waiting requests go to the engine."""

    policy: BatchingPolicy = BatchingPolicy.CONTINUOUS
    """Continuous: at once, while there is room. Static: batch after batch, each when the former is done. Dynamic: after
    a window that adapts to load. SizeOrWait: when enough wait, or the first waited long enough. Requests of class
    Critical and High are never held back."""
    max_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Requests of one batch. Default: what the engine runs at once."""
    max_wait_milliseconds: Annotated[int, Field(ge=0, le=60_000)] | None = None
    """How long the first request of a batch waits for others. Default: 50."""

    @rule(
        "self.policy != 'Continuous' || !(has(self.maxSize) || has(self.maxWaitMilliseconds))",
        "serving.batching: maxSize and maxWaitMilliseconds are of batches, and policy Continuous makes none; write"
        " Static, Dynamic or SizeOrWait, or remove them",
    )
    def continuous_has_no_batches(self: Self) -> bool:  # noqa: D102
        none = self.max_size is None and self.max_wait_milliseconds is None
        return self.policy is not BatchingPolicy.CONTINUOUS or none


class AdmissionLimitsSpec(Block):
    """What one tenant and one session may hold at once in an engine, waiting and running together. Default: no limit.

    A session is what requests name in the header X-Warmfleet-Session.
    """

    sequences_per_tenant: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Answers of one tenant that are waited for; a request with n = 3 counts three times."""
    tokens_per_tenant: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Tokens of one tenant's requests, prompts and longest possible answers together."""
    sequences_per_session: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Answers of one session that are waited for."""
    tokens_per_session: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Tokens of one session's requests, prompts and longest possible answers together."""


class HoldSpec(Block):
    """Requests that a router holds while no engine can take them, and for which it wakes the model."""

    max_requests: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """How many each router holds; more are refused with 429 and the time to come back."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    """How long a request is held at most. One whose engine is predicted to be ready later is refused at once, with the
    time to come back."""


class RoutingSpec(Block):
    """Which of the model's engines a router gives a request to."""

    policy: RoutingPolicy = RoutingPolicy.SCORE
    """Score: by idle room, queue, latency and availability together. LeastLoaded: the fewest requests.
    LeastRecentlyUsed: in turn. SessionAffinity: requests with the same X-Warmfleet-Session to the same engine.
    PrefixAffinity: prompts that begin alike to the same engine, unless it is far busier than the others."""


class ResponseCacheSpec(Block):
    """Answers that routers keep and give again to the same tenant for the same request."""

    max_entries: Annotated[int, Field(ge=1, le=100_000)] = 100
    """How many answers a router keeps in memory for each tenant; the one used least lately goes first."""
    ttl_seconds: Annotated[int, Field(ge=1, le=2_592_000)] = 3600
    """How old an answer may become."""


class EndpointPickerRef(Block):
    """The endpoint picker of a Gateway, which chooses among the engines of an InferencePool."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    """Service of the picker, in the model's namespace."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 9002
    """Port of that Service."""
    failure_mode: FailureMode = FailureMode.FAIL_CLOSE
    """What the gateway does while the picker does not answer. FailClose: it refuses requests. FailOpen: it picks an
    engine itself."""


class InferencePoolSpec(Block):
    """An InferencePool (inference.networking.k8s.io/v1) of the model's name, for gateways that route to one."""

    endpoint_picker_ref: EndpointPickerRef
    """Who chooses among the engines. Warmfleet brings none: its own choice is its router."""


class ServingSpec(Block):
    """How requests are admitted to an engine. A change of it restarts nothing."""

    queue: QueueSpec = QueueSpec()
    """Requests that wait for the engine."""
    batching: BatchingSpec = BatchingSpec()
    """When waiting requests go to the engine."""
    merge_window_milliseconds: Annotated[int, Field(ge=1, le=60_000)] | None = None
    """Identical requests of one tenant within this time share a generation, if their answers can't differ: greedy or
    with a seed. Default: every request has its own."""
    limits: AdmissionLimitsSpec = AdmissionLimitsSpec()
    """What one tenant and one session may hold at once."""
    hold: HoldSpec = HoldSpec()
    """Requests that routers hold while no engine can take them."""
    routing: RoutingSpec = RoutingSpec()
    """Which engine a router gives a request to."""
    inference_pool: InferencePoolSpec | None = None
    """Whether the model has an InferencePool, as soon as that kind is installed. Default: none."""
    response_cache: ResponseCacheSpec | None = None
    """Whether routers keep answers: of requests whose answer can't differ (greedy, with a seed, or embeddings), and of
    others that ask for it by X-Warmfleet-Cache. Identical requests that come meanwhile wait for the first one's
    answer. Default: every request goes to an engine."""
    broken_stream: BrokenStream = BrokenStream.ERROR
    """What a client gets whose stream breaks off. Error: an error as the last event. Complete: the rest, from the
    complete answer of another engine, if the request's answer can't differ; else the error."""


class WarmupSpec(Block):
    """What an engine answers before it counts as Ready, so that a client's first request is as quick as the next."""

    mode: WarmupMode = WarmupMode.FULL
    """Full: Ready after every warm-up request. Progressive: Ready after a short one; long prompts wait until longer
    contexts are warmed up behind it."""
    requests: Annotated[int, Field(ge=1, le=32)] = 1
    """How many requests of its own it answers."""
    prompts: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=8192)]],
        Field(max_length=16),
    ] = []
    """Texts that are answered once too, so that the prefix cache knows them, e.g. a system prompt of all requests."""


class ColdStart(Block):
    """What belongs to a start."""

    preload_nodes: Annotated[int, Field(ge=0, le=64)] = 0
    """How many nodes keep the weights in memory though no engine runs there, so that a start fetches nothing."""
    deadline_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """By when an engine should be Ready, counted from the moment it is wanted: inside a class the earlier deadline has
    the turn. One that can't be met is said in status, and met as late as it can be. Default: none."""
    max_wait_seconds: Annotated[int, Field(ge=10, le=86_400)] = 600
    """After this long in the queue a start takes its turn among those of the next higher class. It never preempts for
    that."""
    warmup: WarmupSpec = WarmupSpec()
    """What an engine answers before it counts as Ready. A change of it restarts nothing."""


class Idle(Block):
    """What becomes of engines without requests."""

    policy: IdlePolicy = IdlePolicy.YIELD
    """Yield: an engine without requests gives way when another model waits, the last one too. Keep: as many as
    replicas says stay awake, whoever waits."""
    after_seconds: Annotated[int, Field(ge=10, le=2_592_000)] | None = None
    """After this long without a request the model's engines sleep, though nobody waits; a request wakes them. Default:
    they sleep only for others."""

    @rule(
        "self.policy != 'Keep' || !has(self.afterSeconds)",
        "idle.policy Keep keeps all replicas awake; remove idle.afterSeconds, or write policy Yield",
        field_path=".afterSeconds",
    )
    def kept_engines_never_sleep(self: Self) -> bool:  # noqa: D102
        return self.policy is not IdlePolicy.KEEP or self.after_seconds is None
