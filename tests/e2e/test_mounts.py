"""The memory tier and views as the node's kernel mounts them, in a mount namespace of the test's own. Needs root."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from support.kubelet import FolderViews, Kubelet
from support.private_mounts import mount_tmpfs, run_privately
from support.store_folders import put
from warmfleet_agent import csi, mounts
from warmfleet_agent.settings import Settings
from warmfleet_agent.store import Store
from warmfleet_agent.tiers import FORMER_SECONDS, Tiers
from warmfleet_api.names import MANIFEST_FILE
from warmfleet_api.node_cache import NodeCacheSpec, TierSpec

pytestmark = pytest.mark.e2e
MIB = 1 << 20


def ours(path: Path) -> list[mounts.Mount]:
    return [each for each in mounts.table() if each.point == str(path)]


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Short: the address of a socket has 107 characters.
    return tmp_path_factory.mktemp("n")


@asynccontextmanager
async def serving(kubelet: Kubelet, views: FolderViews) -> AsyncIterator[csi.Plugin]:
    async with csi.serve(kubelet.folder, "n1", views) as plugin, kubelet.connected():
        yield plugin


def memory(node: Path) -> Path:
    mounts.memory(node / "cache", 64 * MIB)
    return node / "cache"


def test_memory_is_mounted_once_and_adopted_with_what_it_holds(node: Path) -> None:
    async def body() -> None:
        path = node / "cache"
        assert mounts.memory(path, 64 * MIB).is_new
        (path / "weights").write_bytes(b"w" * MIB)
        again = mounts.memory(path, 128 * MIB)
        assert not again.is_new
        assert (path / "weights").stat().st_size == MIB
        (mount,) = ours(path)
        assert {"nosuid", "nodev", "noexec", "rw"} <= mount.options
        assert os.statvfs(path).f_blocks * os.statvfs(path).f_frsize == 128 * MIB
        assert path.stat().st_mode & 0o777 == 0o755
        assert again.is_huge == ("huge=always" in mount.super_options)

    run_privately(body)


def test_memory_is_not_made_smaller_than_what_it_holds(node: Path) -> None:
    async def body() -> None:
        path = memory(node)
        (path / "weights").write_bytes(b"w" * 32 * MIB)
        with pytest.raises(mounts.MountError, match="once enough is evicted"):
            mounts.memory(path, 16 * MIB)
        (path / "weights").unlink()
        mounts.memory(path, 16 * MIB)
        assert os.statvfs(path).f_blocks * os.statvfs(path).f_frsize == 16 * MIB

    run_privately(body)


def test_a_strangers_tmpfs_is_refused(node: Path) -> None:
    async def body() -> None:
        (node / "cache").mkdir()
        mount_tmpfs(str(node / "cache"), "stranger")
        (node / "cache" / "theirs").write_text("x")
        with pytest.raises(mounts.MountError, match=r"did not mount; unmount it on the node \(umount "):
            mounts.memory(node / "cache", 64 * MIB)
        assert len(ours(node / "cache")) == 1

    run_privately(body)


def test_a_pod_sees_what_is_linked_later_and_writes_nothing(node: Path) -> None:
    """Root may not write either: here it is root who tries."""

    async def body() -> None:
        path = memory(node)
        kubelet, views = Kubelet(node / "k"), FolderViews(path)
        (path / "entry").write_bytes(b"weights")
        async with serving(kubelet, views) as plugin:
            uid = kubelet.new_pod()
            await kubelet.publish(kubelet.publish_request(uid))
            target = kubelet.target(uid)
            assert plugin.bound() == {uid}
            assert list(target.iterdir()) == []
            (views.root / uid / "entry").hardlink_to(path / "entry")
            assert (target / "entry").read_bytes() == b"weights"
            assert (target / "entry").stat().st_ino == (path / "entry").stat().st_ino
            for change in (
                lambda: (target / "entry").write_bytes(b"x"),
                (target / "new").touch,
                (target / "entry").unlink,
                lambda: (target / "entry").chmod(0o777),
            ):
                with pytest.raises(OSError, match="Read-only file system"):
                    change()
            (mount,) = ours(target)
            assert {"ro", "nosuid", "nodev", "noexec"} <= mount.options

    run_privately(body)


def test_the_bind_is_read_only_wherever_it_spreads(node: Path) -> None:
    """Remounting it read-only after it was attached would leave it writable in namespaces that had it before."""

    async def body() -> None:
        path = memory(node)
        kubelet, views = Kubelet(node / "k"), FolderViews(path)
        # Another way to kubelet's folder, of the same peers, as in a pod that sees it by HostToContainer.
        peer = node / "peer"
        peer.mkdir()
        bind = await asyncio.create_subprocess_exec("mount", "--bind", str(kubelet.folder), str(peer))
        assert await bind.wait() == 0
        async with serving(kubelet, views):
            uid = kubelet.new_pod()
            await kubelet.publish(kubelet.publish_request(uid))
            seen = peer / kubelet.target(uid).relative_to(kubelet.folder)
            with pytest.raises(OSError, match="Read-only file system"):
                (seen / "new").touch()
            await kubelet.unpublish(kubelet.unpublish_request(uid))
            assert not seen.exists()

    # `mount` runs in the namespace of the thread that starts it.
    run_privately(body)


def test_publishing_again_changes_nothing_and_unpublishing_leaves_nothing(node: Path) -> None:
    async def body() -> None:
        path = memory(node)
        kubelet, views = Kubelet(node / "k"), FolderViews(path)
        async with serving(kubelet, views) as plugin:
            uid = kubelet.new_pod()
            await kubelet.publish(kubelet.publish_request(uid))
            first = ours(kubelet.target(uid))
            await asyncio.gather(*(kubelet.publish(kubelet.publish_request(uid)) for _ in range(8)))
            assert ours(kubelet.target(uid)) == first
            for _ in range(2):
                await kubelet.unpublish(kubelet.unpublish_request(uid))
            assert plugin.bound() == frozenset()
            assert not kubelet.target(uid).exists()
            assert await views.names() == frozenset()
            kubelet.forget(uid)

    run_privately(body)


def test_an_agent_that_died_between_publish_and_unpublish_finds_its_way(node: Path) -> None:
    """Only mounts and folders are remembered, and those outlive it."""

    async def body() -> None:
        path = memory(node)
        kubelet, views = Kubelet(node / "k"), FolderViews(path)
        uid, gone = kubelet.new_pod(), str(uuid4())
        async with serving(kubelet, views):
            await kubelet.publish(kubelet.publish_request(uid))
        await views.make(gone)
        mounts.memory(path, 64 * MIB)
        async with serving(kubelet, views) as plugin:
            assert plugin.bound() == {uid}
            await kubelet.publish(kubelet.publish_request(uid))
            assert len(ours(kubelet.target(uid))) == 1
            await kubelet.unpublish(kubelet.unpublish_request(uid))
        assert await views.names() == frozenset()

    run_privately(body)


def test_a_stale_mount_at_the_target_gives_way(node: Path) -> None:
    """Of a memory tier that was unmounted by hand, or stacked by whatever mounted before."""

    async def body() -> None:
        path = memory(node)
        kubelet, views = Kubelet(node / "k"), FolderViews(path)
        async with serving(kubelet, views):
            uid = kubelet.new_pod()
            target = kubelet.target(uid)
            target.mkdir()
            mount_tmpfs(str(target), "old")
            mount_tmpfs(str(target), "older")
            await kubelet.publish(kubelet.publish_request(uid))
            (mount,) = ours(target)
            assert mount.source == mounts.SOURCE
            assert "ro" in mount.options

    run_privately(body)


def test_a_view_stays_while_another_volume_of_the_pod_shows_it(node: Path) -> None:
    async def body() -> None:
        path = memory(node)
        kubelet, views = Kubelet(node / "k"), FolderViews(path)
        async with serving(kubelet, views):
            uid = kubelet.new_pod()
            kubelet.volume_folder(uid, "second").mkdir()
            for volume in ("weights", "second"):
                await kubelet.publish(kubelet.publish_request(uid, volume))
            await kubelet.unpublish(kubelet.unpublish_request(uid))
            assert await views.names() == {uid}
            await kubelet.unpublish(kubelet.unpublish_request(uid, "second"))
            assert await views.names() == frozenset()

    run_privately(body)


def test_a_link_on_the_way_to_the_target_is_not_followed(node: Path) -> None:
    async def body() -> None:
        path = memory(node)
        kubelet, views = Kubelet(node / "k"), FolderViews(path)
        elsewhere = node / "elsewhere"
        elsewhere.mkdir()
        async with serving(kubelet, views):
            uid = kubelet.new_pod()
            kubelet.target(uid).symlink_to(elsewhere)
            for answer in (
                kubelet.publish(kubelet.publish_request(uid)),
                kubelet.unpublish(kubelet.unpublish_request(uid)),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await answer
                assert refused.value.code() is grpc.StatusCode.INTERNAL
                assert f"{kubelet.target(uid)}: Not a directory" in str(refused.value.details())
            assert ours(elsewhere) == []
            assert elsewhere.is_dir()

    run_privately(body)


def test_memory_of_a_former_path_is_given_back_once_nobody_reads_it(node: Path) -> None:
    async def body() -> None:
        former, present = node / "former", memory(node)
        stranger = node / "stranger"
        stranger.mkdir()
        mount_tmpfs(str(stranger), "theirs")
        mounts.memory(former, 64 * MIB)
        (node / "model").write_bytes(b"w" * MIB)
        settings = Settings(node_name="n1", memory_path=present)
        spec = NodeCacheSpec(cache="default", memory=TierSpec(bytes=64 * MIB, path=str(present)))
        tiers = Tiers(settings)
        with Store(former, 64 * MIB) as owned:
            put(owned, "read", node / "model")
            tiers.follow(spec, 1000)
            assert ours(former), "another agent works there"
        with (former / "entries" / "read" / MANIFEST_FILE).open("rb") as reader:
            fcntl.flock(reader, fcntl.LOCK_SH)
            tiers.follow(spec, 1000 + FORMER_SECONDS)
            assert ours(former), "a runner reads from it"
        tiers.follow(spec, 1001 + FORMER_SECONDS)
        assert ours(former), "it is not looked at in every round"
        tiers.follow(spec, 1000 + 2 * FORMER_SECONDS)
        assert not ours(former) and not former.exists()
        assert len(ours(present)) == len(ours(stranger)) == 1
        tiers.close()
        assert ours(present), "an agent that ends leaves its weights to its successor"

    run_privately(body)


def test_an_agent_that_is_replaced_for_another_path_gives_its_memory_back_when_it_ends(node: Path) -> None:
    async def body() -> None:
        path = memory(node)
        tiers = Tiers(Settings(node_name="n1", memory_path=path))
        tiers.follow(NodeCacheSpec(cache="default", memory=TierSpec(bytes=64 * MIB, path="/elsewhere/cache")), 1000)
        assert tiers.memory is not None and ours(path), "until then it works where it was made for"
        tiers.close()
        assert not ours(path)

    run_privately(body)
