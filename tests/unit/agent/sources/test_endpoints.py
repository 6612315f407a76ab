"""No uri, redirect or name leads to a private address, except where an administrator named it."""

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from support.sources.web_server import WebServer, web_server
from warmfleet_agent.sources import SourceError, SourceRules, gate, open_source
from warmfleet_agent.sources.endpoints import Endpoints, is_public
from warmfleet_agent.sources.web import opened
from warmfleet_api.vocabulary import WeightsProblem

NOBODY: Mapping[str, str] = {}


def endpoints(**environment: str) -> Endpoints:
    return Endpoints(SourceRules(environment=environment))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "2002:a00:1::",
        "64:ff9b::a00:1",
        "fd00:ec2::254",
    ],
)
def test_addresses_inside_a_network_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "140.82.112.3", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/model",
        "https://127.0.0.1/model",
        "https://[::1]/model",
        "https://[::ffff:10.0.0.1]/model",
        "https://user:hunter2@example.com/model",
        "ftp://example.com/model",
        "file:///etc",
    ],
)
def test_a_url_that_nobody_named_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        endpoints().check(URL(url))
    assert caught.value.reason is WeightsProblem.FORBIDDEN_SOURCE
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
async def test_other_spellings_of_loopback_are_refused_once_they_are_looked_up(host: str) -> None:
    with pytest.raises(SourceError) as caught:
        await endpoints().addresses(host, 443)
    assert caught.value.reason in {WeightsProblem.FORBIDDEN_SOURCE, WeightsProblem.SOURCE_UNREACHABLE}


async def test_what_an_administrator_named_may_be_private_at_that_port_only() -> None:
    named = endpoints(WARMFLEET_ENDPOINTS="http://127.0.0.1:5000, https://localhost:8443")
    named.check(URL("http://127.0.0.1:5000/x"))
    assert await named.addresses("localhost", 8443)
    for url in ("http://127.0.0.1:5001/x", "https://127.0.0.1:5001/x", "http://localhost:8443/x"):
        with pytest.raises(SourceError):
            named.check(URL(url))
    with pytest.raises(SourceError):
        await named.addresses("localhost", 443)


def test_a_bad_endpoint_of_the_environment_is_told_of() -> None:
    with pytest.raises(SourceError, match="mirror"):
        endpoints(HF_ENDPOINT="mirror.corp")


async def test_a_name_with_public_and_private_addresses_is_connected_to_at_the_public_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def lookup(*_: object, **__: object) -> list[object]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))
            for address in ("10.0.0.1", "192.0.2.0", "8.8.4.4")
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    assert await endpoints().addresses("rebind.example", 443) == ["8.8.4.4"]


async def test_a_name_that_turns_private_after_it_was_checked_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["10.9.9.9"])
    connected: list[object] = []

    async def lookup(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 443))]

    async def connect(_: object, address: object) -> None:
        connected.append(address)
        raise OSError("not in a test")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", lookup)
    monkeypatch.setattr(loop, "sock_connect", connect)
    async with opened(endpoints()) as client:
        with pytest.raises(SourceError) as caught:
            await client.document("https://rebind.example/config.json", 100)
    assert caught.value.reason is WeightsProblem.FORBIDDEN_SOURCE
    assert not connected


async def redirecting(server: WebServer, where: str) -> SourceError:
    async def answer(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=302, headers={"Location": where})

    server.answer = answer
    async with opened(endpoints(WARMFLEET_ENDPOINTS=server.url)) as client:
        with pytest.raises(SourceError) as caught:
            await client.document(f"{server.url}/files/config.json", 100)
    return caught.value


@pytest.mark.parametrize(
    "where",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/",
        "https://localhost/",
        "http://example.com/",
        "file:///etc/passwd",
        "https://kubernetes.default.svc@127.0.0.1/",
        "//127.0.0.1:1/x",
        "https://[::1]:10250/pods",
        "gopher://x",
    ],
)
async def test_a_redirect_to_a_private_address_is_refused(root: Path, where: str) -> None:
    async with web_server(root) as server:
        assert (await redirecting(server, where)).reason is WeightsProblem.FORBIDDEN_SOURCE


async def test_a_circle_of_redirects_ends(root: Path) -> None:
    async with web_server(root) as server:
        assert "circle" in str(await redirecting(server, "/files/config.json"))
        assert len(server.requests) <= 6


