"""A router that is restarted while the API server is away serves from what the former process wrote down."""

import asyncio
import contextlib
from pathlib import Path

from warmfleet_api import names
from warmfleet_api.tenant import TenantSpec
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.objects import Metadata
from warmfleet_router.records import ModelDeployment, Pod, PodStatus, Tenant
from warmfleet_router.remembered import Remembered
from warmfleet_router.tenants import ANYONE, TenantKey, Tenants

KEY = b"sk-0123456789abcdef"
SHOWN = [(b"authorization", b"Bearer " + KEY)]
TEAM = TenantKey("ns", "team")
SPEC = {"secretRef": {"name": "keys"}}


def empty(path: Path | None) -> Remembered:
    pods, models, tenants, keys = Mirror[Pod](), Mirror[ModelDeployment](), Mirror[Tenant](), Tenants()

    def follow(_: Tenant | None, new: Tenant | None) -> None:
        if new is not None:
            keys.put(TEAM, TenantSpec.model_validate(new.spec), [])

    tenants.subscribe(follow)
    return Remembered(path, pods, models, tenants, keys)


def metadata(name: str) -> Metadata:
    return Metadata(name=name, namespace="ns", uid=f"uid-{name}", resource_version="7")


async def written(path: Path) -> None:
    """Have a router write what it knows."""
    former = empty(path)
    label = {names.serve_label("llama"): "Ready"}
    pod = Pod(
        metadata=Metadata(name="runner", namespace="ns", uid="uid", resource_version="7", labels=label),
        status=PodStatus(phase="Running", pod_ip="10.0.0.1"),
    )
    former.pods.replace([pod], 9)
    former.models.replace([ModelDeployment(metadata=metadata("llama"), spec={"model": {"uri": "hf://a/b"}})], 9)
    former.tenants.replace([Tenant(metadata=metadata("team"), spec=SPEC)], 9)
    former.keys.put(TEAM, TenantSpec.model_validate(SPEC), [KEY])
    filled = asyncio.Event()
    filled.set()
    writing = asyncio.create_task(former.run(filled))
    async with asyncio.timeout(5):
        while not path.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.005)
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing


async def test_what_one_router_wrote_the_next_one_knows(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    await written(path)
    after = empty(path)
    assert after.restore()
    assert [pod.status.pod_ip for pod in after.pods.values()] == ["10.0.0.1"]
    assert [model.metadata.name for model in after.models.values()] == ["llama"]
    assert after.keys.identify(SHOWN).key == TEAM
    assert after.keys.is_closed("ns")


async def test_the_file_is_its_owners_and_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    await written(path)
    assert path.stat().st_mode & 0o077 == 0
    assert KEY not in path.read_bytes()


async def test_what_the_server_lists_afterwards_replaces_what_was_remembered(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    await written(path)
    after = empty(path)
    after.restore()
    after.pods.replace([], 8)
    assert not after.pods.values()


def test_without_a_file_or_with_a_damaged_one_nothing_is_known(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    assert not empty(None).restore()
    assert not empty(path).restore()
    path.write_text("{")
    damaged = empty(path)
    assert not damaged.restore()
    assert damaged.keys.identify(SHOWN) is ANYONE
