"""What the API answers by itself, in OpenAI's shape."""

from collections.abc import Iterable

from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Header
from warmfleet_http.replies import openai_error
from warmfleet_runtime.admission import Refused
from warmfleet_runtime.front.request import BadRequest

_STATE = names.HEADER_STATE.lower().encode()


def bad_request(answer: Answer, message: str, code: str = "invalid_request", status: int = 400) -> None:
    """Refuse what the client sent."""
    answer.reply(status, openai_error(message, "invalid_request_error", code))


def bad_body(answer: Answer, refused: BadRequest) -> None:
    """Refuse a body no engine could serve."""
    answer.reply(refused.status, refused.body)


def wrong_method(answer: Answer, path: str, expected: str) -> None:
    """Refuse a method that a path does not take."""
    error = openai_error(f"{path} takes {expected}", "invalid_request_error", "method_not_allowed")
    answer.reply(405, error, [(b"allow", expected.encode())])


def unknown_model(answer: Answer, model: str, served: Iterable[str]) -> None:
    """Refuse a model that is not served here, and name those that are."""
    known = ", ".join(sorted(served)) or "none"
    bad_request(answer, f"model {model!r} is not served here; served: {known}", "model_not_found", 404)


def refused(answer: Answer, refusal: Refused, load: Header) -> None:
    """Say that the queue does not serve a request."""
    kind = "rate_limit_error" if refusal.status == 429 else "invalid_request_error"
    headers = [load]
    if refusal.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after_seconds))
    answer.reply(refusal.status, openai_error(refusal.message, kind, refusal.code), headers)


def not_ready(answer: Answer, model: str, state: EngineState, reason: str = "") -> None:
    """Say that the engine does not take requests now, and when to ask again."""
    message = f"model {model!r} is {state}" + (f": {reason}" if reason else "")
    # A draining engine has or gets a successor behind the same Service; a starting one takes seconds at least.
    again = b"1" if state is EngineState.DRAINING else b"5"
    headers = [(b"retry-after", again), (_STATE, state.encode())]
    answer.reply(503, openai_error(message, "service_unavailable", "model_not_ready"), headers)


def too_late(answer: Answer, message: str) -> None:
    """Say that the engine took too long."""
    answer.reply(504, openai_error(message, "timeout", "engine_timeout"))
