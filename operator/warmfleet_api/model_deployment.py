"""The `ModelDeployment` object: what a person writes (`ModelDeploymentSpec`) and what the operator answers.

Only fields that work are here; each docstring is the text of `kubectl explain`.
Names, bounds and defaults are the API server's as well: the CRD is generated from these classes.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints

from warmfleet_api import names, quantity
from warmfleet_api.lists import UniqueBy, UniqueItems
from warmfleet_api.rules import Block, rule
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_api.vocabulary import EngineType, Priority

MAX_NAME_LENGTH = 50
"""Room for `-<slot>-<attempt>` in the 63 characters of a pod's host name."""
MIN_MEMORY_BYTES = 32 * 1024**2
"""Below it no runner starts; far below it a unit was forgotten."""
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""DNS-1035: the model's Service has the same name."""
URI_PATTERN = r"^(hf|s3|gs|https|oci|file)://[^\s]+$"
LABEL_KEY_PATTERN = r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"

Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Quantity = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(pattern=quantity.PATTERN, max_length=32)],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
ObjectName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", min_length=1, max_length=253
    ),
]


class Model(Block):
    """Which model, and under which names it is served."""

    uri: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """Where the weights are, e.g. file:///models/qwen3-0-6b (a folder with config.json and *.safetensors below a
    root that the administrator named to the operator). A Simulated engine loads nothing and takes any
    of hf:// s3:// gs:// https:// oci:// file://."""
    served_names: Annotated[list[Text], Field(min_length=1, max_length=16), UniqueItems()] | None = None
    """Names by which requests ask for the model (`model` of the OpenAI API). Default: the object's name."""

    @rule(
        f"self.uri.matches(r'{URI_PATTERN}')",
        "model.uri starts with hf:// s3:// gs:// https:// oci:// or file:// and has no spaces,"
        " e.g. file:///models/qwen3-0-6b",
        field_path=".uri",
    )
    def uri_has_a_known_scheme(self: Self) -> bool:  # noqa: D102
        return re.fullmatch(URI_PATTERN, self.uri) is not None


class SimulatedFaultSpec(Block):
    """A fault for tests of what stands around an engine."""

    kind: Literal["CrashAtStart", "HangAtStart", "CrashAfterSeconds", "FailRequests"]
    """CrashAtStart, HangAtStart, CrashAfterSeconds (of being Ready) or FailRequests."""
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
    memory: Quantity = 0
    """Memory the engine says it holds."""
    fault: SimulatedFaultSpec | None = None
    """A fault to show."""


class EnvVarSpec(Block):
    """An environment variable of the engine."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Name of the variable."""
    value: Annotated[str, StringConstraints(max_length=2048)] = ""
    """Its value. Not for secrets: it is readable by whoever may read pods."""


class Engine(Block):
    """The inference engine and its options."""

    type: EngineType = EngineType.VLLM
    """VLLM, or Simulated: the same process model and API without weights, for tests and fleets without GPUs."""
    max_model_len: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Longest context in tokens. Default: the model's own."""
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


class Resources(Block):
    """What one replica needs."""

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of one replica, all on one node. 0 runs on CPU."""
    gpu_memory: Quantity | None = None
    """Memory needed on each of those GPUs, e.g. 40Gi: nodes whose GPUs have less are passed over."""
    gpu_resource: Annotated[
        str,
        StringConstraints(
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
            max_length=128,
        ),
    ] = names.DEFAULT_GPU_RESOURCE
    """Extended resource that counts the GPUs, e.g. nvidia.com/gpu or nvidia.com/mig-3g.40gb."""
    cpu: Quantity = "500m"
    """CPU request, e.g. "4"."""
    memory: Quantity = "1Gi"
    """Memory request and limit, e.g. 16Gi. Without GPUs it holds the weights too."""

    @rule(
        f"quantity(string(self.memory)).compareTo(quantity('{MIN_MEMORY_BYTES}')) >= 0",
        "resources.memory is at least 32Mi; was a unit such as Gi forgotten?",
        field_path=".memory",
    )
    def memory_has_its_unit(self: Self) -> bool:  # noqa: D102
        return quantity.to_bytes(self.memory) >= MIN_MEMORY_BYTES

    @rule("!has(self.gpuMemory) || self.gpus > 0", "resources.gpuMemory needs resources.gpus of at least 1")
    def gpu_memory_needs_gpus(self: Self) -> bool:  # noqa: D102
        return self.gpu_memory is None or self.gpus > 0


class Rollout(Block):
    """How a changed spec replaces the running one: a new runner starts beside the old, takes over, the old drains."""

    progress_deadline_seconds: Annotated[int, Field(ge=1, le=86400)] = 900
    """Stalled/ProgressDeadlineExceeded after this long without progress; it stands still while queued."""


class Toleration(Block):
    """A toleration as in a pod."""

    key: Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN, max_length=316)] | None = None
    """Taint key; left out with operator Exists tolerates all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists or Equal."""
    value: LabelValue | None = None
    """Taint value, with Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """NoSchedule, PreferNoSchedule or NoExecute; left out it matches all."""

    @rule(
        "self.operator == 'Exists' || (has(self.key) && size(self.key) > 0)",
        "a toleration without a key needs operator: Exists",
    )
    def equal_needs_a_key(self: Self) -> bool:  # noqa: D102
        return self.operator == "Exists" or bool(self.key)

    @rule(
        "self.operator == 'Equal' || !has(self.value) || size(self.value) == 0",
        "a toleration with operator: Exists takes no value",
    )
    def exists_takes_no_value(self: Self) -> bool:  # noqa: D102
        return self.operator == "Equal" or not self.value


