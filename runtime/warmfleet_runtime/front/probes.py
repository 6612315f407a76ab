"""The status port's application: status, metrics, and what the kubelet asks."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from warmfleet_api import names
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.front.exposition import exposition
from warmfleet_runtime.front.status import StartsEndpoint, StatusEndpoint
from warmfleet_runtime.front.upstream import Upstream


def status_app(board: Board, registry: CollectorRegistry, upstream: Upstream) -> Starlette:
    """Return the application of the status port."""

    async def metrics(_: Request) -> Response:
        return Response(await exposition(registry, board, upstream), media_type=CONTENT_TYPE_LATEST)

    def probe(is_good: Callable[[], bool], otherwise: str) -> Callable[[Request], Response]:
        def answer(_: Request) -> Response:
            good = is_good()
            return PlainTextResponse("ok\n" if good else otherwise + "\n", 200 if good else 503)

        return answer

    return Starlette(
        routes=[
            Route(names.PATH_STATUS, StatusEndpoint(lambda _: board.feed)),
            Route(names.PATH_STARTS, StartsEndpoint(lambda _: board.table.starts)),
            Route(names.PATH_METRICS, metrics),
            Route(
                names.PATH_STARTUP,
                probe(lambda: board.is_live and board.table.startup_over, "an engine is still starting"),
            ),
            Route(names.PATH_READY, probe(lambda: board.is_ready, "not every assigned engine is Ready")),
            Route(names.PATH_LIVE, probe(lambda: board.is_live, "PID 1 says nothing")),
        ]
    )
