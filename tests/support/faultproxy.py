"""A proxy in front of the API server that counts the operator's requests and breaks them on order.

Plain HTTP on loopback towards the operator; towards the API server it adds the administrator's client
certificate and impersonates the operator's service account, so that the operator's own rights apply.
Each operator process gets its own proxy: whose request it was is then never in doubt.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDictProxy
from yarl import URL

from support.api_call import ApiCall, Match, parse
from support.kubeapi import Credentials

START_SECONDS = 10
TLS_END_SECONDS = 0.2
# Compression would hide what a recorded list holds.
_DROPPED_HEADERS = {"accept-encoding", "connection", "content-length", "host", "keep-alive", "transfer-encoding"}
_REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError"}

When = Literal["executed", "answered"]
"""At the moment the API server has executed a write that is not answered yet, or right after its answer."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and the HTTP status it was answered with."""

    call: ApiCall
    status: int


@dataclass(slots=True)
class _Refusal:
    """Answer `times` matching requests with `status` after letting `skip` pass."""

    match: Match
    status: int
    skip: int
    times: int


@dataclass(slots=True)
class _Trigger:
    """Run `action` at the `nth` matching write from now on."""

    match: Match
    nth: int
    when: When
    action: Callable[[], None]
    fired: threading.Event = field(default_factory=threading.Event)


