"""The `ModelDeployment` object: what a person writes (`ModelDeploymentSpec`) and what the operator answers.

Only fields that work are here; each docstring is the text of `kubectl explain`.
Names, bounds and defaults are the API server's as well: the CRD is generated from these classes.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints

from warmfleet_api import names, quantity
from warmfleet_api.autoscaling import Autoscaling
from warmfleet_api.engine import Engine
from warmfleet_api.fields import (
    MAX_GPUS,
    ON_THE_NODE,
    URI_PATTERN,
    CountOrShare,
    GpuResource,
    ObjectName,
    Quantity,
    Text,
    Uri,
    is_none,
)
from warmfleet_api.lists import UniqueBy, UniqueItems
from warmfleet_api.pod_template import LocalObjectReference, PodTemplate
from warmfleet_api.rules import Block, rule
from warmfleet_api.serving import ColdStart, Idle, ServingSpec
from warmfleet_api.standby import Standby
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_api.vocabulary import EngineType, Priority
from warmfleet_api.weight_cache import Revision

MAX_NAME_LENGTH = 50
"""Room for `-<slot>-<attempt>` in the 63 characters of a pod's host name."""
MIN_MEMORY_BYTES = 32 * 1024**2
"""Below it no runner starts; far below it a unit was forgotten."""
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""DNS-1035: the model's Service has the same name."""


class Adapter(Block):
    """A LoRA adapter of the model."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.:/]*$", max_length=128)]
    """Name by which requests ask for it (`model` of the OpenAI API)."""
    uri: Uri
    """Where it is, with adapter_config.json and adapter_model.safetensors, e.g. hf://org/sql-lora."""

    @rule(
        f"self.uri.matches(r'{URI_PATTERN}')",
        "the uri of an adapter starts with hf:// s3:// gs:// https:// oci:// or file:/// and has no spaces",
        field_path=".uri",
    )
    def uri_has_a_known_scheme(self: Self) -> bool:  # noqa: D102
        return re.fullmatch(URI_PATTERN, self.uri) is not None


class Model(Block):
    """Which model, and under which names it is served."""

    uri: Uri
    """Where the weights are: hf:// s3:// gs:// https:// oci://, or file:// for a folder of the nodes below one of the
    WeightCache's fileRoots; e.g. hf://Qwen/Qwen3-0.6B. There is a config.json beside *.safetensors. A Simulated engine
    loads nothing, whatever stands here."""
    revision: Revision | None = None
    """Commit, tag or digest. Default: what the source calls current when it is first asked. Both are resolved once and
    kept, see status.weights, until uri or revision changes here."""
    secret_ref: LocalObjectReference | None = None
    """Secret of the same namespace with a credential of the source. It is used for draft and adapters too, where they
    come from the same source. The node agents read it only if an administrator lets them in this namespace."""
    served_names: Annotated[list[Text], Field(min_length=1, max_length=16), UniqueItems()] | None = None
    """Names by which requests ask for the model (`model` of the OpenAI API). Default: the object's name."""
    adapters: Annotated[list[Adapter], Field(max_length=32), UniqueBy("name")] = []
    """LoRA adapters, loaded with the model and served beside it, each under its own name."""

    @rule(
        f"self.uri.matches(r'{URI_PATTERN}')",
        "model.uri starts with hf:// s3:// gs:// https:// oci:// or file:/// and has no spaces,"
        " e.g. hf://Qwen/Qwen3-0.6B",
        field_path=".uri",
    )
    def uri_has_a_known_scheme(self: Self) -> bool:  # noqa: D102
        return re.fullmatch(URI_PATTERN, self.uri) is not None

    @rule(
        f"!has(self.secretRef) || !self.uri.startsWith('{ON_THE_NODE}')",
        "a folder of the nodes needs no credential; remove model.secretRef",
        field_path=".secretRef",
    )
    def folders_need_no_credential(self: Self) -> bool:  # noqa: D102
        return self.secret_ref is None or not self.uri.startswith(ON_THE_NODE)


