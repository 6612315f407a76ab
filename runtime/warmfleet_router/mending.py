"""Streams that break off at their engine: the client gets the rest from the complete answer of another one.

What went to the client is kept meanwhile, whole events only. Where the complete answer goes on exactly as the stream
began, its rest is one more event, with usage if that was asked for, and [DONE]: the client sees one stream. Where it
does not, the stream ends with an error, or, if the client asked for that, with the complete answer as it is.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from warmfleet_api import names
from warmfleet_api.vocabulary import BrokenStream
from warmfleet_http import fallback
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Header
from warmfleet_http.replies import DONE
from warmfleet_router.cache.rules import CHAT, COMPLETIONS, is_deterministic
from warmfleet_router.refusals import RefusedError

MAX_SENT_BYTES = 4 * 1024 * 1024
"""A stream that is longer is not mended."""
MAX_WHOLE_BYTES = 16 * 1024 * 1024
_DATA = b"data:"
_DONE = b"[DONE]"
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
"""Fields of a message that come in pieces."""


class Wanted(StrEnum):
    """What a client gets whose stream breaks off."""

    ERROR = "Error"
    COMPLETE = "Complete"
    REPLACE = "Replace"
    """As `Complete`, for any request; a complete answer that goes on differently comes as the last event."""


def wanted(header: bytes, model: BrokenStream) -> Wanted:
    """Return what a request asks for, else its model.

    Raises:
        RefusedError: the header says something else.
    """
    if not header:
        return Wanted(model)
    try:
        return Wanted(header.decode("latin-1").strip().capitalize())
    except ValueError:
        message = f"{names.HEADER_BROKEN_STREAM} has to be Error, Complete or Replace"
        raise RefusedError(400, "invalid_request", message) from None


def can_mend(path: str, body: bytes, wish: Wanted) -> bool:
    """Return whether a complete answer may be asked for in place of a stream's rest."""
    if wish is Wanted.ERROR or path not in {CHAT, COMPLETIONS}:
        return False
    try:
        return wish is Wanted.REPLACE or is_deterministic(body)
    except msgspec.MsgspecError:
        return False


class Mendable(Answer):
    """Passes a stream on in whole events, and keeps them; that it broke off is not passed on.

    `inner` gets all of it. An engine's error within the stream counts as its end.
    """

    __slots__ = ("_is_passing", "_rest", "_sent", "_sent_bytes", "broken", "inner")

    def __init__(self, inner: Answer) -> None:
        super().__init__()
        self.inner = inner
        inner.source = self
        self._rest = b""
        self._sent: list[bytes] = []
        self._sent_bytes = 0
        self._is_passing = False
        self.broken = ""
        """Why it broke off; empty: it did not."""

    @property
    def sent(self) -> bytes | None:
        """What the client has; None: more than is kept."""
        return b"".join(self._sent) if self._sent_bytes <= MAX_SENT_BYTES else None

    @property
    def _last_sent(self) -> bytes:
        return self._sent[-1] if self._sent else b""

    def break_off(self, message: str) -> None:
        """Keep why."""
        if self.is_stream and self._last_sent.endswith(DONE):
            self.is_ended = True
            self.inner.finish()
        elif self.is_stream:
            self.is_ended = True
            self.broken = self.broken or message
        else:
            self.inner.break_off(message)

    def pause_reading(self) -> None:
        """The client is behind."""
        if self.source is not None:
            self.source.pause_reading()

    def resume_reading(self) -> None:
        """It has caught up."""
        if self.source is not None:
            self.source.resume_reading()

    async def drain(self) -> None:
        """Wait for the client."""
        await self.inner.drain()

    def abort(self) -> None:
        """Cut the connection."""
        self.is_ended = True
        self.inner.abort()

    def _start(self, status: int, headers: list[Header]) -> None:
        if not self.inner.status:
            self.inner.start(status, headers)
        is_stream = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
        self._is_passing = status != 200 or not is_stream

    def _write(self, data: bytes) -> None:
        if self._is_passing:
            self.inner.write(data)
        elif events := self._whole_events(data):
            self.inner.write(events)

    def _finish(self, data: bytes) -> None:
        if self._is_passing:
            self.inner.finish(data)
            return
        events = self._whole_events(data)
        if self.broken or not (events or self._last_sent).endswith(DONE):
            self.broken = self.broken or "the stream ended without [DONE]"
            if events:
                self.inner.write(events)
            return
        self.inner.finish(events)

    def _whole_events(self, data: bytes) -> bytes:
        if self.broken:
            return b""
        data = self._rest + data
        end = data.rfind(b"\n\n") + 2
        events, self._rest = (data[:end], data[end:]) if end > 1 else (b"", data)
        at = 0 if events.startswith(b'data: {"error"') else events.find(b'\n\ndata: {"error"') + 2
        if at != 1:
            self.broken = _message(events[at:])
            events = events[:at]
        self._sent_bytes += len(events)
        if self._sent_bytes <= MAX_SENT_BYTES and events:
            self._sent.append(events)
        return events


