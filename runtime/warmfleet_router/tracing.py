"""Spans by OpenTelemetry, where its standard variables ask for them; without them nothing of this is imported.

    request                  the whole of it, child of the client's `traceparent`
     ├─ hold                 while no engine could take it
     └─ attempt              one try at one runner, which gets this span as its parent
         └─ stream           from the first byte of the answer to its end

Spans go to the collector from a thread, through a bounded line: what finds it full is dropped, and no request waits.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from warmfleet_http.answer import Answer
from warmfleet_http.messages import Header, Request
from warmfleet_http.protocol import Handler
from warmfleet_kube.errors import BadSetting
from warmfleet_router.cache.rules import CHAT, COMPLETIONS, EMBEDDINGS
from warmfleet_router.dispatch import Beat, Dispatcher, Wish
from warmfleet_router.endpoints import Endpoint
from warmfleet_router.forward import Failure, Forward, Outgoing
from warmfleet_router.refusals import RefusedError
from warmfleet_router.settings import VERSION

CLOSE_SECONDS = 5.0
"""How long the last spans may take to their collector when the router ends."""
_OPERATIONS = {CHAT: "chat", COMPLETIONS: "text_completion", EMBEDDINGS: "embeddings"}
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PARENT = frozenset({b"traceparent", b"tracestate"})


class Tracing:
    """Makes the traced kinds of the router's parts, and brings their spans away."""

    def __init__(self) -> None:
        """Read `OTEL_*`.

        Raises:
            BadSetting: they ask for a protocol that is not spoken here.
        """
        for name in _PROTOCOLS:
            if os.environ.get(name, "http/protobuf") != "http/protobuf":
                raise BadSetting(f"{name}={os.environ[name]}: this router exports by http/protobuf; remove it")
        given = Resource.create({"service.version": VERSION})
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = given if named else given.merge(Resource({"service.name": "warmfleet-router"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("warmfleet_router", VERSION)

    def handler(self, inner: Callable[[Request, Answer], Coroutine[Any, Any, None]]) -> Handler:
        """Return a handler whose requests have a span each."""
        tracer = self._tracer

        async def handle(request: Request, answer: Answer) -> None:
            operation = _OPERATIONS.get(request.path)
            route = request.path if operation else "other"
            attributes: dict[str, Any] = {"http.request.method": request.method, "url.path": request.path[:256]}
            if operation:
                attributes |= {"http.route": route, "gen_ai.operation.name": operation}
            with tracer.start_as_current_span(
                f"{request.method} {route}",
                context=_w3c.extract(request.headers, getter=_HEADERS),
                kind=SpanKind.SERVER,
                attributes=attributes,
                start_time=_wall_nanoseconds(request.arrived),
                record_exception=False,
            ) as span:
                try:
                    await inner(request, answer)
                except asyncio.CancelledError:
                    if not answer.is_told:
                        span.set_attribute("error.type", "cancelled")
                    raise
                finally:
                    if answer.status:
                        span.set_attribute("http.response.status_code", answer.status)
                    if answer.status >= 500:
                        span.set_status(StatusCode.ERROR)

        return handle

    def dispatcher(self, *parts: Any) -> Dispatcher:
        """Return a dispatcher whose holds have a span each."""
        made = _Dispatcher(*parts)
        made.tracer = self._tracer
        return made

    def forward(self, *parts: Any) -> Forward:
        """Return what tries, with a span for each try."""
        made = _Forward(*parts)
        made.tracer = self._tracer
        return made

    def flush(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Bring away what ended so far; blocks."""
        return self._provider.force_flush(round(seconds * 1000))

    async def close(self) -> None:
        """Bring away the last spans, if that is quickly done."""
        # A thread that the end of the process does not wait for: a collector may be gone.
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        if not await _ended(thread, CLOSE_SECONDS):
            # What it would try again is given up.
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
            await _ended(thread, 1.0)


async def _ended(thread: threading.Thread, seconds: float) -> bool:
    """Wait until a thread has ended; return whether it has."""
    until = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < until:  # noqa: ASYNC110 - of a thread
        await asyncio.sleep(0.01)
    return not thread.is_alive()


class _Dispatcher(Dispatcher):
    tracer: Tracer

    async def wait(self, wish: Wish, beat: Beat | None = None, beat_seconds: float = 0.0) -> Endpoint:
        """Hold a request, see `Dispatcher.wait`."""
        with self.tracer.start_as_current_span("hold", attributes=_of_model(wish), record_exception=False) as span:
            try:
                return await Dispatcher.wait(self, wish, beat, beat_seconds)
            except RefusedError as error:
                span.set_attribute("error.type", error.code)
                raise


class _Forward(Forward):
    tracer: Tracer

    async def __call__(self, request: Outgoing, endpoint: Endpoint) -> Failure | None:
        """Try once, see `Forward.__call__`."""
        runner, path = endpoint.runner, request.target.partition(b"?")[0].decode("latin-1")
        trace.get_current_span().set_attributes(_of_endpoint(endpoint))
        attributes: dict[str, AttributeValue] = {
            "http.request.method": "POST",
            "http.request.resend_count": len(request.tried),
            "server.address": runner.address.host,
            "server.port": runner.address.port,
            "k8s.namespace.name": runner.namespace,
            "k8s.pod.name": runner.name,
            "k8s.pod.uid": runner.uid,
        }
        name = f"POST {path}" if path in _OPERATIONS else "POST"
        with self.tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes) as span:
            request.headers = [each for each in request.headers if each[0] not in _PARENT]
            carrier: dict[str, str] = {}
            _w3c.inject(carrier)
            request.headers += [(name.encode(), value.encode("latin-1")) for name, value in carrier.items()]
            failure = await super().__call__(request, endpoint)
            self._tell(span, request, failure)
            return failure

    def _tell(self, span: Span, request: Outgoing, failure: Failure | None) -> None:
        answer = request.answer
        if failure is not None:
            span.set_attribute("error.type", failure.reason)
            span.set_status(StatusCode.ERROR, failure.message)
            if failure.kept is not None:
                span.set_attribute("http.response.status_code", failure.kept.status)
            return
        span.set_attribute("http.response.status_code", answer.status)
        if answer.is_stream and answer.first_body_at is not None:
            stream = self.tracer.start_span("stream", start_time=_wall_nanoseconds(answer.first_body_at))
            if request.is_broken:
                stream.set_attribute("error.type", "broken")
                stream.set_status(StatusCode.ERROR)
            stream.end()


class _Headers(Getter[Iterable[Header]]):
    def get(self, carrier: Iterable[Header], key: str) -> list[str] | None:
        name = key.encode("latin-1")
        return [value.decode("latin-1") for each, value in carrier if each == name] or None

    def keys(self, carrier: Iterable[Header]) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


_HEADERS = _Headers()
_w3c = TraceContextTextMapPropagator()


def _of_model(wish: Wish) -> Mapping[str, str]:
    return {"gen_ai.request.model": wish.name[:256], "k8s.namespace.name": wish.model.key.namespace}


def _of_endpoint(endpoint: Endpoint) -> Mapping[str, str]:
    return {"gen_ai.request.model": endpoint.model.name, "k8s.namespace.name": endpoint.model.namespace}


def _wall_nanoseconds(monotonic_seconds: float) -> int:
    return time.time_ns() - round((time.monotonic() - monotonic_seconds) * 1e9)
