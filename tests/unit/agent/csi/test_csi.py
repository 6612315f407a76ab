"""The plugin over its real sockets; what mounts is tested in the e2e tier."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.kubelet import FolderViews, Kubelet, call
from warmfleet_agent import csi
from warmfleet_agent.csi import requests, server
from warmfleet_agent.csi.proto import csi_pb2 as pb
from warmfleet_agent.csi.proto import pluginregistration_pb2 as watcher
from warmfleet_agent.mounts import MountError

DRIVER = "weights.warmfleet.dev"
KUBELET = Path("/var/lib/kubelet")
UID = "0b1c2d3e-0000-4000-8000-123456789abc"


class NoStore(FolderViews):
    """The store is not open yet."""

    async def make(self, uid: str) -> Path:
        raise csi.NotReadyError("the memory tier is not mounted yet; it is tried again")

    async def names(self) -> frozenset[str]:
        raise csi.NotReadyError


@pytest.fixture
def kubelet(tmp_path_factory: pytest.TempPathFactory) -> Kubelet:
    # Not below the test's own folder: the address of a socket has 107 characters.
    return Kubelet(tmp_path_factory.mktemp("k") / "k")


@pytest.fixture
def views(tmp_path: Path) -> FolderViews:
    return FolderViews(tmp_path)


@pytest.fixture
async def plugin(kubelet: Kubelet, views: FolderViews) -> AsyncIterator[csi.Plugin]:
    async with csi.serve(kubelet.folder, "n1", views) as plugin, kubelet.connected():
        yield plugin


async def test_kubelet_finds_the_plugin_and_registers_it(kubelet: Kubelet, views: FolderViews) -> None:
    async with csi.serve(kubelet.folder, "n1", views) as plugin:
        assert not plugin.is_registered
        async with kubelet.connected() as info:
            assert (info.type, info.name, list(info.supported_versions)) == ("CSIPlugin", DRIVER, ["1.0.0"])
            assert info.endpoint == str(kubelet.folder / "plugins" / DRIVER / "csi.sock")
            assert plugin.is_registered
            node = await kubelet.call("Node/NodeGetInfo", pb.NodeGetInfoRequest(), pb.NodeGetInfoResponse)
            assert node.node_id == "n1"
            about = await kubelet.call("Identity/GetPluginInfo", pb.GetPluginInfoRequest(), pb.GetPluginInfoResponse)
            assert about.name == DRIVER
            probe = await kubelet.call("Identity/Probe", pb.ProbeRequest(), pb.ProbeResponse)
            assert probe.ready.value
    assert list((kubelet.folder / "plugins_registry").iterdir()) == []


async def test_a_refused_registration_is_told_with_kubelets_words(kubelet: Kubelet, views: FolderViews) -> None:
    async with csi.serve(kubelet.folder, "n1", views) as plugin:
        (registry,) = (kubelet.folder / "plugins_registry").iterdir()
        async with grpc.aio.insecure_channel(f"unix:{registry}") as channel:
            status = watcher.RegistrationStatus(plugin_registered=False, error="another driver has that name")
            method = "/pluginregistration.Registration/NotifyRegistrationStatus"
            await call(channel, method, status, watcher.RegistrationStatusResponse)
        assert not plugin.is_registered
        assert plugin.registration_error == "another driver has that name"


async def test_a_killed_agents_sockets_are_taken_over(kubelet: Kubelet, views: FolderViews) -> None:
    for path in (server.socket_path(kubelet.folder), server.registration_path(kubelet.folder)):
        path.parent.mkdir(exist_ok=True)
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    async with csi.serve(kubelet.folder, "n1", views), kubelet.connected() as info:
        assert info.name == DRIVER


async def test_something_else_in_the_sockets_place_is_told(kubelet: Kubelet, views: FolderViews) -> None:
    path = server.socket_path(kubelet.folder)
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(MountError, match=r"csi\.sock"):
        async with csi.serve(kubelet.folder, "n1", views):
            pass
    assert path.read_text() == "mine"


async def test_without_a_store_kubelet_is_told_to_try_again(kubelet: Kubelet, tmp_path: Path) -> None:
    async with csi.serve(kubelet.folder, "n1", NoStore(tmp_path)), kubelet.connected():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await kubelet.publish(kubelet.publish_request(kubelet.new_pod()))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "not mounted yet" in str(refused.value.details())
        probe = await kubelet.call("Identity/Probe", pb.ProbeRequest(), pb.ProbeResponse)
        assert not probe.ready.value


async def test_what_was_never_published_can_be_unpublished(
    plugin: csi.Plugin, kubelet: Kubelet, views: FolderViews
) -> None:
    uid = kubelet.new_pod()
    await views.make(uid)
    for _ in range(2):
        await kubelet.unpublish(kubelet.unpublish_request(uid))
    await kubelet.unpublish(kubelet.unpublish_request(str(uuid4())))
    assert await views.names() == frozenset()


async def test_methods_of_other_kinds_of_drivers_are_unimplemented(plugin: csi.Plugin, kubelet: Kubelet) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await kubelet.call("Node/NodeStageVolume", pb.NodeStageVolumeRequest(), pb.NodeStageVolumeResponse)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


HOSTILE = {
    "a way out": "../../../../../../etc",
    "a newline": "weights\nmount",
    "4 kB": "w" * 4096,
    "nothing": "",
    "a link's dots": "..",
    "a slash": "a/b",
    "an upper-case name": "Weights",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
async def test_a_strange_place_is_refused(plugin: csi.Plugin, kubelet: Kubelet, views: FolderViews, name: str) -> None:
    uid = kubelet.new_pod()
    before = sorted(kubelet.folder.rglob("*"))
    for target in (
        f"{kubelet.folder}/pods/{uid}/volumes/kubernetes.io~csi/{name}/mount",
        f"{kubelet.folder}/pods/{name}/volumes/kubernetes.io~csi/weights/mount",
        f"/{name}",
        f"{kubelet.target(uid)}/{name}",
    ):
        publish, unpublish = kubelet.publish_request(uid), kubelet.unpublish_request(uid)
        publish.target_path = unpublish.target_path = target
        for answer in (kubelet.publish(publish), kubelet.unpublish(unpublish)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await answer
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert len(str(refused.value.details())) < 500
    assert sorted(kubelet.folder.rglob("*")) == before
    assert await views.names() == frozenset()


@pytest.mark.parametrize("volume_id", ["", "../x", "a\nb", "i" * 4096, "a b", "\N{GRINNING FACE}"])
async def test_a_strange_volume_id_is_refused(plugin: csi.Plugin, kubelet: Kubelet, volume_id: str) -> None:
    request = kubelet.publish_request(kubelet.new_pod())
    request.volume_id = volume_id
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await kubelet.publish(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"csi.storage.k8s.io/ephemeral": "false"}, "no claims"),
        ({"csi.storage.k8s.io/pod.uid": str(uuid4())}, "podInfoOnMount"),
        ({"csi.storage.k8s.io/pod.uid": ""}, "podInfoOnMount"),
        ({"model": "llama"}, "remove 'model' from volumeAttributes"),
    ],
    ids=["a claim's volume", "another pod's view", "no pod", "an attribute that would do nothing"],
)
async def test_a_volume_of_another_kind_is_refused_in_words(
    plugin: csi.Plugin, kubelet: Kubelet, change: dict[str, str], words: str
) -> None:
    request = kubelet.publish_request(kubelet.new_pod())
    request.volume_context.update(change)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await kubelet.publish(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in str(refused.value.details())


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        (pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume()), "no block device"),
        (pb.VolumeCapability(mount=pb.VolumeCapability.MountVolume(fs_type="ext4")), "fsType"),
        (pb.VolumeCapability(mount=pb.VolumeCapability.MountVolume(mount_flags=["rw"])), "no mount options"),
    ],
    ids=["a block device", "a file system", "mount options"],
)
def test_what_the_volume_can_not_be_is_refused(capability: pb.VolumeCapability, words: str, tmp_path: Path) -> None:
    request = Kubelet(tmp_path / "k").publish_request(UID)
    request.volume_capability.CopyFrom(capability)
    with pytest.raises(requests.RefusedError, match=words):
        requests.to_publish(request, tmp_path / "k")


@given(st.text(max_size=300))
def test_a_target_is_kubelets_place_or_none(text: str) -> None:
    for path in (text, f"{KUBELET}/{text}", f"{KUBELET}/pods/{UID}/volumes/kubernetes.io~csi/{text}/mount"):
        target = requests.target_of(path, KUBELET)
        if target is not None:
            assert path == "/".join([str(KUBELET), *target.folders, "mount"])
            assert ".." not in path.split("/")


async def test_views_of_pods_that_are_gone_are_removed_at_the_start(kubelet: Kubelet, views: FolderViews) -> None:
    """A pod that kubelet still has keeps its view, also before its volume is mounted; what is no view stays too."""
    here, gone = kubelet.new_pod(), str(uuid4())
    for name in (here, gone, "not-a-pod"):
        await views.make(name)
    swept = asyncio.Event()
    async with csi.serve(kubelet.folder, "n1", views, swept.set):
        await asyncio.wait_for(swept.wait(), 5)
    assert await views.names() == {here, "not-a-pod"}


async def test_later_a_view_goes_when_its_pod_was_missing_twice(
    kubelet: Kubelet, views: FolderViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once is not enough: the operator may name a pod before kubelet has heard of it."""
    monkeypatch.setattr(server, "SWEEP_SECONDS", 0.05)
    swept = asyncio.Event()
    async with csi.serve(kubelet.folder, "n1", views, swept.set):
        await asyncio.sleep(0.1)
        uid = str(uuid4())
        await views.make(uid)
        async with asyncio.timeout(5):
            while await views.names():
                await swept.wait()
                swept.clear()
