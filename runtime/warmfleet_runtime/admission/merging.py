"""Merging: identical requests of one tenant within the window hear one generation.

Nobody waits longer for being merged: a request joins a generation that runs, or one that is due before itself.
"""

from warmfleet_runtime.admission.entry import Entry
from warmfleet_runtime.admission.requests import Request


class Merges:
    """Who hears which generation."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, bytes], Entry] = {}
        self._leaders: dict[int, Entry] = {}
        self.joined = 0
        """Requests that hear a generation which is not their own."""

    def find(self, request: Request, due: float, deadline: float, window_seconds: float) -> Entry | None:
        """Return the generation a request can join."""
        if request.merge_key is None or not window_seconds:
            return None
        entry = self._by_key.get((request.tenant, request.merge_key))
        if entry is None or request.arrived - entry.request.arrived > window_seconds:
            return None
        is_no_later = entry.dispatched is not None or (entry.due <= due and entry.deadline <= deadline)
        return entry if is_no_later else None

    def lead(self, entry: Entry) -> None:
        """Begin a generation that its request alone hears."""
        self._leaders[entry.id] = entry
        if entry.request.merge_key is not None:
            self._by_key[entry.request.tenant, entry.request.merge_key] = entry

    def join(self, request: Request, entry: Entry) -> None:
        """Let a request hear a generation."""
        entry.members.add(request.id)
        self._leaders[request.id] = entry
        self.joined += 1

    def leave(self, key: int) -> Entry | None:
        """Take one hearer away, and return the generation it heard; None: it is not known."""
        entry = self._leaders.pop(key, None)
        if entry is not None:
            entry.members.discard(key)
            self.joined -= key != entry.id
        return entry

    def end(self, entry: Entry) -> None:
        """End a generation for everybody."""
        for key in tuple(entry.members):
            self.leave(key)
        merge_key = entry.request.merge_key
        if merge_key is not None and self._by_key.get((entry.request.tenant, merge_key)) is entry:
            del self._by_key[entry.request.tenant, merge_key]
