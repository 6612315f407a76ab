"""What the Hub and registries refuse, and how tokens are got."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from aiohttp import web

from support.sources.registry import push, registry
from support.sources.web_server import COMMIT, WebServer, web_server
from warmfleet_agent.sources import Listing, SourceError, SourceRules, open_source
from warmfleet_api.vocabulary import WeightsProblem


@pytest.fixture
async def server(root: Path, wanted: Mapping[str, bytes]) -> AsyncIterator[WebServer]:
    async with web_server(root) as each:
        yield each


async def hub(
    server: WebServer, uri: str = "hf://org/model", revision: str | None = None, token: bytes | None = None
) -> Listing:
    rules = SourceRules(environment={"HF_ENDPOINT": server.url})
    async with open_source(uri, revision, {} if token is None else {"token": token}, rules) as source:
        return await source.list()


async def hub_refusal(server: WebServer, **arguments: object) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await hub(server, **arguments)  # type: ignore[arg-type]
    return caught.value


async def test_a_branch_is_resolved_to_its_commit(server: WebServer) -> None:
    assert (await hub(server, revision="main")).revision == COMMIT


async def test_an_absent_revision_repository_and_a_uri_that_is_none_are_told_apart(server: WebServer) -> None:
    assert "no revision v9" in str(await hub_refusal(server, revision="v9"))
    assert "secretRef" in str(await hub_refusal(server, uri="hf://org/other"))
    for uri in ("hf://model", "hf://org/model/folder", "hf://../x", "hf://org/mo del", "hf://"):
        assert (await hub_refusal(server, uri=uri)).reason is WeightsProblem.FORBIDDEN_SOURCE


async def test_a_gated_model_names_the_licence_and_the_secret_to_create(server: WebServer) -> None:
    server.tokens, server.gated = {"hf_good"}, True
    for token in (None, b"hf_bad"):
        error = await hub_refusal(server, token=token)
        assert error.reason is WeightsProblem.ACCESS_DENIED
        assert error.retry_after_seconds is None
        assert f"Accept its licence at {server.url}/org/model" in str(error)
        assert "kubectl create secret generic hf-token --from-literal=token=" in str(error)
    assert (await hub(server, token=b"hf_good\n")).files


async def test_a_secret_without_a_token_says_how_to_make_one(server: WebServer) -> None:
    rules = SourceRules(environment={"HF_ENDPOINT": server.url})
    for credential in ({"password": b"x"}, {"token": b""}, {"token": b"a\r\nX-Evil: 1"}):
        with pytest.raises(SourceError, match="from-literal=token"):
            async with open_source("hf://org/model", None, credential, rules):
                pass


@pytest.mark.parametrize("status", [429, 500, 502])
async def test_a_hub_that_is_overloaded_is_asked_again_later(server: WebServer, status: int) -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Retry-After": "9"})

    server.answer = busy
    error = await hub_refusal(server)
    assert error.reason is WeightsProblem.SOURCE_UNREACHABLE
    assert error.retry_after_seconds == 9


@pytest.mark.parametrize("answer", ["{}", "[]", "<html>", '{"id":"x","sha":"not a commit","siblings":[]}', "[" * 2000])
async def test_a_hub_that_answers_nonsense_is_told_of_in_words(server: WebServer, answer: str) -> None:
    async def nonsense(request: web.Request) -> web.StreamResponse:
        return web.Response(text=answer, content_type="application/json")

    server.answer = nonsense
    assert (await hub_refusal(server)).reason is WeightsProblem.SOURCE_UNREACHABLE


# Registries -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def port(registry_binary: Path, wanted: Mapping[str, bytes]) -> AsyncIterator[int]:
    with registry(registry_binary) as each:
        await push(f"http://127.0.0.1:{each}", "org/model", "v1", wanted)
        yield each


async def artifact(
    port: int, what: str = "org/model:v1", revision: str | None = None, credential: Mapping[str, bytes] | None = None
) -> Listing:
    rules = SourceRules(environment={"WARMFLEET_ENDPOINTS": f"http://127.0.0.1:{port}"})
    async with open_source(f"oci://127.0.0.1:{port}/{what}", revision, credential or {}, rules) as source:
        return await source.list()


async def test_a_tag_is_resolved_to_its_digest_and_layers_keep_their_hashes(
    port: int, wanted: Mapping[str, bytes]
) -> None:
    listing = await artifact(port)
    assert listing.revision.startswith("sha256:")
    assert listing.sizes == {name: len(content) for name, content in wanted.items()}
    assert (await artifact(port, f"org/model@{listing.revision}")).files == listing.files
    await push(f"http://127.0.0.1:{port}", "org/model", "v1", {"model.safetensors": b"other"})
    assert (await artifact(port, revision=listing.revision)).files == listing.files
    assert (await artifact(port)).files != listing.files


@pytest.mark.parametrize("what", ["org/model:none", "org/none:v1"])
async def test_an_absent_artifact_names_the_command_that_lists_what_there_is(port: int, what: str) -> None:
    with pytest.raises(SourceError, match="oras repo tags") as caught:
        await artifact(port, what)
    assert caught.value.reason is WeightsProblem.MODEL_NOT_FOUND


@pytest.mark.parametrize("what", ["Org/model:v1", "../x:v1", "org/model:", "org/model@sha256:12", "org/model:v1?x=1"])
async def test_what_is_no_reference_is_refused(port: int, what: str) -> None:
    with pytest.raises(SourceError) as caught:
        await artifact(port, what)
    assert caught.value.reason is WeightsProblem.FORBIDDEN_SOURCE


async def test_packed_layers_name_the_command_that_pushes_files(port: int) -> None:
    await push(
        f"http://127.0.0.1:{port}",
        "org/kit",
        "v1",
        {"model": b"x"},
        "application/vnd.kitops.modelkit.model.v1.tar+gzip",
    )
    with pytest.raises(SourceError, match="oras push") as caught:
        await artifact(port, "org/kit:v1")
    assert caught.value.reason is WeightsProblem.UNSAFE_FORMAT


async def test_hostile_titles_of_layers_are_refused(port: int) -> None:
    for name in ("../../etc/cron.d/x.safetensors", "/x.safetensors", "a\nb.safetensors"):
        await push(f"http://127.0.0.1:{port}", "org/evil", "v1", {name: b"x"})
        with pytest.raises(SourceError) as caught:
            await artifact(port, "org/evil:v1")
        assert caught.value.reason is WeightsProblem.FORBIDDEN_SOURCE


class TokenRegistry:
    """A registry with a token service, whose tokens last for one request."""

    def __init__(self, server: WebServer, content: bytes) -> None:
        self.server = server
        self.content = content
        self.issued = 0
        self.scopes: list[str] = []
        server.answer = self.answer

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            self.scopes.append(request.query["scope"])
            expected = "Basic " + base64.b64encode(b"user:password").decode()
            if request.headers.get("Authorization") != expected:
                return web.Response(status=401)
            self.issued += 1
            return web.json_response({"token": f"t{self.issued}"})
        if request.headers.get("Authorization") != f"Bearer t{self.issued}":
            challenge = f'Bearer realm="{self.server.url}/token",service="registry",scope="repository:evil:push"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if "/blobs/" in request.path:
            return web.Response(
                status=206, body=self.content, headers={"Content-Range": f"bytes 0-{len(self.content) - 1}/*"}
            )
        layer = {
            "digest": "sha256:" + "0" * 64,
            "size": len(self.content),
            "annotations": {"org.cncf.model.filepath": "model.safetensors"},
        }
        return web.json_response({"layers": [layer]})


async def test_a_token_is_asked_for_pulling_alone_and_again_when_it_has_expired(server: WebServer) -> None:
    tokens = TokenRegistry(server, b"0123456789")
    rules = SourceRules(environment={"WARMFLEET_ENDPOINTS": server.url})
    config = {"auths": {f"127.0.0.1:{server.port}": {"auth": base64.b64encode(b"user:password").decode()}}}
    credential = {".dockerconfigjson": json.dumps(config).encode()}
    async with open_source(f"oci://127.0.0.1:{server.port}/org/model:v1", None, credential, rules) as source:
        await source.list()
        tokens.issued += 1
        read = b"".join([chunk async for chunk in source.read("model.safetensors", 0, 10)])
    assert read == b"0123456789"
    assert set(tokens.scopes) == {"repository:org/model:pull"}
    with pytest.raises(SourceError, match="create secret docker-registry"):
        await artifact(server.port, credential={"username": b"user", "password": b"wrong"})


@pytest.mark.parametrize(
    "credential", [{"x": b"y"}, {".dockerconfigjson": b"["}, {".dockerconfigjson": b'{"auths":{}}'}]
)
async def test_a_secret_without_this_registrys_account_says_how_to_make_one(
    port: int, credential: dict[str, bytes]
) -> None:
    with pytest.raises(SourceError, match="docker-registry") as caught:
        await artifact(port, credential=credential)
    assert caught.value.reason is WeightsProblem.ACCESS_DENIED
