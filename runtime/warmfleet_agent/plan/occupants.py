"""Who takes room in a tier, who of them may go, and what each is worth there."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from warmfleet_agent.plan import words
from warmfleet_agent.plan.room import Kind, Occupant
from warmfleet_agent.plan.state import Held, NodeState, TierState, room_bytes
from warmfleet_agent.plan.value import Values
from warmfleet_api.vocabulary import Tier


class Occupants:
    """The occupants of one tier in one state."""

    def __init__(self, tier: Tier, store: TierState, state: NodeState, values: Values) -> None:
        self._tier = tier
        self._store = store
        self._state = state
        self._values = values

    def list(self, stopped: AbstractSet[str]) -> list[Occupant]:
        """Return them all, without transfers and drafts that are being stopped."""
        read = {
            transfer.key
            for transfer in self._state.transfers
            if transfer.source is self._tier and transfer.key not in stopped
        }
        return [*(self._entry(held, read) for held in self._store.held.values()), *self._unfinished(stopped)]

    def _entry(self, held: Held, read: AbstractSet[str]) -> Occupant:
        key = held.key
        wanted = self._state.wanted.get(key)
        immovable = ""
        if wanted is not None and wanted.is_pinned:
            immovable = "pinned"
        elif held.is_locked:
            immovable = "a runner reads it"
        elif self._tier is Tier.MEMORY and key in self._values.seen:
            immovable = "a runner sees it"
        elif key in read:
            immovable = "being copied"
        return Occupant(
            kind=Kind.ENTRY,
            key=key,
            room_bytes=room_bytes(held.file_bytes, self._store.page_bytes),
            priority=self._values.priority(key),
            is_demanded=self._is_demanded(key),
            immovable=immovable,
            arrived=held.arrived,
            merit=self._values.merit(key, held.bytes),
            value=self._values.value(key, held.bytes, self._tier),
            note=self._note(held),
        )

    def _is_demanded(self, key: str) -> bool:
        """Whether the wishes want the entry in this tier; a copy below a nearer one is of use, but not demanded."""
        least = self._values.least_tier(key)
        if self._tier is Tier.MEMORY:
            # Memory serves a wish for the disk as well, as long as the disk doesn't.
            on_disk = self._state.disk is not None and key in self._state.disk.held
            return least is Tier.MEMORY or (least is Tier.DISK and not on_disk)
        return least is Tier.DISK or (least is Tier.MEMORY and key not in self._state.memory.held)

    def _note(self, held: Held) -> str:
        wanted = self._state.wanted.get(held.key)
        back = words.duration(self._values.back_seconds(held.key, held.bytes, self._tier))
        worth = f"{self._values.per_day(held.key):.1f} uses a day, {back} to have it back"
        if wanted is None:
            return f"nobody wants it; {worth}"
        return f"nobody demands it; {worth}" if wanted.tier is Tier.REMOTE else f"{wanted.priority}, {worth}"

    def _unfinished(self, stopped: AbstractSet[str]) -> Iterable[Occupant]:
        for transfer in self._state.transfers:
            if transfer.target is self._tier and transfer.key not in stopped:
                yield self._part(Kind.TRANSFER, transfer.key, transfer.room_bytes, transfer.bytes)
        for key, size_bytes in sorted(self._store.idle_drafts.items()):
            if key not in stopped:
                yield self._part(Kind.DRAFT, key, size_bytes, size_bytes)

    def _part(self, kind: Kind, key: str, size_bytes: int, content_bytes: int) -> Occupant:
        wanted = self._state.wanted.get(key)
        immovable = ""
        if kind is Kind.TRANSFER and key in self._values.seen:
            immovable = "a runner waits for it"
        elif kind is Kind.TRANSFER and wanted is not None and wanted.is_pinned:
            immovable = "pinned"
        in_memory = key in self._state.memory.held
        return Occupant(
            kind=kind,
            key=key,
            room_bytes=size_bytes,
            priority=self._values.priority(key),
            is_demanded=self._values.least_tier(key) is not Tier.REMOTE and not in_memory,
            immovable=immovable,
            arrived=0.0,
            merit=self._values.merit(key, content_bytes),
            value=0.0,
            note="it was not whole yet",
        )
