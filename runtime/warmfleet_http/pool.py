"""Connections to what is behind this process, kept open between requests."""

import asyncio
from collections.abc import Container, Iterable
from types import TracebackType

import msgspec

from warmfleet_http.connection import Exchange
from warmfleet_http.errors import LostError, NotConnectedError, UpstreamError
from warmfleet_http.messages import Header
from warmfleet_http.origin import Origin

_SWEEP_SECONDS = 1.0


class Patience(msgspec.Struct, frozen=True):
    """How long each part of an exchange may take."""

    connect_seconds: float = 5.0
    first_seconds: float = 600.0
    """From the request to the first bytes of the answer's body: a server may send its head long before."""
    next_seconds: float = 120.0
    """How long the answer may stand still."""


PATIENCE = Patience()


class Pool:
    """Idle connections by origin. Not bounded in number: admission bounds what is under way."""

    def __init__(self, *, idle_seconds: float) -> None:
        """Keep connections for `idle_seconds`: less than the other side does, or requests go into closing ones."""
        self._idle_seconds = idle_seconds
        self._idle: dict[Origin, list[Exchange]] = {}
        self._loop = asyncio.get_running_loop()
        self._sweeper: asyncio.TimerHandle | None = None

    def ask(
        self,
        origin: Origin,
        method: bytes,
        target: bytes,
        headers: Iterable[Header],
        body: bytes = b"",
        *,
        lines: bytes = b"",
        patience: Patience = PATIENCE,
    ) -> "Asking":
        """Send a request; give the exchange once status and headers of the answer are there.

            async with pool.ask(origin, b"POST", b"/v1/completions", headers, body) as exchange:
                await exchange.begun()
                answer.start(exchange.status, kept(exchange.headers))
                await exchange.pipe(answer)

        Target and headers must come from a parser, or be our own: they are not looked at again. `headers` or `lines`
        name the host, and nothing that frames the body; see `Exchange.send`. Leaving before the answer was read to its
        end closes the connection, which ends the work behind it. A connection that had been idle and is closed without
        a byte of an answer is replaced by another one: it was closed before the request was read.

        Raises:
            NotConnectedError: nothing was sent.
            LostError: nothing of an answer came.
            BrokenError: its head came in part.
        """
        return Asking(self, origin, (method, target, tuple(headers), body, lines), patience)

    async def open(self, origin: Origin, connections: int, connect_seconds: float) -> None:
        """Open connections ahead of the first requests; those that are open already count.

        Raises:
            NotConnectedError: nobody is there.
        """
        while len(self._idle.get(origin, ())) < connections:
            self.give_back(origin, await connect(origin, connect_seconds))

    def keep_only(self, origins: Container[Origin]) -> None:
        """Close idle connections to all others."""
        for origin in [each for each in self._idle if each not in origins]:
            self.drop(origin)

    def drop(self, origin: Origin) -> None:
        """Close idle connections to one that is gone."""
        for exchange in self._idle.pop(origin, ()):
            exchange.abort()

    def close(self) -> None:
        """Close all idle connections."""
        self.keep_only(())
        if self._sweeper:
            self._sweeper.cancel()

    def take(self, origin: Origin) -> Exchange | None:
        """Return an idle connection, the last used first: the others may grow old and be closed."""
        idle = self._idle.get(origin)
        while idle:
            exchange = idle.pop()
            if self._is_fresh(exchange):
                return exchange
            exchange.abort()
        return None

    def give_back(self, origin: Origin, exchange: Exchange) -> None:
        """Keep a connection for the next request."""
        self._idle.setdefault(origin, []).append(exchange)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _is_fresh(self, exchange: Exchange) -> bool:
        return exchange.is_open and self._loop.time() - exchange.idle_since < self._idle_seconds

    def _sweep(self) -> None:
        self._sweeper = None
        for origin, idle in list(self._idle.items()):
            kept = [each for each in idle if self._is_fresh(each)]
            for each in idle:
                if not self._is_fresh(each):
                    each.abort()
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]
        if self._idle:
            self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)


class Asking:
    """One request under way; see `Pool.ask`."""

    __slots__ = ("_exchange", "_origin", "_patience", "_pool", "_request")

    def __init__(
        self,
        pool: Pool,
        origin: Origin,
        request: tuple[bytes, bytes, tuple[Header, ...], bytes, bytes],
        patience: Patience,
    ) -> None:
        self._pool = pool
        self._origin = origin
        self._request = request
        self._patience = patience
        self._exchange: Exchange | None = None

    def begin(self) -> Exchange | None:
        """Send over an idle connection if there is one, without waiting; `async with` goes on from there."""
        exchange = self._exchange = self._pool.take(self._origin)
        if exchange is not None:
            self._send(exchange)
        return exchange

    def end(self) -> None:
        """Keep the connection if the answer was read to its end, else close it."""
        exchange = self._exchange
        if exchange is None:
            return
        self._exchange = None
        if exchange.is_reusable:
            self._pool.give_back(self._origin, exchange)
        else:
            exchange.abort()

    def abort(self) -> None:
        """Close the connection, which ends the work behind it."""
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None

    def give_up(self, why: str) -> None:
        """End it as if patience had ended, from outside of `async with`: the other side is known to be gone."""
        if self._exchange is not None:
            self._exchange.give_up(why)

    async def __aenter__(self) -> Exchange:
        """Send, unless that was done, and wait for the head of the answer."""
        exchange = self._exchange or self.begin()
        try:
            while exchange is not None:
                try:
                    await exchange.head()
                    return exchange
                except LostError as error:
                    if error.timed_out:
                        raise
                exchange.abort()
                exchange = self.begin()
            exchange = self._exchange = await connect(self._origin, self._patience.connect_seconds)
            self._send(exchange)
            await exchange.head()
        except BaseException:
            self.abort()
            raise
        return exchange

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the connection, or close it if the answer was not read to its end."""
        if kind is None:
            self.end()
        else:
            self.abort()

    def _send(self, exchange: Exchange) -> None:
        exchange.send(*self._request)
        exchange.be_patient(self._patience.first_seconds, self._patience.next_seconds)


async def connect(origin: Origin, seconds: float) -> Exchange:
    """Return a new connection.

    Raises:
        NotConnectedError: nobody is there.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            if isinstance(origin.address, str):
                _, exchange = await loop.create_unix_connection(Exchange, origin.address)
            else:
                _, exchange = await loop.create_connection(Exchange, *origin.address)
    except TimeoutError as error:
        raise NotConnectedError(f"no connection within {seconds:.0f} s", timed_out=True) from error
    except OSError as error:
        raise NotConnectedError(f"no connection: {error!r}") from error
    return exchange


__all__ = ["Asking", "Origin", "Patience", "Pool", "UpstreamError", "connect"]
