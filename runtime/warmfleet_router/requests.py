"""What the router reads of a request: which model, whether a stream, how it begins, how long its client waits. Pure.

The body passes on as it came; runner and engine check the rest of it.
"""

import re
from collections.abc import Iterable

import msgspec

from warmfleet_api import names
from warmfleet_router.pick.affinity import PREFIX_BYTES, key_of
from warmfleet_router.refusals import RefusedError

_PATH = re.compile(r"/(?:v1(?:/[A-Za-z0-9_.-]+)+|tokenize|detokenize)")
_SESSION, _DEADLINE, _HEARTBEAT, _REQUEST_ID = (
    name.lower().encode()
    for name in (names.HEADER_SESSION, names.HEADER_DEADLINE, names.HEADER_HEARTBEAT, "X-Request-Id")
)
_PASSED_ON = frozenset({b"accept", b"traceparent", b"tracestate", _SESSION})
_BROKEN_STREAM = names.HEADER_BROKEN_STREAM.lower().encode()
_HEADERS = _PASSED_ON | {_DEADLINE, _HEARTBEAT, _REQUEST_ID, _BROKEN_STREAM, b"content-encoding"}
_MAX_SESSION_BYTES = 256
_MAX_ID_BYTES = 128
_DIGITS = 12


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Body).decode


class Asked(msgspec.Struct, frozen=True):
    """A request as the router sees it."""

    model: str
    stream: bool
    prompt: memoryview
    """As JSON: messages, a prompt or an input."""
    passed_on: tuple[tuple[bytes, bytes], ...]
    """Headers for the runner, as they came."""
    session: bytes = b""
    request_id: str = ""
    patience_seconds: float | None = None
    """How long the client waits for the first byte; None: it does not say."""
    heartbeat_seconds: float = 0.0
    """How often a held stream shows that it is alive; 0: never."""
    broken_stream: bytes = b""
    """What it gets if its engine breaks off; empty: what its model says."""

    @property
    def session_key(self) -> int | None:
        """The session, for choosing an engine."""
        return key_of(self.session) if self.session else None

    @property
    def prefix_key(self) -> int | None:
        """The beginning of the prompt, for choosing an engine."""
        return key_of(bytes(self.prompt[:PREFIX_BYTES])) if self.prompt else None


def is_forwarded(path: str) -> bool:
    """Whether requests to a path go to engines."""
    return _PATH.fullmatch(path) is not None


def read(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Asked:
    """Read a request; header names are in lower case.

    Raises:
        RefusedError: it can't be read.
    """
    found = {name: value for name, value in headers if name in _HEADERS}
    if found.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RefusedError(415, "unsupported_encoding", "send the body without Content-Encoding")
    fields = _read_body(body)
    session = found.get(_SESSION, b"")
    if len(session) > _MAX_SESSION_BYTES:
        raise _bad(f"{names.HEADER_SESSION} has to be at most {_MAX_SESSION_BYTES} bytes")
    prompt = memoryview(fields.messages) or memoryview(fields.prompt) or memoryview(fields.input)
    return Asked(
        model=fields.model,
        stream=bool(fields.stream),
        prompt=prompt,
        passed_on=tuple((name, value) for name, value in found.items() if name in _PASSED_ON),
        session=session,
        request_id=found.get(_REQUEST_ID, b"")[:_MAX_ID_BYTES].decode("latin-1"),
        patience_seconds=_number(found[_DEADLINE], names.HEADER_DEADLINE) / 1000 if _DEADLINE in found else None,
        heartbeat_seconds=max(1, _number(found[_HEARTBEAT], names.HEADER_HEARTBEAT)) if _HEARTBEAT in found else 0.0,
        broken_stream=found.get(_BROKEN_STREAM, b""),
    )


def _read_body(body: bytes) -> _Body:
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        if "missing required field" in text:
            raise _bad("model is missing", param="model") from None
        param = next((name for name in _Body.__struct_fields__ if f"$.{name}`" in text), None)
        raise _bad(f"the body can't be read: {text}", param=param) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _bad(f"the body is not JSON: {error}", code="invalid_json") from None


def _bad(message: str, *, code: str = "invalid_request", param: str | None = None) -> RefusedError:
    return RefusedError(400, code, message, param=param)


def _number(value: bytes, name: str) -> int:
    if not value.isdigit() or len(value) > _DIGITS:
        raise _bad(f"{name} has to be a whole number")
    return int(value)
