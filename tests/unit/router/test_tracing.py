"""Spans of requests, as a collector gets them."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from support import router as support
from support.router import RoutedFleet, routed_fleet
from warmfleet_kube.errors import BadSetting
from warmfleet_router.tracing import Tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, told: ExportTraceServiceRequest) -> None:
        for resource in told.resource_spans:
            self.services |= {e.value.string_value for e in resource.resource.attributes if e.key == "service.name"}
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def named(self, name: str, kind: int) -> list[Span]:
        return [each for each in self.spans if (each.name, each.kind) == (name, kind)]


@pytest.fixture
def collector() -> Iterator[Collector]:
    each = Collector()
    thread = threading.Thread(target=each.server.serve_forever)
    thread.start()
    yield each
    each.server.shutdown()
    thread.join()
    each.server.server_close()


@pytest.fixture
async def tracing(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tracing]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    each = Tracing()
    yield each
    await each.close()


@pytest.fixture
async def fleet(tracing: Tracing) -> AsyncIterator[RoutedFleet]:
    async with routed_fleet(tracing=tracing) as each:
        each.model()
        yield each


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def test_a_request_is_a_span_below_its_clients_and_above_its_engines(
    fleet: RoutedFleet, tracing: Tracing, collector: Collector
) -> None:
    first = await fleet.runner(support.breaks)
    second = await fleet.runner(support.after(0.01))
    fleet.parts.endpoints.of(fleet.wakes[0] if fleet.wakes else next(iter(fleet.parts.catalog.models)))
    while not first.served:
        second.served.clear()
        collector.spans.clear()
        await fleet.events(headers={"traceparent": PARENT, "tracestate": "a=b"})
        await asyncio.to_thread(tracing.flush)
    name = "POST /v1/chat/completions"
    (request,) = collector.named(name, Span.SPAN_KIND_SERVER)
    broken, served = sorted(collector.named(name, Span.SPAN_KIND_CLIENT), key=lambda each: each.start_time_unix_nano)
    (stream,) = collector.named("stream", Span.SPAN_KIND_INTERNAL)
    assert request.trace_id.hex() == PARENT.split("-")[1] and request.parent_span_id.hex() == PARENT.split("-")[2]
    assert {broken.parent_span_id, served.parent_span_id} == {request.span_id}
    assert stream.parent_span_id == served.span_id
    assert attributes(broken)["error.type"] == "broken"
    assert attributes(served)["k8s.pod.name"] == second.name
    assert attributes(served)["http.request.resend_count"] == 1
    assert attributes(request)["http.response.status_code"] == 200
    assert (attributes(request)["gen_ai.request.model"], attributes(request)["gen_ai.operation.name"]) == ("m", "chat")
    told = second.served[0].header(b"traceparent")
    assert told == f"00-{request.trace_id.hex()}-{served.span_id.hex()}-01".encode()
    assert second.served[0].header(b"tracestate") == b"a=b"
    assert served.start_time_unix_nano <= stream.start_time_unix_nano <= stream.end_time_unix_nano
    assert collector.services == {"warmfleet-router"}


async def test_a_hold_is_a_span(fleet: RoutedFleet, tracing: Tracing, collector: Collector) -> None:
    held = asyncio.create_task(fleet.reply())
    await fleet.until(lambda: fleet.wakes)
    await fleet.runner()
    await held
    fleet.model("stopped", replicas=0)
    await fleet.reply("stopped")
    await asyncio.to_thread(tracing.flush)
    kept, refused = collector.named("hold", Span.SPAN_KIND_INTERNAL)
    assert attributes(kept)["gen_ai.request.model"] == "m"
    assert attributes(refused)["error.type"] == "model_stopped"


async def test_a_collector_that_is_gone_costs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    threads = set(threading.enumerate())
    tracing = Tracing()
    async with routed_fleet(tracing=tracing) as fleet:
        fleet.model()
        await fleet.runner()
        for _ in range(50):
            assert (await fleet.reply())[0] == 200
    assert _exporters(threads), "nothing brings spans away"
    began = time.monotonic()
    await tracing.close()
    assert time.monotonic() - began < 20
    assert not _exporters(threads), "it still tries, though the router has ended"


def _exporters(before: set[threading.Thread]) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each not in before and "Otel" in each.name]


def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(BadSetting, match="http/protobuf"):
        Tracing()


def test_without_its_variables_nothing_of_it_is_imported() -> None:
    script = (
        "import os, sys; [os.environ.pop(n) for n in list(os.environ) if n.startswith('OTEL_')];"
        "import warmfleet_router.__main__, warmfleet_router.switches as s; assert s.start_tracing() is None;"
        "print([n for n in sys.modules if n.startswith(('opentelemetry', 'redis', 'requests'))])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