class Whole(Answer):
    """Keeps an answer instead of sending it, up to a size."""

    __slots__ = ("_parts", "_size_bytes", "is_broken")

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self.is_broken = False

    @property
    def body(self) -> bytes | None:
        """The complete answer; None: there is none."""
        return b"".join(self._parts) if self.status == 200 and self.is_ended and not self.is_broken else None

    def break_off(self, message: str) -> None:
        """It will not be whole."""
        self.abort()

    async def drain(self) -> None:
        """Nobody is behind."""

    def abort(self) -> None:
        """It will not be whole."""
        self.is_broken = self.is_ended = True

    def _start(self, status: int, headers: list[Header]) -> None:
        """Nothing is sent."""

    def _write(self, data: bytes) -> None:
        self._size_bytes += len(data)
        if self._size_bytes > MAX_WHOLE_BYTES:
            self._parts, self.is_broken = [], True
        elif not self.is_broken:
            self._parts.append(data)

    def _finish(self, data: bytes) -> None:
        self._write(data)


def rest(sent: bytes, whole: bytes, body: bytes) -> bytes | None:
    """Return the end of a stream of which `sent` is the beginning, from the complete answer to the same request.

    Args:
        sent: whole events.
        whole: the complete answer.
        body: the request's.

    Returns:
        Events up to [DONE]; None: the complete answer does not go on as the stream began, or nobody can tell.
    """
    try:
        told = _Told()
        for event in sent.split(b"\n\n"):
            told.take(event)
        if not told.head:
            return fallback.as_stream(whole, body)
        answer = msgspec.json.decode(whole, type=dict[str, Any])
        asked = msgspec.json.decode(body, type=dict[str, Any])
        if asked.get("logprobs"):
            return None
        choices = []
        for choice in answer["choices"]:
            began = told.choices.get(choice["index"], _Began())
            if began.has_ended:
                continue
            left = began.left(choice)
            if left is None:
                return None
            choices.append(left)
        return fallback.as_stream(msgspec.json.encode(answer | told.head | {"choices": choices}), body)
    except (msgspec.MsgspecError, LookupError, TypeError, AttributeError):
        return None


def replacement(whole: bytes) -> bytes:
    """Return the end of a stream that gives the complete answer instead of what came before."""
    return _DATA + b" " + msgspec.json.encode(msgspec.json.decode(whole)) + b"\n\n" + DONE


@dataclass(slots=True)
class _Call:
    name: str = ""
    arguments: str = ""


class _Began:
    """What a client has of one choice."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.calls: dict[int, _Call] = {}
        self.has_ended = False

    def take(self, choice: dict[str, Any]) -> None:
        self.has_ended = self.has_ended or choice.get("finish_reason") is not None
        delta = choice.get("delta") or {"text": choice.get("text")}
        for name in (*_TEXTS, "text"):
            if delta.get(name):
                self.texts[name] = self.texts.get(name, "") + delta[name]
        for call in delta.get("tool_calls") or ():
            known = self.calls.setdefault(call["index"], _Call())
            function = call.get("function") or {}
            known.name += function.get("name") or ""
            known.arguments += function.get("arguments") or ""

    def left(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """Return a complete choice less what the client has; None: that is not its beginning."""
        message = choice.get("message")
        whole = choice if message is None else message
        left = dict(whole)
        for name, had in self.texts.items():
            text = whole.get(name) or ""
            if not text.startswith(had):
                return None
            left[name] = text[len(had) :]
        calls = [{"index": index, **call} for index, call in enumerate(whole.get("tool_calls") or ())]
        if any(index >= len(calls) for index in self.calls):
            return None
        for index, had_call in self.calls.items():
            function = calls[index]["function"]
            if function["name"] != had_call.name or not function["arguments"].startswith(had_call.arguments):
                return None
            calls[index] = {"index": index, "function": {"arguments": function["arguments"][len(had_call.arguments) :]}}
        if calls:
            left["tool_calls"] = calls
        if message is None:
            return left
        left.pop("role", None)
        return choice | {"message": left}


class _Told:
    """What a client has of a stream."""

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        """Fields that are the same in all events."""
        self.choices: dict[int, _Began] = {}

    def take(self, event: bytes) -> None:
        if not event.startswith(_DATA):
            return
        data = event[len(_DATA) :].strip()
        if data == _DONE:
            return
        told = msgspec.json.decode(data, type=dict[str, Any])
        self.head = {name: told[name] for name in ("id", "created", "model") if name in told}
        for choice in told.get("choices") or ():
            self.choices.setdefault(choice["index"], _Began()).take(choice)


def _message(event: bytes) -> str:
    """Return what an engine's error says."""
    try:
        told = msgspec.json.decode(event.partition(b"\n\n")[0][len(_DATA) :], type=dict[str, Any])
        return str(told["error"]["message"])
    except (msgspec.MsgspecError, LookupError, TypeError):
        return "the engine failed"
