"""What is told of fetches: one event per transition of an entry on a node, in words with numbers.

Transitions are found by comparing a NodeCache with what it was, so what a new leader finds is not told again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from warmfleet_api import quantity
from warmfleet_api.node_cache import SeenEntry, WantedEntry
from warmfleet_api.vocabulary import EntryState, Tier
from warmfleet_operator.decide.events import EventReason


@dataclass(frozen=True, slots=True)
class EntryEvent:
    """An event about an entry on a node."""

    key: str
    uri: str
    type: Literal["Normal", "Warning"]
    reason: EventReason
    message: str


def entry_events(
    node: str,
    wanted: Mapping[str, WantedEntry],
    former: Mapping[str, SeenEntry],
    seen: Mapping[str, SeenEntry],
) -> Iterator[EntryEvent]:
    """Yield what became of the entries of a node since its NodeCache was `former`."""
    for key, entry in seen.items():
        before = former.get(key)
        if before is not None and (before.state, before.tier) == (entry.state, entry.tier):
            continue
        if key not in wanted:
            continue
        uri = wanted[key].uri
        if entry.state is EntryState.FAILED and entry.error is not None:
            message = f"{uri} on {node}: {entry.error.reason}: {entry.error.message}"
            yield EntryEvent(key, uri, "Warning", EventReason.FETCH_FAILED, message)
        elif before is not None and _arrived(before, entry):
            speed = f" at {quantity.format_bytes(entry.bytes_per_second)}/s" if entry.bytes_per_second else ""
            where = "in memory" if entry.tier is Tier.MEMORY else "on disk"
            message = f"{uri} is {where} on {node}: {quantity.format_bytes(entry.bytes)}{speed}"
            yield EntryEvent(key, uri, "Normal", EventReason.FETCHED, message)


def _arrived(before: SeenEntry, entry: SeenEntry) -> bool:
    """Whether an entry came nearer."""
    nearness = {Tier.MEMORY: 2, Tier.DISK: 1}
    return nearness.get(entry.tier, 0) > nearness.get(before.tier, 0)
