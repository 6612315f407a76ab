"""A container registry (go-containerregistry's own), and how ORAS pushes files to one."""

import hashlib
import io
import json
import select
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from localcluster.binaries import ensure_registry

_START_SECONDS = 20.0


def registry_program() -> Path:
    """Return the registry, built where it is not yet.

    Raises:
        ClusterError: it can't be built.
    """
    return ensure_registry(lambda _: None)


@contextmanager
def registry(program: Path) -> Iterator[int]:
    """Run a registry and give its port of loopback."""
    with subprocess.Popen([program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
            assert ready, "the registry did not say its port"
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def push(
    base: str, repository: str, tag: str, files: Mapping[str, bytes], media_type: str = "application/octet-stream"
) -> str:
    """Push each file as a layer, and return the manifest's digest."""
    async with aiohttp.ClientSession(base) as session:
        config = await _push_blob(session, repository, b"{}")
        layers = [
            {
                "mediaType": media_type,
                "digest": await _push_blob(session, repository, content),
                "size": len(content),
                "annotations": {"org.opencontainers.image.title": name},
            }
            for name, content in files.items()
        ]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "artifactType": "application/vnd.warmfleet.test",
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
                "layers": layers,
            }
        ).encode()
        async with session.put(
            f"/v2/{repository}/manifests/{tag}",
            data=manifest,
            headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
        ) as response:
            assert response.status == 201, await response.text()
    return "sha256:" + hashlib.sha256(manifest).hexdigest()


async def _push_blob(session: aiohttp.ClientSession, repository: str, content: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    async with session.post(f"/v2/{repository}/blobs/uploads/") as response:
        where = response.headers["Location"]
    async with session.put(where, params={"digest": digest}, data=io.BytesIO(content)) as response:
        assert response.status == 201, await response.text()
    return digest
