"""The status port: the runner's status, its stream and its last starts, over plain ASGI. The player serves them too."""

from collections.abc import Callable, Sequence

import msgspec
from starlette.types import Receive, Scope, Send

from warmfleet_api.runner_status import StartRecord
from warmfleet_http.errors import ClientGoneError
from warmfleet_runtime.front.feed import Feed
from warmfleet_runtime.front.replies import reply, unless_client_leaves, write

_CONTENT_TYPE = "application/x-ndjson"


class StatusEndpoint:
    """`GET /v1/status`: the last line; with `?watch=1` a line at each change and heartbeat."""

    def __init__(self, find: Callable[[Scope], Feed | None]) -> None:
        self._find = find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        feed = self._find(scope)
        try:
            if feed is None:
                await reply(send, 404, {"error": "no runner has this address"})
            elif b"watch=1" not in scope["query_string"].split(b"&"):
                # Before the supervisor was heard there is nothing true to say.
                await reply(send, 200 if feed.line else 503, feed.line, content_type=_CONTENT_TYPE)
            else:
                await unless_client_leaves(_send_lines(feed, send), receive)
        except ClientGoneError:
            return


class StartsEndpoint:
    """`GET /v1/starts`: the last starts that ended, oldest first, one JSON line each."""

    def __init__(self, find: Callable[[Scope], Sequence[StartRecord] | None]) -> None:
        self._find = find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        starts = self._find(scope)
        try:
            if starts is None:
                await reply(send, 404, {"error": "no runner has this address"})
            else:
                lines = b"".join(msgspec.json.encode(start) + b"\n" for start in starts)
                await reply(send, 200, lines, content_type=_CONTENT_TYPE)
        except ClientGoneError:
            return


async def _send_lines(feed: Feed, send: Send) -> None:
    headers = [(b"content-type", _CONTENT_TYPE.encode())]
    await write(send, {"type": "http.response.start", "status": 200, "headers": headers})
    async for line in feed.lines():
        await write(send, {"type": "http.response.body", "body": line, "more_body": True})
    await write(send, {"type": "http.response.body", "body": b""})
