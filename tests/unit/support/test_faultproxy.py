"""The fault proxy counts and breaks exactly what it is told to."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support.api_call import ApiCall, parse, resource_is, writes_in
from support.faultproxy import FaultProxy
from support.kubeapi import Credentials

PODS = "/api/v1/namespaces/a/pods"


class Upstream(ThreadingHTTPServer):
    """Answers every request with its method, path and number; a watch sends a line each 20 ms."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str]]] = []


class Handler(BaseHTTPRequestHandler):
    """Answers of `Upstream`."""

    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, {key: self.headers[key] for key in self.headers}))
        if "watch=1" in self.path:
            self._watch()
            return
        body = json.dumps({"number": len(self.server.seen), "path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _watch(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for number in range(500):
                self.wfile.write(f'{{"event":{number}}}\n'.encode())
                self.wfile.flush()
                time.sleep(0.02)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[FaultProxy]:
    # Plain HTTP upstream: aiohttp takes `tls=True` as "check certificates", of which there are none.
    credentials = Credentials(f"http://127.0.0.1:{upstream.server_port}", True)  # type: ignore[arg-type]
    with FaultProxy(credentials, "system-ns:operator") as proxy:
        yield proxy


@contextmanager
def connection(proxy: FaultProxy) -> Iterator[HTTPConnection]:
    client = HTTPConnection(proxy.url.removeprefix("http://"), timeout=5)
    yield client
    client.close()


def send(proxy: FaultProxy, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    with connection(proxy) as client:
        client.request(method, path, body)
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize(
    ("method", "target", "call"),
    [
        ("GET", "/version", ApiCall("GET", "/version")),
        ("GET", "/api/v1/pods?limit=5", ApiCall("GET", "/api/v1/pods", "pods")),
        ("GET", "/api/v1/nodes?watch=true", ApiCall("GET", "/api/v1/nodes", "nodes", watch=True)),
        ("DELETE", f"{PODS}/p", ApiCall("DELETE", f"{PODS}/p", "pods", "a", "p")),
        ("GET", "/api/v1/namespaces/a", ApiCall("GET", "/api/v1/namespaces/a", "namespaces", "", "a")),
        (
            "PATCH",
            "/apis/warmfleet.dev/v1alpha1/namespaces/a/modeldeployments/m/status?fieldManager=f",
            ApiCall(
                "PATCH",
                "/apis/warmfleet.dev/v1alpha1/namespaces/a/modeldeployments/m/status",
                "modeldeployments",
                "a",
                "m",
                "status",
            ),
        ),
    ],
)
def test_a_request_is_read_from_its_path(method: str, target: str, call: ApiCall) -> None:
    assert parse(method, target) == call


def test_requests_pass_with_the_operators_identity(proxy: FaultProxy, upstream: Upstream) -> None:
    assert send(proxy, "GET", PODS) == (200, {"number": 1, "path": PODS})
    headers = upstream.seen[0][2]
    assert headers["Impersonate-User"] == "system:serviceaccount:system-ns:operator"


def test_writes_are_counted_by_what_they_change(proxy: FaultProxy) -> None:
    send(proxy, "GET", PODS)
    send(proxy, "POST", PODS, "{}")
    send(proxy, "PATCH", "/api/v1/namespaces/b/services/s", "{}")
    send(proxy, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "{}")
    assert [str(each.call) for each in proxy.writes()] == ["POST a/pods", "PATCH b/services/s"]
    assert len(proxy.writes(writes_in("a"))) == 1


def test_the_nth_request_is_refused_and_never_executed(proxy: FaultProxy, upstream: Upstream) -> None:
    proxy.refuse(resource_is("pods"), 409, nth=2, times=2)
    assert [send(proxy, "POST", PODS, "{}")[0] for _ in range(4)] == [200, 409, 409, 200]
    assert len(upstream.seen) == 2


def test_a_stale_list_is_the_one_recorded_before(proxy: FaultProxy) -> None:
    proxy.record_lists("pods")
    first = send(proxy, "GET", PODS)
    assert send(proxy, "GET", PODS) != first
    proxy.serve_stale_list("pods")
    assert send(proxy, "GET", PODS) == first
    assert send(proxy, "GET", PODS) != first


def test_a_stale_list_needs_a_recorded_one(proxy: FaultProxy) -> None:
    with pytest.raises(LookupError, match="record_lists"):
        proxy.serve_stale_list("pods")


def test_a_forgotten_resource_version_ends_the_next_watch(proxy: FaultProxy) -> None:
    proxy.forget_resource_version("pods")
    status, event = send(proxy, "GET", f"{PODS}?watch=1")
    assert (status, event["type"], event["object"]["code"]) == (200, "ERROR", 410)


def test_an_action_runs_when_the_nth_write_was_executed_and_its_answer_can_be_lost(
    proxy: FaultProxy, upstream: Upstream
) -> None:
    with connection(proxy) as client:
        fired = proxy.at_write(2, writes_in("a"), "executed", lambda: client.sock.shutdown(2))
        send(proxy, "POST", PODS, "{}")
        client.request("POST", PODS, "{}")
        with pytest.raises((RemoteDisconnected, ConnectionError)):
            client.getresponse()
        assert fired.wait(5)
    assert len(upstream.seen) == 2


def test_an_action_runs_after_the_answer(proxy: FaultProxy) -> None:
    with connection(proxy) as client:
        order: list[str] = []
        fired = proxy.at_write(1, writes_in("a"), "answered", lambda: order.append("action"))
        client.request("POST", PODS, "{}")
        assert client.getresponse().status == 200
        assert fired.wait(5)
    assert order == ["action"]


def test_a_held_write_is_executed_only_when_released(proxy: FaultProxy, upstream: Upstream) -> None:
    held = proxy.hold_write(writes_in("a"))
    sender = threading.Thread(target=send, args=(proxy, "POST", PODS, "{}"))
    sender.start()
    assert held.arrived.wait(5)
    send(proxy, "POST", PODS, "{}")
    assert len(upstream.seen) == 1
    held.release()
    sender.join(5)
    assert len(upstream.seen) == 2


def test_a_watch_flows_is_held_and_flows_again(proxy: FaultProxy) -> None:
    with connection(proxy) as client:
        client.request("GET", f"{PODS}?watch=1")
        answer = client.getresponse()
        assert json.loads(answer.readline()) == {"event": 0}
        proxy.hold_watches()
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while answer.readline():
                pass
        assert send(proxy, "GET", PODS)[0] == 200


def test_a_held_watch_loses_no_event(proxy: FaultProxy) -> None:
    with connection(proxy) as client:
        client.request("GET", f"{PODS}?watch=1")
        answer = client.getresponse()
        proxy.hold_watches()
        threading.Timer(0.3, proxy.resume).start()
        assert [json.loads(answer.readline())["event"] for _ in range(30)] == list(range(30))


def test_a_cut_breaks_every_watch_at_once(proxy: FaultProxy) -> None:
    with connection(proxy) as client:
        client.request("GET", f"{PODS}?watch=1")
        answer = client.getresponse()
        answer.readline()
        assert proxy.cut_watches() == 1
        with pytest.raises((ConnectionError, EOFError, ValueError)):
            while line := answer.readline():
                json.loads(line)
            raise EOFError


def test_a_pause_lets_nothing_through_until_it_ends(proxy: FaultProxy, upstream: Upstream) -> None:
    proxy.pause()
    with connection(proxy) as client:
        client.request("GET", PODS)
        client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.getresponse()
    assert not upstream.seen
    proxy.resume()
    assert send(proxy, "GET", PODS)[0] == 200
