"""What a plan is made from: one node's tiers, what is wanted of them, and what is under way. Plain data.

Times are unix seconds, as `time.time()` gives them.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from warmfleet_api.vocabulary import Priority, Tier, WeightsProblem

MANIFEST_BYTES = 8192
MANIFEST_BYTES_PER_FILE = 704
"""With a path of up to 512 bytes."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An entry the node is to keep: `WantedEntry` of its NodeCache, without what only the download needs."""

    key: str
    tier: Tier
    """Memory, Disk, or Remote: only its revision and sizes are asked for."""
    priority: Priority = Priority.NORMAL
    is_pinned: bool = False
    """Never evicted, from no tier."""
    uses_per_day: float = 0.0
    """How often it is expected to be started from here."""
    saves_seconds: float = 0.0
    """What a start takes longer without it; 0: what its fetch takes."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a source answered about an entry."""

    file_bytes: tuple[int, ...]
    """Size of each file."""
    asked: float
    """When it answered."""

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(self.file_bytes)


@dataclass(frozen=True, slots=True)
class Held:
    """A whole entry in one tier."""

    key: str
    file_bytes: tuple[int, ...]
    """Size of each file, as its manifest says."""
    arrived: float
    """When it became whole here."""
    is_locked: bool = False
    """A reader holds it: it can't be evicted now."""

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(self.file_bytes)


@dataclass(frozen=True, slots=True)
class TierState:
    """One tier that can hold entries: a store as it is now."""

    capacity_bytes: int
    free_bytes: int
    """What may still be reserved, as the store counts it (`Usage.free_bytes`): without entries, drafts and what is
    unlinked but still mapped. Negative when the capacity has shrunk below what is there."""
    held: Mapping[str, Held] = field(default_factory=dict)
    idle_drafts: Mapping[str, int] = field(default_factory=dict)
    """What drafts take that were kept to go on with, in bytes by key: the whole room of the entry. Those of transfers
    under way are not here."""
    page_bytes: int = 4096
    """What the size of a file is rounded up to: 2 MiB in a tmpfs with huge pages."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer under way: remote -> disk or memory (fetch), disk -> memory (promote), memory -> disk (demote)."""

    key: str
    source: Tier
    target: Tier
    bytes: int
    """Size of the entry."""
    done_bytes: int = 0
    bytes_per_second: float = 0.0
    room_bytes: int = 0
    """What it needs in its target, as its step said."""
    is_reserved: bool = False
    """Whether its draft has its room already, so that the tier's free bytes are without it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The last failure of an entry. It stands until the entry arrived, or the answer came."""

    reason: WeightsProblem
    message: str
    """What happened, and the next command to type."""
    since: float
    """When it failed."""
    until: float
    """Nothing is tried again before; `math.inf`: not before the wish has changed."""
    tier: Tier = Tier.REMOTE
    """Where it failed: Remote stops asking and fetching, Disk whatever passes through the disk."""


@dataclass(frozen=True, slots=True)
class Use:
    """How often and how recently an entry was used: each use counts half after `value.HALF_LIFE_SECONDS`."""

    count: float
    """Uses, weighed so at `last`."""
    last: float
    """When it was used last."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node."""

    memory: TierState
    disk: TierState | None = None
    """None: the node keeps nothing on disk, or its disk can't be used now."""
    wanted: Mapping[str, Wanted] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)
    """Answers of sources, by key."""
    views: Mapping[str, Set[str]] = field(default_factory=dict)
    """What each runner is to see: keys by view."""
    links: Mapping[str, Set[str]] = field(default_factory=dict)
    """What each view shows now."""
    transfers: tuple[Transfer, ...] = ()
    asking: Set[str] = frozenset()
    """Keys whose sources are being asked."""
    problems: Mapping[str, Problem] = field(default_factory=dict)
    uses: Mapping[str, Use] = field(default_factory=dict)
    """What was used; see `value.used`. An entry of which nothing is known counts by its wish alone."""
    parallel: int = 2
    """Entries fetched at once."""
    remote_bytes_per_second: float = 0.0
    """As measured; 0: not yet."""
    disk_bytes_per_second: float = 0.0
    """As measured; 0: not yet."""


def room_bytes(file_bytes: tuple[int, ...], page_bytes: int) -> int:
    """Return what an entry of these files takes in a tier at most: whole pages, and those of its manifest.

    The store reserves by the length of each path, which is not known here: a plan that counts a little more never asks
    for what the store refuses.
    """
    manifest_bytes = MANIFEST_BYTES + MANIFEST_BYTES_PER_FILE * len(file_bytes)
    return sum(-(-size // page_bytes) for size in (*file_bytes, manifest_bytes)) * page_bytes
