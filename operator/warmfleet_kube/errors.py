"""What can go wrong between a process and the Kubernetes API.

::

    KubeError
    ├── Unreachable            no answer: refused, reset, or not within the time limit
    ├── UnreadableAnswer       an answer that is not what the API promises
    ├── StaleList              a list from before what was already seen
    └── ApiError               an answer with a status code of 400 or more
        ├── Invalid            400, 422; also a JSON patch whose `test` failed
        ├── Unauthorized       401
        ├── Forbidden          403; also a ResourceQuota that is used up
        ├── NotFound           404
        ├── Conflict           409; somebody else wrote in between, or a precondition failed
        │   └── AlreadyExists  409 on creation
        ├── Gone               410; the resourceVersion is too old to watch from
        ├── TooManyRequests    429; says when to come back
        └── ServerError        5xx

    ProcessError              ends the process with its message; nobody needs a traceback
    └── BadSetting             an environment variable or kubeconfig a person has to change
"""

from typing import ClassVar


class KubeError(Exception):
    """Any failure of a request to the Kubernetes API."""


class Unreachable(KubeError):
    """No answer came. Whether a write happened is unknown."""


class UnreadableAnswer(KubeError):
    """The answer can't be decoded."""


class StaleList(KubeError):
    """A list shows an older state than the watch before it did."""


class ApiError(KubeError):
    """The API server refused the request.

    Args:
        message: the server's own words.
        code: HTTP status.
        reason: the machine-readable reason of the server's `Status` object, may be empty.
        causes: reasons of the `Status` object's causes, e.g. `NamespaceTerminating`.
        retry_after_seconds: when the server asks to come back.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int,
        reason: str = "",
        causes: tuple[str, ...] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.causes = causes
        self.retry_after_seconds = retry_after_seconds


class Invalid(ApiError):
    """The object or patch is refused as it stands."""


class Unauthorized(ApiError):
    """The credentials are not accepted."""


class Forbidden(ApiError):
    """RBAC, admission or a quota refuses."""


class NotFound(ApiError):
    """The object, or its kind, does not exist."""


class Conflict(ApiError):
    """The object changed since it was read."""


class AlreadyExists(Conflict):
    """An object of that name exists."""


class Gone(ApiError):
    """The resourceVersion or continue token is too old: list again."""


class TooManyRequests(ApiError):
    """The server is busy; nothing was done."""


class ServerError(ApiError):
    """The server failed. Whether a write happened is unknown."""


class ProcessError(Exception):
    """Ends the process with its message and `exit_code`."""

    exit_code: ClassVar[int] = 1


class BadSetting(ProcessError):
    """A setting a person has to change; the message says which."""

    exit_code = 2


_BY_CODE: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def api_error(
    code: int,
    message: str,
    *,
    reason: str = "",
    causes: tuple[str, ...] = (),
    retry_after_seconds: float | None = None,
) -> ApiError:
    """Return the error of the tree above for a status code."""
    kind = _BY_CODE.get(code, ServerError if code >= 500 else ApiError)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    return kind(message, code=code, reason=reason, causes=causes, retry_after_seconds=retry_after_seconds)