async def test_a_credential_goes_to_no_other_host_after_a_redirect(root: Path, wanted: Mapping[str, bytes]) -> None:
    async with web_server(root) as cdn, web_server(root) as hub:
        hub.tokens = {"hf_secret"}

        async def answer(request: web.Request) -> web.StreamResponse | None:
            if "/resolve/" in request.path and request.method == "GET":
                return web.Response(
                    status=302, headers={"Location": f"{cdn.url}/files/{request.path.rpartition('/')[2]}"}
                )
            return None

        hub.answer = answer
        rules = SourceRules(environment={"HF_ENDPOINT": hub.url, "WARMFLEET_ENDPOINTS": cdn.url})
        async with open_source("hf://org/model", None, {"token": b"hf_secret\n"}, rules) as source:
            await source.list()
            read = b"".join([chunk async for chunk in source.read("config.json", 0, 10)])
    assert read == wanted["config.json"][:10]
    assert all("hf_secret" in headers["Authorization"] for _, _, headers in hub.requests)
    assert cdn.requests
    assert not any("Authorization" in headers for _, _, headers in cdn.requests)


async def through(proxy: str, target: str, password: bool = True) -> str:
    """Ask a gate for a connection and return its status line."""
    url = URL(proxy)
    assert url.host is not None and url.port is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    proof = base64.b64encode(f"{url.user}:{url.password if password else 'x'}".encode()).decode()
    writer.write(f"CONNECT {target} HTTP/1.1\r\nProxy-Authorization: Basic {proof}\r\n\r\n".encode())
    line = (await reader.readline()).decode().strip()
    writer.close()
    await writer.wait_closed()
    return line


async def test_the_gate_lets_clients_through_to_what_is_allowed_and_nowhere_else(root: Path) -> None:
    async with web_server(root) as server:
        target = f"127.0.0.1:{server.port}"
        async with gate.opened(endpoints(WARMFLEET_ENDPOINTS=f"https://{target}")) as gate_:
            assert "200" in await through(gate_.url, target)
            assert "407" in await through(gate_.url, target, password=False)
            assert gate_.refused is None
            for other in ("127.0.0.1:1", "[::1]:443", "169.254.169.254:443", "localhost:443"):
                assert "403" in await through(gate_.url, other)
            assert gate_.refused is not None
            assert "405" in await through(gate_.url, "no-port")
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await through(gate_.url, target)


async def test_the_gate_carries_bytes_both_ways(root: Path, wanted: Mapping[str, bytes]) -> None:
    async with web_server(root) as server:
        target = f"127.0.0.1:{server.port}"
        async with gate.opened(endpoints(WARMFLEET_ENDPOINTS=f"https://{target}")) as gate_:
            url = URL(gate_.url)
            reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
            proof = base64.b64encode(f"{url.user}:{url.password}".encode()).decode()
            writer.write(f"CONNECT {target} HTTP/1.1\r\nProxy-Authorization: Basic {proof}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            name = "model-00001-of-00002.safetensors"
            writer.write(f"GET /files/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
    assert answer.partition(b"\r\n\r\n")[2] == wanted[name]


@pytest.mark.parametrize(
    ("uri", "credential"),
    [
        ("s3://models/m", {"AWS_ENDPOINT_URL": b"https://169.254.169.254"}),
        ("s3://models/m", {"AWS_ENDPOINT_URL": b"https://localhost:9000"}),
        ("s3://models/m", {"AWS_ENDPOINT_URL": b"http://example.com"}),
        ("hf://org/model", {}),
        ("oci://localhost:5000/org/model:v1", {}),
        ("oci://169.254.169.254/org/model:v1", {}),
        ("https://localhost/model", {}),
    ],
)
async def test_no_kind_of_source_reaches_a_private_address(
    uri: str, credential: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": b"x", "AWS_SECRET_ACCESS_KEY": b"y"} if credential else {}
    if uri.startswith("hf://"):

        async def lookup(*_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    with pytest.raises(SourceError) as caught:
        async with open_source(uri, None, {**keys, **credential}, SourceRules(environment=NOBODY)) as source:
            await source.list()
    assert caught.value.reason is WeightsProblem.FORBIDDEN_SOURCE, str(caught.value)


async def test_credentials_of_the_agents_environment_are_never_used(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-node")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_node")
    async with web_server(root) as server:
        rules = SourceRules(environment={"AWS_ENDPOINT_URL": server.url, "HF_ENDPOINT": server.url})
        for uri in ("s3://models/org/model", "hf://org/model"):
            async with open_source(uri, None, {}, rules) as source:
                with pytest.raises(SourceError):
                    await source.list()
    assert server.requests
    assert not any("Authorization" in headers for _, _, headers in server.requests)
