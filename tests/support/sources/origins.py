"""One model behind each kind of server that the product does not own, each behind a proxy that can cut."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import obstore
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from support.sources.cutting_proxy import CuttingProxy, cutting_proxy
from support.sources.model import sha256
from support.sources.registry import push, registry
from support.sources.web_server import web_server
from warmfleet_agent.sources import SourceRules

S3_CREDENTIAL = {"AWS_ACCESS_KEY_ID": b"test", "AWS_SECRET_ACCESS_KEY": b"test"}


@dataclass(frozen=True)
class Origin:
    """Where a model can be fetched."""

    uri: str
    rules: SourceRules
    credential: Mapping[str, bytes]
    proxy: CuttingProxy


@asynccontextmanager
async def origin(kind: str, root: Path, wanted: Mapping[str, bytes], registry_program: Path) -> AsyncIterator[Origin]:
    """Serve the folder `root`, of which `wanted` is to be fetched; `kind`: hf, s3, gs, https or oci."""
    async with AsyncExitStack() as stack:
        if kind == "s3":
            port = stack.enter_context(s3_server())
            await _upload(port, root)
        elif kind == "oci":
            port = stack.enter_context(registry(registry_program))
            await push(f"http://127.0.0.1:{port}", "org/model", "v1", wanted)
        else:
            sums = "".join(f"{sha256(content)}  {name}\n" for name, content in wanted.items())
            if kind == "https":
                (root / "SHA256SUMS").write_text(sums)
            port = (await stack.enter_async_context(web_server(root))).port
        proxy = await stack.enter_async_context(cutting_proxy(port))
        uri, environment = {
            "hf": ("hf://org/model", {"HF_ENDPOINT": proxy.url}),
            "s3": ("s3://models/org/model", {"AWS_ENDPOINT_URL": proxy.url}),
            "gs": ("gs://models/org/model", {"STORAGE_EMULATOR_HOST": proxy.url}),
            # Plain http, which the environment's naming allows: TLS would hide the bytes that the proxy counts.
            "https": (f"{proxy.url}/files", {"WARMFLEET_ENDPOINTS": proxy.url}),
            "oci": (f"oci://127.0.0.1:{proxy.port}/org/model:v1", {"WARMFLEET_ENDPOINTS": proxy.url}),
        }[kind]
        yield Origin(uri, SourceRules(environment=environment), S3_CREDENTIAL if kind == "s3" else {}, proxy)


@contextmanager
def s3_server() -> Iterator[int]:
    """Run moto and give its port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield int(server.get_host_and_port()[1])
    finally:
        server.stop()


async def _upload(port: int, root: Path) -> None:
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(url) as session, session.put("/models") as response:
        assert response.status == 200, await response.text()
    store = S3Store(
        "models",
        endpoint=url,
        region="us-east-1",
        access_key_id="x",
        secret_access_key="x",
        client_options={"allow_http": True},
    )
    for path, content in _contents(root).items():
        await obstore.put_async(store, f"org/model/{path}", content)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