class HeldWrite:
    """A write that has arrived, or will, and is kept from the API server until `release`."""

    def __init__(self, match: Match, loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
        self.arrived = threading.Event()
        self._match = match
        self._loop = loop
        self._action = action
        self._released = asyncio.Event()

    def takes(self, call: ApiCall) -> bool:
        """Whether `call` is the write to hold; from then on no other is."""
        return call.is_write and not self.arrived.is_set() and self._match(call)

    async def hold(self) -> None:
        """Tell that the write is here and wait for `release`."""
        self._action()
        self.arrived.set()
        await self._released.wait()

    def release(self) -> None:
        """Pass the write on to the API server."""
        self._loop.call_soon_threadsafe(self._released.set)


class FaultProxy:
    """The proxy, on a thread of its own while the context is open. Every method may be called from any thread."""

    def __init__(self, upstream: Credentials, impersonate: str | None = None, *, node: str = "") -> None:
        """`impersonate`: a service account; `node`: the node that its pod's token would name."""
        self.url = ""
        self.exchanges: list[Exchange] = []
        self._upstream = upstream
        self._identity = _impersonation(impersonate, node)
        self._refusals: list[_Refusal] = []
        self._triggers: list[_Trigger] = []
        self._held: list[HeldWrite] = []
        self._recorded: dict[str, bytes] = {}
        self._recording: set[str] = set()
        self._stale: set[str] = set()
        self._gone: set[str] = set()
        self._watches: set[asyncio.Transport] = set()
        self._requests_flow = asyncio.Event()
        self._watches_flow = asyncio.Event()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._client: ClientSession
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(START_SECONDS):
            raise TimeoutError(f"the fault proxy did not start within {START_SECONDS} s")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)

    def writes(self, match: Match = lambda _: True) -> list[Exchange]:
        """Return the writes so far that match, in the order of their answers."""
        return [each for each in tuple(self.exchanges) if each.call.is_write and match(each.call)]

    def refuse(self, match: Match, status: int, *, nth: int = 1, times: int = 1) -> None:
        """Answer the `nth` matching request from now on, and the next `times - 1`, with `status` unexecuted."""
        self._refusals.append(_Refusal(match, status, nth - 1, times))

    def at_write(self, nth: int, match: Match, when: When, action: Callable[[], None]) -> threading.Event:
        """Run `action` at the `nth` matching write from now on; the event is set once it ran."""
        trigger = _Trigger(match, nth, when, action)
        self._triggers.append(trigger)
        return trigger.fired

    def hold_write(self, match: Match, action: Callable[[], None] = lambda: None) -> HeldWrite:
        """Hold the next matching write unexecuted; `action` runs when it arrives, e.g. freezes its sender."""
        held = HeldWrite(match, self._loop, action)
        self._held.append(held)
        return held

    def record_lists(self, *resources: str) -> None:
        """Keep the next list of these resources, one for each selector, for `serve_stale_list`."""
        self._recording.update(resources)

    def serve_stale_list(self, resource: str) -> None:
        """Answer the next list of `resource` with the one recorded before; each selector's list once."""
        stale = {target for target in self._recorded if parse("GET", target).resource == resource}
        if not stale:
            raise LookupError(f"no list of {resource} was recorded; call record_lists before a client lists them")
        self._stale |= stale

    def forget_resource_version(self, *resources: str) -> None:
        """Answer the next watch of these resources with an error event 410, as after a compaction."""
        self._gone.update(resources)

    def cut_watches(self) -> int:
        """Break all open watches without a goodbye and return how many there were."""
        broken = len(self._watches)
        self._loop.call_soon_threadsafe(self._abort_watches)
        return broken

    def hold_watches(self) -> None:
        """Keep watches open but deliver nothing on them, bookmarks included."""
        self._loop.call_soon_threadsafe(self._watches_flow.clear)

    def pause(self) -> None:
        """Let nothing through: new requests hang, watches are silent."""
        self.hold_watches()
        self._loop.call_soon_threadsafe(self._requests_flow.clear)

    def resume(self) -> None:
        """Let everything through again, first of all what was held."""
        self._loop.call_soon_threadsafe(self._watches_flow.set)
        self._loop.call_soon_threadsafe(self._requests_flow.set)

    def reset(self) -> None:
        """Forget all orders, let everything through and start counting anew."""
        self._refusals.clear()
        self._triggers.clear()
        self._held.clear()
        self._stale.clear()
        self._gone.clear()
        self._recording.clear()
        self._recorded.clear()
        self.exchanges.clear()
        self.resume()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._requests_flow.set()
        self._watches_flow.set()
        connector = TCPConnector(ssl=self._upstream.tls, limit=0)
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=None)) as self._client:
            # A handler ends with its client, as a connection to the API server itself would.
            server = web.Server(self._handle, handler_cancellation=True)
            runner = web.ServerRunner(server, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            self._started.set()
            await self._stop.wait()
            self._abort_watches()
            await runner.cleanup()
        # aiohttp leaves the end of its TLS connections to the loop.
        await asyncio.sleep(TLS_END_SECONDS)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = parse(request.method, request.raw_path)
        body = await request.read()
        await self._requests_flow.wait()
        if call.watch and call.resource in self._gone:
            self._gone.discard(call.resource)
            return web.json_response({"type": "ERROR", "object": _status(410)})
        if (refused := self._refusal(call)) is not None:
            self.exchanges.append(Exchange(call, refused))
            retry = {"Retry-After": "1"} if refused == 429 else None
            return web.json_response(_status(refused), status=refused, headers=retry)
        if call.is_list and request.raw_path in self._stale:
            self._stale.discard(request.raw_path)
            return web.Response(body=self._recorded[request.raw_path], content_type="application/json")
        for held in tuple(self._held):
            if held.takes(call):
                await held.hold()
        async with self._client.request(
            request.method,
            URL(self._upstream.server + request.raw_path, encoded=True),
            data=body,
            headers=[*_kept(request.headers), *self._identity],
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
        ) as answer:
            if call.watch:
                return await self._relay_watch(request, answer)
            content = await answer.read()
        if call.is_list and answer.status == 200 and call.resource in self._recording:
            self._recorded.setdefault(request.raw_path, content)
        self.exchanges.append(Exchange(call, answer.status))
        fired = self._due(call)
        _run_all(fired, "executed")
        response = web.Response(status=answer.status, headers=dict(_kept(answer.headers)), body=content)
        if any(trigger.when == "answered" for trigger in fired):
            try:
                await response.prepare(request)
                await response.write_eof()
            finally:
                # Also where nobody was there to be answered: another call's trigger may have ended whom this one is to.
                _run_all(fired, "answered")
        return response

    async def _relay_watch(self, request: web.BaseRequest, answer: ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=dict(_kept(answer.headers)))
        await response.prepare(request)
        if (transport := request.transport) is None:
            return response
        self._watches.add(transport)
        try:
            async for chunk in answer.content.iter_any():
                await self._watches_flow.wait()
                await response.write(chunk)
        except ConnectionError:
            return response  # the operator, or `cut_watches`, ended it
        finally:
            self._watches.discard(transport)
        return response

    def _abort_watches(self) -> None:
        for transport in tuple(self._watches):
            transport.abort()

    def _refusal(self, call: ApiCall) -> int | None:
        for refusal in self._refusals:
            if refusal.times and refusal.match(call):
                if refusal.skip:
                    refusal.skip -= 1
                    continue
                refusal.times -= 1
                return refusal.status
        return None

    def _due(self, call: ApiCall) -> list[_Trigger]:
        due = []
        for trigger in self._triggers:
            if call.is_write and trigger.match(call) and not trigger.fired.is_set():
                trigger.nth -= 1
                if trigger.nth == 0:
                    due.append(trigger)
        return due


def _run_all(triggers: Iterable[_Trigger], when: When) -> None:
    for trigger in triggers:
        if trigger.when == when:
            trigger.action()
            trigger.fired.set()


def _kept(headers: CIMultiDictProxy[str]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in headers.items() if key.lower() not in _DROPPED_HEADERS]


def _impersonation(account: str | None, node: str) -> list[tuple[str, str]]:
    """Return the headers of a service account, given as `namespace:name`."""
    if account is None:
        return []
    namespace = account.partition(":")[0]
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    user = ("Impersonate-User", f"system:serviceaccount:{account}")
    extra = [("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", node)] if node else []
    return [user, *(("Impersonate-Group", group) for group in groups), *extra]


def _status(code: int) -> dict[str, str | int]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": _REASONS[code],
        "message": "injected by the test",
    }
