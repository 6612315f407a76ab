"""From a stream to a complete answer: when an engine's stream breaks before its first byte, the client still gets one.

It gets what it asked for, a stream: the complete answer as a single event, with usage if it wanted that, and [DONE].
"""

from typing import Any

import msgspec

from warmfleet_http.replies import DONE

_CHUNK_KINDS = {"chat.completion": "chat.completion.chunk"}
"""What a part of an answer is called, where that differs from the whole."""


def without_stream(body: bytes) -> bytes:
    """Return the request for the complete answer.

    Raises:
        msgspec.MsgspecError: the body is no JSON object.
    """
    fields = msgspec.json.decode(body, type=dict[str, Any])
    fields.pop("stream_options", None)
    return msgspec.json.encode(fields | {"stream": False})


def as_stream(answer: bytes, body: bytes) -> bytes:
    """Return a complete answer to the request with this body as a stream's events.

    Raises:
        msgspec.MsgspecError: one of them is no JSON object.
    """
    whole = msgspec.json.decode(answer, type=dict[str, Any])
    options = msgspec.json.decode(body, type=dict[str, Any]).get("stream_options") or {}
    usage = whole.pop("usage", None)
    head = whole | {"object": _CHUNK_KINDS.get(whole.get("object", ""), whole.get("object"))}
    events = [head | {"choices": [_part(choice) for choice in whole.get("choices", [])]}]
    if options.get("include_usage"):
        events.append(head | {"choices": [], "usage": usage})
    encoded = [b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events]
    return b"".join([*encoded, DONE])


def _part(choice: dict[str, Any]) -> dict[str, Any]:
    if "message" not in choice:
        return choice
    delta = {name: value for name, value in choice["message"].items() if value is not None}
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return {name: value for name, value in choice.items() if name != "message"} | {"delta": delta}
