"""What the queue is asked and what it answers, as plain data."""

from dataclasses import dataclass

from warmfleet_api.vocabulary import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as the queue sees it. All times are monotonic seconds."""

    id: int
    """Unique among the requests the queue holds."""
    tenant: str
    session: str = ""
    """Empty: of no session."""
    priority: Priority
    arrived: float
    deadline: float | None = None
    """When the sender gives up waiting for the first token, if it said so."""
    prompt_tokens: int
    """All prompts together, estimated."""
    answer_tokens: int
    """The most one sequence may generate."""
    sequences: int = 1
    merge_key: bytes | None = None
    """Equal keys of one tenant ask for the same answer; None: the answer is not determined by the request."""

    @property
    def tokens(self) -> int:
        """The most it may hold of the engine's cache."""
        return self.prompt_tokens + self.sequences * self.answer_tokens


@dataclass(frozen=True, slots=True)
class Accepted:
    """It waits. `Queue.take` names it when its turn comes, `Queue.expire` if that comes too late."""


@dataclass(frozen=True, slots=True)
class Merged:
    """It gets the answer of an earlier, identical request, from the answer's beginning."""

    leader_id: int


@dataclass(frozen=True, slots=True)
class Refused:
    """It is not served, and why."""

    status: int
    """400: it never can be; 429: not now."""
    code: str
    message: str
    """Says what the sender can do."""
    retry_after_seconds: int | None = None
    """Set with 429."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send this one to the engine now."""

    id: int
    waited_seconds: float