class LocalObjectReference(Block):
    """A Secret of the same namespace."""

    name: ObjectName
    """Name of the Secret."""


class PodTemplate(Block):
    """Fields of the runner's pod that a platform needs; never a whole PodSpec."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^\S+$")] | None = None
    """Runtime image, e.g. to pin an engine version for this model. Default: the operator's."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = {}
    """Labels a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints the runner tolerates."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass, e.g. nvidia."""
    image_pull_secrets: Annotated[list[LocalObjectReference], Field(max_length=8), UniqueBy("name")] = []
    """Secrets to pull the image with."""

    @rule(
        "!has(self.nodeSelector) || self.nodeSelector.all(key, size(key) <= 317"
        f" && key.matches(r'{LABEL_KEY_PATTERN}'))",
        "podTemplate.nodeSelector has a key that no label can have, write e.g. topology.kubernetes.io/zone",
        field_path=".nodeSelector",
    )
    def node_selector_keys_are_labels(self: Self) -> bool:  # noqa: D102
        return all(len(key) <= 317 and re.fullmatch(LABEL_KEY_PATTERN, key) for key in self.node_selector)


class ModelDeploymentSpec(Block):
    """What is wanted. The smallest whole object has only model.uri."""

    model: Model
    """Which model, and under which names it is served."""
    engine: Engine = Engine()
    """The inference engine and its options."""
    resources: Resources = Resources()
    """What one replica needs."""
    priority: Priority = Priority.NORMAL
    """Class of the model when several want the same place: Critical, High, Normal or Low."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """How many engines serve the model; also set by `kubectl scale`. 0 stops it."""
    rollout: Rollout = Rollout()
    """How a changed spec replaces the running one."""
    pod_template: PodTemplate = PodTemplate()
    """Fields of the runner's pod that a platform needs."""

    @rule(
        "self.engine.type == 'Simulated' || self.model.uri.startsWith('file:///')",
        "a VLLM engine reads its weights from a folder of the node: write model.uri as file:///<folder>",
        field_path=".model.uri",
    )
    def weights_are_on_the_node(self: Self) -> bool:  # noqa: D102
        return self.engine.type is EngineType.SIMULATED or self.model.uri.startswith("file:///")


class ObjectMeta(Block):
    """Metadata of the object, as far as a rule of ours speaks of it."""

    model_config = ConfigDict(extra="ignore")

    name: str
    """Name of the model, of its Service, and the default of model.servedNames."""


class ModelDeployment(Block):
    """A model to serve: which one, how many engines, how urgent. Warmfleet finds the place and the moment."""

    api_version: Literal["warmfleet.dev/v1alpha1"]
    """Version of this schema."""
    kind: Literal["ModelDeployment"]
    """Kind of the object."""
    metadata: ObjectMeta
    """Standard object metadata."""
    spec: ModelDeploymentSpec
    """What is wanted. The smallest whole object has only model.uri."""
    status: ModelDeploymentStatus = ModelDeploymentStatus()
    """What is, written by the operator."""

    @rule(
        f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && self.metadata.name.matches(r'{NAME_PATTERN}')",
        f"metadata.name has at most {MAX_NAME_LENGTH} lower-case letters, digits and dashes, a letter first and no"
        " dash last: the model's Service and runners are named after it",
        field_path=".metadata.name",
    )
    def name_fits_its_children(self: Self) -> bool:  # noqa: D102
        name = self.metadata.name
        return len(name) <= MAX_NAME_LENGTH and re.fullmatch(NAME_PATTERN, name) is not None
