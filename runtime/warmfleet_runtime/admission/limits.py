"""Limits of one tenant and one session: what they may hold at once, queued and running together."""

from warmfleet_api.assignment import AdmissionLimits
from warmfleet_runtime.admission.requests import Refused, Request


class Holdings:
    """Sequences and tokens held, by tenant and by session of a tenant."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, ...], tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def refusal(self, request: Request, limits: AdmissionLimits, retry_after_seconds: int) -> Refused | None:
        """Return why a request is over a limit: 400 if it is so by itself, else 429."""
        for key in _keys(request):
            who, most = "session", (limits.sequences_per_session, limits.tokens_per_session)
            if len(key) == 1:
                who, most = "tenant", (limits.sequences_per_tenant, limits.tokens_per_tenant)
            held = self._held.get(key, (0, 0))
            for what, asked, has, may in zip(
                ("sequences", "tokens"), (request.sequences, request.tokens), held, most, strict=True
            ):
                if may and asked > may:
                    return Refused(400, f"{who}_limit", _never(who, what, asked, may))
                if may and has + asked > may:
                    return Refused(429, f"{who}_limit", _not_now(who, what, asked, has, may), retry_after_seconds)
        return None

    def enter(self, request: Request) -> None:
        """Count a request."""
        self._add(request, 1)

    def leave(self, request: Request) -> None:
        """Count it no more."""
        self._add(request, -1)

    def _add(self, request: Request, sign: int) -> None:
        for key in _keys(request):
            sequences, tokens = self._held.get(key, (0, 0))
            held = (sequences + sign * request.sequences, tokens + sign * request.tokens)
            if held == (0, 0):
                del self._held[key]
            else:
                self._held[key] = held


def _keys(request: Request) -> list[tuple[str, ...]]:
    if not request.session:
        return [(request.tenant,)]
    return [(request.tenant,), (request.tenant, request.session)]


def _never(who: str, what: str, asked: int, may: int) -> str:
    field = "n" if what == "sequences" else "the prompt or max_tokens"
    return f"the request asks for {asked} {what}, one {who} may hold {may} of this model; lower {field}"


def _not_now(who: str, what: str, asked: int, has: int, may: int) -> str:
    return (
        f"the {who} holds {has} {what} of this model and asks for {asked} more, the limit is {may}; "
        "send it again when one of its requests has ended"
    )