class Resources(Block):
    """What one replica needs."""

    gpus: Annotated[int, Field(ge=0, le=MAX_GPUS)] | None = None
    """GPUs of one replica, all on one node; 0 runs on CPU. Default: the product of engine.parallelism where that block
    is there, else 0."""
    gpu_memory: Quantity | None = None
    """Memory needed on each of those GPUs, e.g. 40Gi: nodes whose GPUs have less are passed over."""
    gpu_resource: GpuResource = names.DEFAULT_GPU_RESOURCE
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


class Rollout(Block):
    """How a changed spec replaces the running one: a new runner starts beside the old, takes over, the old drains."""

    max_surge: CountOrShare = 1
    """How many replicas more than `replicas` there may be meanwhile: a number, or a share of them as in `25%`, rounded
    up."""
    max_unavailable: CountOrShare = 0
    """How many replicas fewer than `replicas` may serve meanwhile: a number, or a share as in `25%`, rounded down. With
    maxSurge 0 an old one goes before the new one starts: for fleets without room for both."""
    canary_weight: Annotated[int, Field(ge=1, le=99)] | None = None
    """While it is there a changed spec is only tried: its replicas start beside those of the former spec, which all
    stay, and routers give them so many percent of the requests. Remove the field to let the changed spec replace the
    former; apply the former object to take the change back."""
    progress_deadline_seconds: Annotated[int, Field(ge=1, le=86400)] = 900
    """Stalled/ProgressDeadlineExceeded after this long without progress; it stands still while queued."""

    @rule(
        "!(string(self.maxSurge) in ['0', '0%'] && string(self.maxUnavailable) in ['0', '0%'])",
        "rollout.maxSurge and rollout.maxUnavailable are both 0, so nothing could ever be replaced; raise one of them",
        field_path=".maxSurge",
    )
    def something_may_change(self: Self) -> bool:  # noqa: D102
        return not (is_none(self.max_surge) and is_none(self.max_unavailable))

    @rule(
        "!has(self.canaryWeight) || !(string(self.maxSurge) in ['0', '0%'])",
        "a canary starts beside what serves, and rollout.maxSurge is 0; raise it, or remove rollout.canaryWeight",
        field_path=".canaryWeight",
    )
    def canaries_start_beside_the_others(self: Self) -> bool:  # noqa: D102
        return self.canary_weight is None or not is_none(self.max_surge)


