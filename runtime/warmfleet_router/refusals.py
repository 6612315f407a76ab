"""Refusals: what a client is told when its request is not served, with the time to come back and the model's state."""

import math
from dataclasses import dataclass
from typing import Any

UNKNOWN_SECONDS = 10
"""To come back after, where nobody can tell when the model will be ready."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of a model that does not answer yet."""

    state: str = ""
    """Reason of its condition Ready."""
    position: int = 0
    """Place in the queue of starts, 1 is next; 0: it starts, or is not queued."""
    of: int = 0
    ready_seconds: float | None = None
    """From now; None: not known."""
    blocker: str = ""

    @property
    def retry_after_seconds(self) -> int:
        """When it is worth to come back."""
        return UNKNOWN_SECONDS if self.ready_seconds is None else max(1, math.ceil(self.ready_seconds))

    def words(self) -> str:
        """Say it."""
        parts = []
        if self.position:
            parts.append(f"it is number {self.position} of {self.of} starts that wait")
        if self.ready_seconds is not None:
            parts.append(f"it is expected to answer in {max(0, math.ceil(self.ready_seconds))} s")
        if self.blocker:
            parts.append(self.blocker)
        return "; ".join(parts)


class RefusedError(Exception):
    """A request is not served.

    Args:
        status: HTTP status.
        code: for machines.
        message: what happened and what to do.
        retry_after_seconds: None: coming back does not help.
        outlook: of the model, where that is the reason.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after_seconds: int | None = None,
        outlook: Outlook | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.outlook = outlook
        self.param = param

    def body(self) -> dict[str, Any]:
        """Return an error as OpenAI's clients read it; what is known of the model stands beside it."""
        error = {"message": str(self), "type": _KINDS.get(self.status, "server_error"), "param": self.param}
        whole: dict[str, Any] = {"error": error | {"code": self.code}}
        if (outlook := self.outlook) is not None:
            whole["warmfleet"] = {
                "state": outlook.state,
                "position": outlook.position,
                "of": outlook.of,
                "readySeconds": None if outlook.ready_seconds is None else round(outlook.ready_seconds, 1),
                "blocker": outlook.blocker,
            }
        return whole


class ModelGoneError(RefusedError):
    """The model for which a request was held is deleted; its name may mean another one by now."""

    def __init__(self, name: str) -> None:
        super().__init__(404, "model_not_found", f"model {name!r} was deleted", param="model")


_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable",
    504: "timeout",
}


def waiting(code: str, message: str, outlook: Outlook, status: int = 503) -> RefusedError:
    """Return a refusal for a model that does not answer yet."""
    known = outlook.words()
    text = f"{message}: {known}" if known else message
    return RefusedError(status, code, text, retry_after_seconds=outlook.retry_after_seconds, outlook=outlook)


def stopped(name: str, namespace: str, model: str) -> RefusedError:
    """Return the refusal of a model that nobody may wake."""
    message = f"model {name!r} is stopped; start it with: kubectl -n {namespace} scale mdl {model} --replicas=1"
    return RefusedError(503, "model_stopped", message, outlook=Outlook(state="Stopped"))


def unknown_model(name: str, served: list[str]) -> RefusedError:
    """Return the refusal of a name that no model has."""
    known = ", ".join(served) or "none"
    return RefusedError(404, "model_not_found", f"model {name!r} is not served; served: {known}", param="model")
