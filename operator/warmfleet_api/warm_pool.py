"""The custom resource WarmPool: runners that are up before anybody needs them, and host engines of any model.

Its runners live in its namespace and serve models of that namespace. Fields are added when they work.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints

from warmfleet_api import names, quantity
from warmfleet_api.fields import LABEL_KEY_PATTERN, MAX_GPUS, GpuResource, LabelValue, ObjectName, Quantity
from warmfleet_api.lists import UniqueBy
from warmfleet_api.model_deployment import MAX_NAME_LENGTH, NAME_PATTERN
from warmfleet_api.pod_template import LocalObjectReference, Toleration
from warmfleet_api.rules import Block, rule
from warmfleet_api.status import Condition, Count, Summary

DEFAULT_POOL = "default"
"""Models that name no pool and have no podTemplate go to the pool of this name, where there is one."""
RUNNER_BYTES = 1024**3
"""Memory of a runner that its own processes hold: supervisor, front, and the zygote with vLLM imported (0.8 GiB)."""
MIN_MEMORY_BYTES = RUNNER_BYTES + 256 * 1024**2


class WarmPoolSpec(Block):
    """What is wanted: how many runners, and the shape of each."""

    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """How many runners there are, free and busy together; also set by `kubectl scale`."""
    gpus: Annotated[int, Field(ge=0, le=MAX_GPUS)] = 0
    """GPUs of one runner, shared out to its engines. A runner without GPUs takes models without GPUs, and the other
    way round."""
    gpu_resource: GpuResource = names.DEFAULT_GPU_RESOURCE
    """Extended resource that counts the GPUs, e.g. nvidia.com/gpu or nvidia.com/mig-3g.40gb."""
    cpu: Quantity = "1"
    """CPU request of one runner, e.g. "16"; resources.cpu of its models plays no part."""
    memory: Quantity = "8Gi"
    """Memory request and limit of one runner, e.g. 128Gi. 1Gi of it is for the runner's own processes; its engines
    share the rest, each as much as its resources.memory says."""
    max_engines: Annotated[int, Field(ge=1, le=32)] = 8
    """How many engines one runner hosts at most."""
    image: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^\S+$")] | None = None
    """Runtime image. Default: the operator's."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = {}
    """Labels a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints the runners tolerate."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass, e.g. nvidia."""
    image_pull_secrets: Annotated[list[LocalObjectReference], Field(max_length=8), UniqueBy("name")] = []
    """Secrets to pull the image with."""

    @rule(
        f"quantity(string(self.memory)).compareTo(quantity('{MIN_MEMORY_BYTES}')) >= 0",
        "memory is at least 1280Mi: 1Gi of it is for the runner's own processes; was a unit such as Gi forgotten?",
        field_path=".memory",
    )
    def memory_has_room_for_an_engine(self: Self) -> bool:  # noqa: D102
        return quantity.to_bytes(self.memory) >= MIN_MEMORY_BYTES

    @rule(
        "!has(self.nodeSelector) || self.nodeSelector.all(key, size(key) <= 317"
        f" && key.matches(r'{LABEL_KEY_PATTERN}'))",
        "nodeSelector has a key that no label can have, write e.g. topology.kubernetes.io/zone",
        field_path=".nodeSelector",
    )
    def node_selector_keys_are_labels(self: Self) -> bool:  # noqa: D102
        return all(len(key) <= 317 and re.fullmatch(LABEL_KEY_PATTERN, key) for key in self.node_selector)


class WarmPoolStatus(Block):
    """What is."""

    observed_generation: Annotated[int, Field(ge=-1, json_schema_extra={"format": "int64"})] = -1
    """Generation of the spec this status speaks of."""
    conditions: Annotated[list[Condition], Field(max_length=8), UniqueBy("type")] = []
    """Ready, Reconciling, Stalled."""
    replicas: Count = 0
    """Runners that exist."""
    ready_replicas: Count = 0
    """Runners that take engines."""
    selector: Annotated[str, StringConstraints(max_length=512)] = ""
    """Label selector of the runners `/scale` counts."""
    free: Count = 0
    """Runners that take engines and host none."""
    busy: Count = 0
    """Runners that host engines."""
    models: Count = 0
    """Models that have engines in the pool."""
    blocker: Summary = ""
    """What a missing runner waits for."""


class ObjectMeta(Block):
    """Metadata of the object, as far as a rule of ours speaks of it."""

    model_config = ConfigDict(extra="ignore")

    name: str
    """Name of the pool: models name it in spec.pools."""


class WarmPool(Block):
    """Runners that are up before anybody needs them: a model starts in one within seconds."""

    api_version: Literal["warmfleet.dev/v1alpha1"]
    """Version of this schema."""
    kind: Literal["WarmPool"]
    """Kind of the object."""
    metadata: ObjectMeta
    """Standard object metadata."""
    spec: WarmPoolSpec
    """What is wanted: how many runners, and the shape of each."""
    status: WarmPoolStatus = WarmPoolStatus()
    """What is, written by the operator."""

    @rule(
        f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && self.metadata.name.matches(r'{NAME_PATTERN}')",
        f"metadata.name has at most {MAX_NAME_LENGTH} lower-case letters, digits and dashes, a letter first and no"
        " dash last: the pool's runners are named after it",
        field_path=".metadata.name",
    )
    def name_fits_its_children(self: Self) -> bool:  # noqa: D102
        name = self.metadata.name
        return len(name) <= MAX_NAME_LENGTH and re.fullmatch(NAME_PATTERN, name) is not None
