"""The plan of one owner, model or pool: what of it goes and what is missing."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """Something that is there and can be let go."""

    @property
    def name(self) -> str:
        """Its name, unique among those of its owner."""


Present = TypeVar("Present", bound=Named)
Missing = TypeVar("Missing")


@dataclass(slots=True)
class Plan(Generic[Present, Missing]):
    """What shall change for one owner."""

    deletes: list[tuple[Present, str]] = field(default_factory=list)
    """What goes, each with the reason in words."""
    starts: list[Missing] = field(default_factory=list)
    avoid: set[str] = field(default_factory=set)
    """Nodes that just failed to take a runner."""

    def delete(self, present: Iterable[Present], reason: str) -> None:
        """Let some go."""
        self.deletes += [(each, reason) for each in present]

    @property
    def deleted(self) -> set[str]:
        """Names of those that go."""
        return {each.name for each, _ in self.deletes}
