"""The custom resource WeightCache: how much memory and disk of some nodes keeps weights, and which at any rate.

Written by an administrator, one per group of nodes. The operator renders the node agent's DaemonSet from it, so that
size and path are said once.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints

from warmfleet_api import quantity
from warmfleet_api.fields import LABEL_KEY_PATTERN, URI_PATTERN, LabelValue, ObjectName, Quantity, Uri
from warmfleet_api.lists import UniqueBy, UniqueItems
from warmfleet_api.pod_template import LocalObjectReference, Toleration
from warmfleet_api.rules import Block, rule
from warmfleet_api.status import Condition, Count, Summary
from warmfleet_api.vocabulary import Priority

DEFAULT_CACHE = "default"
"""Ships with the install, for every node that no other cache names."""
MIN_SIZE_BYTES = 64 * 1024**2
MAX_NAME_LENGTH = 40
"""Room for the names of its children."""
MAX_MODELS = 256
FOLDER_PATTERN = r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$"
"""An absolute path of plain names: no `..`, nothing hidden, no trailing slash."""

Folder = Annotated[str, StringConstraints(pattern=FOLDER_PATTERN, max_length=256)]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.:/@+=]*$", max_length=128)]


class SecretReference(Block):
    """A Secret with a credential of the source."""

    name: ObjectName
    """Name of the Secret."""
    namespace: ObjectName
    """Its namespace."""


class MemorySpec(Block):
    """Memory of each node that keeps weights, as a tmpfs with huge pages."""

    size: Quantity
    """How much, e.g. 128Gi. It is the memory request of the node's agent, so Kubernetes keeps it free."""
    path: Folder = "/dev/shm/model_cache"
    """Where it is mounted on the node."""


class DiskSpec(Block):
    """Disk of each node that keeps weights which do not fit in memory, or are to outlive a restart of the node."""

    size: Quantity
    """How much, e.g. 500Gi."""
    path: Folder = "/var/lib/warmfleet/cache"
    """Folder of the node, best on a local NVMe disk."""


class FetchSpec(Block):
    """How the agents of these nodes fetch."""

    bytes_per_second: Quantity | None = None
    """Most that one node fetches from afar, e.g. 500Mi. Default: no limit."""
    parallel: Annotated[int, Field(ge=1, le=64)] = 2
    """Entries that one node fetches at once; those of class Critical and High come on top."""


class CachedModel(Block):
    """A model that is kept in memory whether a ModelDeployment wants it or not."""

    name: ObjectName
    """Name of this line, for messages."""
    uri: Uri
    """Where the weights are: hf:// s3:// gs:// https:// oci:// or file:// below one of `fileRoots`."""
    revision: Revision | None = None
    """Commit, tag or digest. Default: what the source calls current when it is first asked, from then on that."""
    secret_ref: SecretReference | None = None
    """Credential of the source."""
    preload: bool = True
    """Whether it is fetched at once. false: it only keeps its priority when a ModelDeployment brought it."""
    priority: Priority = Priority.NORMAL
    """What is fetched first and evicted last."""

    @rule(
        f"self.uri.matches(r'{URI_PATTERN}')",
        "uri starts with hf:// s3:// gs:// https:// oci:// or file:/// and has no spaces, e.g. hf://Qwen/Qwen3-0.6B",
        field_path=".uri",
    )
    def uri_has_a_known_scheme(self: Self) -> bool:  # noqa: D102
        return re.fullmatch(URI_PATTERN, self.uri) is not None