class ModelDeploymentSpec(Block):
    """What is wanted. The smallest whole object has only model.uri."""

    model: Model
    """Which model, and under which names it is served."""
    engine: Engine = Engine()
    """The inference engine and its options."""
    resources: Resources = Resources()
    """What one replica needs."""
    pools: Annotated[list[ObjectName], Field(max_length=8), UniqueItems()] = []
    """WarmPools of the namespace whose runners may host the model, by preference. Default: the pool named `default`
    where there is one and no podTemplate is given, else runners of its own."""
    priority: Priority = Priority.NORMAL
    """Class of the model when several want the same place: Critical, High, Normal or Low."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """How many engines serve the model; also set by `kubectl scale`. 0 stops it. Leave it out beside autoscaling, whose
    HorizontalPodAutoscaler writes it."""
    autoscaling: Autoscaling | None = None
    """Whether the number of replicas follows what is asked of the model. Default: it is what replicas says."""
    cold_start: ColdStart = ColdStart()
    """What belongs to a start."""
    standby: Standby | None = None
    """What stands by elsewhere to take over when a replica is lost. Default: nothing, and a lost replica is started
    anew in its turn. A change of it restarts nothing."""
    serving: ServingSpec = ServingSpec()
    """How requests are admitted to an engine."""
    rollout: Rollout = Rollout()
    """How a changed spec replaces the running one."""
    idle: Idle = Idle()
    """What becomes of engines without requests."""
    pod_template: PodTemplate = PodTemplate()
    """Fields of the runner's pod that a platform needs. Runners of a WarmPool are not the model's to shape."""

    @property
    def default_gpus(self) -> int:
        """GPUs of one replica where resources.gpus is not given."""
        return self.engine.parallelism.product if self.engine.parallelism is not None else 0

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.default_gpus if self.resources.gpus is None else self.resources.gpus

    @rule(
        "self.engine.type != 'Simulated' || !has(self.model.adapters) || size(self.model.adapters) == 0",
        "model.adapters are for VLLM; a Simulated engine loads nothing",
        field_path=".model.adapters",
    )
    def simulated_loads_no_adapters(self: Self) -> bool:  # noqa: D102
        return self.engine.type is not EngineType.SIMULATED or not self.model.adapters

    @rule(
        "self.engine.type != 'Simulated' || !(has(self.model.revision) || has(self.model.secretRef) ||"
        " self.coldStart.preloadNodes > 0)",
        "model.revision, model.secretRef and coldStart.preloadNodes are for weights, and a Simulated engine loads none;"
        " remove them",
        field_path=".model",
    )
    def simulated_loads_no_weights(self: Self) -> bool:  # noqa: D102
        none = self.model.revision is None and self.model.secret_ref is None and not self.cold_start.preload_nodes
        return self.engine.type is not EngineType.SIMULATED or none

    @rule(
        "!has(self.resources.gpus) || self.resources.gpus == 0 || !has(self.engine.parallelism) ||"
        " self.resources.gpus == self.engine.parallelism.tensor * self.engine.parallelism.pipeline"
        " * self.engine.parallelism.data",
        "resources.gpus is not the product of engine.parallelism; correct one of them, or leave resources.gpus out",
        field_path=".resources.gpus",
    )
    def gpus_are_the_product_of_parallelism(self: Self) -> bool:  # noqa: D102
        return not self.resources.gpus or self.engine.parallelism is None or self.gpus == self.default_gpus

    @rule(
        "!has(self.resources.gpuMemory) || (has(self.resources.gpus) ? self.resources.gpus > 0 :"
        " has(self.engine.parallelism))",
        "resources.gpuMemory is of GPUs, and there are none; write resources.gpus or engine.parallelism",
        field_path=".resources.gpuMemory",
    )
    def gpu_memory_needs_gpus(self: Self) -> bool:  # noqa: D102
        return self.resources.gpu_memory is None or self.gpus > 0

    @rule(
        "!has(self.autoscaling) || self.autoscaling.minReplicas == 0 || !has(self.idle) ||"
        " !has(self.idle.afterSeconds)",
        "idle.afterSeconds lets the model sleep, and autoscaling.minReplicas keeps it awake; remove the one or write"
        " minReplicas: 0",
        field_path=".idle.afterSeconds",
    )
    def floors_do_not_sleep(self: Self) -> bool:  # noqa: D102
        floor = 0 if self.autoscaling is None else self.autoscaling.min_replicas
        return floor == 0 or self.idle.after_seconds is None

    @rule(
        "!has(self.podTemplate) || !has(self.pools) || size(self.pools) == 0",
        "podTemplate is for runners of the model's own, and those of pools are shaped by their WarmPool; remove one of"
        " the two",
        field_path=".podTemplate",
    )
    def pools_have_their_own_template(self: Self) -> bool:  # noqa: D102
        return "pod_template" not in self.model_fields_set or not self.pools


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

    @rule(
        "!has(self.spec.model.adapters) || self.spec.model.adapters.all(adapter, has(self.spec.model.servedNames)"
        " ? !(adapter.name in self.spec.model.servedNames) : adapter.name != self.metadata.name)",
        "model.adapters has a name under which the model itself is served; give the adapter another",
        field_path=".spec.model.adapters",
    )
    def adapters_have_names_of_their_own(self: Self) -> bool:  # noqa: D102
        served = self.spec.model.served_names or [self.metadata.name]
        return not any(adapter.name in served for adapter in self.spec.model.adapters)
