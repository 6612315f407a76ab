"""What a plan says: steps to begin now, in this order, and what waits. Each with its reason in words."""

from dataclasses import dataclass

from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the source for revision, files and sizes."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Begin to fetch from the source into `target`."""

    key: str
    target: Tier
    bytes: int
    room_bytes: int
    """To be reserved in the target before the first byte."""
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Begin to copy from disk to memory."""

    key: str
    bytes: int
    room_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Demote:
    """Begin to copy from memory to disk; an eviction from memory costs little from then on."""

    key: str
    bytes: int
    room_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End a transfer under way. In memory its draft goes with it; on disk a `Discard` follows."""

    key: str
    target: Tier
    reason: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete a draft that was kept to go on with."""

    key: str
    tier: Tier
    reason: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Remove an entry from a tier. If a reader holds it by now, carry out nothing that follows but plan anew."""

    key: str
    tier: Tier
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Link:
    """Show an entry of memory in a view."""

    view: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """Take an entry out of a view; the view itself stays."""

    view: str
    key: str
    reason: str


Step = Ask | Fetch | Promote | Demote | Stop | Discard | Evict | Link | Unlink


@dataclass(frozen=True, slots=True)
class Wait:
    """A wanted entry for which nothing is begun and nothing is under way, though it is not where it should be."""

    key: str
    state: EntryState
    """Waiting: for its turn or for room. Failed: tried again at `until`, or never."""
    message: str
    """Why, with numbers."""
    reason: WeightsProblem | None = None
    """None: it waits for its turn."""
    until: float | None = None
    """When it is looked at again at latest; None: at the next change."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. Steps are begun in this order; transfers go on beside each other, everything else is quick."""

    steps: tuple[Step, ...] = ()
    waits: tuple[Wait, ...] = ()
    """In the order of their turn."""
    next_time: float | None = None
    """Plan again at latest then, even if nothing has changed."""
    warnings: tuple[str, ...] = ()
    """What holds for the node as a whole, e.g. a tier above its budget with nothing that may go."""