class WeightCacheSpec(Block):
    """What is wanted on each node of the group."""

    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = {}
    """Labels of the nodes. Default: every node that no other WeightCache names."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints the agents tolerate."""
    memory: MemorySpec
    """Memory that keeps weights."""
    disk: DiskSpec | None = None
    """Disk that keeps weights. Default: none, what leaves memory is fetched anew."""
    fetch: FetchSpec = FetchSpec()
    """How the agents fetch."""
    file_roots: Annotated[list[Folder], Field(max_length=16), UniqueItems()] = []
    """Folders of the nodes below which file:// models may lie. Default: none, file:// is refused."""
    models: Annotated[list[CachedModel], Field(max_length=MAX_MODELS), UniqueBy("name")] = []
    """Models that are kept at any rate."""
    image_pull_secrets: Annotated[list[LocalObjectReference], Field(max_length=8), UniqueBy("name")] = []
    """Secrets to pull the agent's image with, in the agents' namespace."""

    @rule(
        f"quantity(string(self.memory.size)).compareTo(quantity('{MIN_SIZE_BYTES}')) >= 0",
        "memory.size is at least 64Mi; was a unit such as Gi forgotten?",
        field_path=".memory.size",
    )
    def memory_has_its_unit(self: Self) -> bool:  # noqa: D102
        return quantity.to_bytes(self.memory.size) >= MIN_SIZE_BYTES

    @rule(
        f"!has(self.disk) || quantity(string(self.disk.size)).compareTo(quantity('{MIN_SIZE_BYTES}')) >= 0",
        "disk.size is at least 64Mi; was a unit such as Gi forgotten?",
        field_path=".disk.size",
    )
    def disk_has_its_unit(self: Self) -> bool:  # noqa: D102
        return self.disk is None or quantity.to_bytes(self.disk.size) >= MIN_SIZE_BYTES

    @rule(
        "!has(self.nodeSelector) || self.nodeSelector.all(key, size(key) <= 317"
        f" && key.matches(r'{LABEL_KEY_PATTERN}'))",
        "nodeSelector has a key that no label can have, write e.g. topology.kubernetes.io/zone",
        field_path=".nodeSelector",
    )
    def node_selector_keys_are_labels(self: Self) -> bool:  # noqa: D102
        return all(len(key) <= 317 and re.fullmatch(LABEL_KEY_PATTERN, key) for key in self.node_selector)


class CachedModelStatus(Block):
    """A model of the list as it was found, and where it is."""

    name: ObjectName
    """Name of the line."""
    uri: Uri
    """Where the weights come from."""
    requested: Annotated[str, StringConstraints(max_length=128)] = ""
    """The revision that is asked for; empty: whatever the source calls current."""
    key: Annotated[str, StringConstraints(max_length=63)]
    """Name of its entry on the nodes."""
    revision: Annotated[str, StringConstraints(max_length=128)] = ""
    """What the source calls this state of it: frozen once it was asked for. Empty: not known yet."""
    bytes: Count = 0
    """Its size; 0: not known yet."""
    digest: Annotated[str, StringConstraints(max_length=71)] = ""
    """Hash of what it holds, from the first node that has it whole."""
    memory_nodes: Count = 0
    """Nodes of the group that have it in memory."""
    disk_nodes: Count = 0
    """Nodes of the group that have it on disk only."""
    problem: Summary = ""
    """Why it is not where it should be."""


class WeightCacheStatus(Block):
    """What is."""

    observed_generation: Annotated[int, Field(ge=-1, json_schema_extra={"format": "int64"})] = -1
    """Generation of the spec this status speaks of."""
    conditions: Annotated[list[Condition], Field(max_length=8), UniqueBy("type")] = []
    """Fits: the preloaded models fit together into memory.size. Ready: all agents keep what they should."""
    nodes: Count = 0
    """Nodes of the group."""
    ready_nodes: Count = 0
    """Nodes whose agent works."""
    models: Annotated[list[CachedModelStatus], Field(max_length=MAX_MODELS), UniqueBy("name")] = []
    """The models of the list."""
    summary: Summary = ""
    """The line that columns show, e.g. `7 of 8 preloaded models in memory on all 4 nodes`."""


class ObjectMeta(Block):
    """Metadata of the object, as far as a rule of ours speaks of it."""

    model_config = ConfigDict(extra="ignore")

    name: str
    """Name of the cache."""


class WeightCache(Block):
    """Memory and disk of some nodes that keep weights, so that models start without fetching them."""

    api_version: Literal["warmfleet.dev/v1alpha1"]
    """Version of this schema."""
    kind: Literal["WeightCache"]
    """Kind of the object."""
    metadata: ObjectMeta
    """Standard object metadata."""
    spec: WeightCacheSpec
    """What is wanted on each node of the group."""
    status: WeightCacheStatus = WeightCacheStatus()
    """What is, written by the operator."""

    @rule(
        f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && self.metadata.name.matches(r'^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        f"metadata.name has at most {MAX_NAME_LENGTH} lower-case letters, digits and dashes, a letter first and no"
        " dash last: the agents are named after it",
        field_path=".metadata.name",
    )
    def name_fits_its_children(self: Self) -> bool:  # noqa: D102
        name = self.metadata.name
        return len(name) <= MAX_NAME_LENGTH and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) is not None
