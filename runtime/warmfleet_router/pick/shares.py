"""Which requests try a canary: exactly its share of them, and of a session all or none.

Requests without a session are counted: each adds the weight, and the one that makes a hundred full tries the canary. So
of any hundred in a row as many do as the weight says, at every router by itself. A session is for one side by the hash
of its name, which all routers take alike.
"""

from dataclasses import dataclass, field

from warmfleet_router.catalog import ModelKey, Split

_WHOLE = 100


@dataclass(slots=True)
class Shares:
    """Counts the requests of one router."""

    _filled: dict[ModelKey, int] = field(default_factory=dict)
    """Of the next hundred."""

    def tries_canary(self, model: ModelKey, split: Split, session_key: int | None) -> bool:
        """Return whether a new request is for the canary."""
        if session_key is not None:
            return session_key % _WHOLE < split.weight
        filled = self._filled.get(model, 0) + split.weight
        self._filled[model] = filled % _WHOLE
        return filled >= _WHOLE

    def forget(self, model: ModelKey) -> None:
        """A model is gone."""
        self._filled.pop(model, None)
