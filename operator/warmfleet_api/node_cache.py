"""The custom resource NodeCache: what one node is to keep of weights, and what it does keep.

One per node, named after it and owned by it. The operator writes `spec`, the node's agent `status`, on transitions
only: the progress of a fetch goes by the agent's stream (`agent_status`). Nobody else writes either.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from warmfleet_api.fields import ObjectName, Uri
from warmfleet_api.lists import UniqueBy, UniqueItems
from warmfleet_api.rules import Block
from warmfleet_api.status import Condition, Count, Summary, Timestamp
from warmfleet_api.vocabulary import EntryState, Priority, Tier, WeightsProblem
from warmfleet_api.weight_cache import Folder, Revision, SecretReference

MAX_ENTRIES = 512
MAX_VIEWS = 512
MAX_VIEW_KEYS = 64

Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""Name of an entry; see `weights.entry_key`."""


class WantedEntry(Block):
    """An entry the node is to keep."""

    key: Key
    """Name of the entry."""
    uri: Uri
    """Where it comes from."""
    revision: Revision | None = None
    """What the source calls this state of it. Without: only asked for, with tier Remote."""
    tier: Tier
    """Where it is to be. Remote: only its revision, files and size are asked for."""
    priority: Priority = Priority.NORMAL
    """What is fetched first and evicted last."""
    pinned: bool = False
    """Never evicted while it stands here."""
    uses_per_day: Count = 0
    """How often its models are expected to start on this node: what its place is worth."""
    saves_seconds: Count = 0
    """What a start takes longer without it, as it was measured; 0: what its fetch takes."""
    secret_ref: SecretReference | None = None
    """Credential of the source."""
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)] | None = None
    """What it has to hold, where that is known from another node."""


class View(Block):
    """What one runner of the node sees below /weights."""

    uid: Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}$", max_length=36)]
    """UID of the runner's pod."""
    keys: Annotated[list[Key], Field(max_length=MAX_VIEW_KEYS), UniqueItems()] = []
    """Entries; each appears once it is in memory."""


class TierSpec(Block):
    """One tier of the node."""

    bytes: Count
    """How much it may hold."""
    path: Folder
    """Where."""


class NodeCacheSpec(Block):
    """What the node is to keep. Entries that are not here stay as long as nothing else needs their place."""

    cache: ObjectName
    """Name of the WeightCache."""
    memory: TierSpec
    """The tmpfs."""
    disk: TierSpec | None = None
    """The folder on disk."""
    bytes_per_second: Count = 0
    """Most that is fetched from afar; 0: no limit."""
    parallel: Annotated[int, Field(ge=1, le=64)] = 2
    """Entries fetched at once."""
    file_roots: Annotated[list[Folder], Field(max_length=16)] = []
    """Folders below which file:// may lie."""
    entries: Annotated[list[WantedEntry], Field(max_length=MAX_ENTRIES), UniqueBy("key")] = []
    """What to keep."""
    views: Annotated[list[View], Field(max_length=MAX_VIEWS), UniqueBy("uid")] = []
    """What the node's runners see."""


class EntryProblem(Block):
    """Why an entry is not where it should be."""

    reason: WeightsProblem
    """One word for machines."""
    message: Summary
    """What happened, and the next command to type."""


class SeenEntry(Block):
    """An entry as the node has it."""

    key: Key
    """Name of the entry."""
    tier: Tier
    """The nearest tier that has it whole."""
    state: EntryState
    """Known, Waiting, Fetching, Promoting, Present or Failed."""
    revision: Annotated[str, StringConstraints(max_length=128)] = ""
    """What the source calls it."""
    digest: Annotated[str, StringConstraints(max_length=71)] = ""
    """Hash of what it holds, once it is whole."""
    bytes: Count = 0
    """Its size; 0: not known yet."""
    fetched_bytes: Count = 0
    """How much was there at the last transition; `agent_status` tells how much is there now."""
    bytes_per_second: Count = 0
    """How fast it came, or comes."""
    readers: Count = 0
    """Runners that see it."""
    last_used_time: Timestamp | None = None
    """When a runner last began or ended to see it."""
    error: EntryProblem | None = None
    """Why it is not where it should be."""


class TierStatus(Block):
    """What one tier holds."""

    capacity_bytes: Count = 0
    """How much it may hold."""
    used_bytes: Count = 0
    """Entries and what is being written."""
    unlinked_bytes: Count = 0
    """Evicted, but still mapped by a runner."""
    bytes_per_second: Count = 0
    """Measured: how fast the tier above is filled from it; of memory, how fast it is read."""


class NodeCacheStatus(Block):
    """What the node keeps."""

    observed_generation: Annotated[int, Field(ge=-1, json_schema_extra={"format": "int64"})] = -1
    """Generation of the spec this status speaks of."""
    conditions: Annotated[list[Condition], Field(max_length=8), UniqueBy("type")] = []
    """Ready: the agent works and the tiers are as the spec says."""
    boot_id: Annotated[str, StringConstraints(max_length=64)] = ""
    """Of the node's kernel: with another one, memory is empty."""
    device: Annotated[str, StringConstraints(max_length=128)] = ""
    """What code is compiled for here: accelerators, and a hash of the CPU's instructions."""
    memory: TierStatus = TierStatus()
    """The tmpfs."""
    disk: TierStatus | None = None
    """The folder on disk."""
    remote_bytes_per_second: Count = 0
    """Measured: how fast entries came from afar lately."""
    entries: Annotated[list[SeenEntry], Field(max_length=MAX_ENTRIES), UniqueBy("key")] = []
    """What is where."""
    in_memory: Annotated[str, StringConstraints(max_length=32)] = ""
    """The line that columns show: entries in memory of those wanted there, e.g. 3/4."""
    memory_use: Annotated[str, StringConstraints(max_length=64)] = ""
    """The same of bytes, e.g. 96.5Gi/128Gi."""
    disk_use: Annotated[str, StringConstraints(max_length=64)] = ""
    """The same of the disk."""
    activity: Summary = ""
    """What happens now, e.g. `fetching qwen3-0-6b 41%, 210 MB/s`."""


class ObjectMeta(Block):
    """Metadata of the object, as far as it matters here."""

    model_config = ConfigDict(extra="ignore")

    name: str
    """Name of the node."""


class NodeCache(Block):
    """What one node is to keep of weights, and what it keeps."""

    api_version: Literal["warmfleet.dev/v1alpha1"]
    """Version of this schema."""
    kind: Literal["NodeCache"]
    """Kind of the object."""
    metadata: ObjectMeta
    """Standard object metadata."""
    spec: NodeCacheSpec
    """What the node is to keep, written by the operator."""
    status: NodeCacheStatus = NodeCacheStatus()
    """What it keeps, written by the node's agent."""
