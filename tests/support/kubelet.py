"""Kubelet as a CSI driver meets it: it finds a socket in its registry, asks what is behind it, and calls that."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from warmfleet_agent.csi.proto import csi_pb2 as csi
from warmfleet_agent.csi.proto import pluginregistration_pb2 as watcher

CALL_SECONDS = 10
VOLUME = "weights"


class Kubelet:
    """A folder as kubelet keeps it, and its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plugins").mkdir(parents=True)
        (folder / "plugins_registry").mkdir()
        self._channel: grpc.aio.Channel | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[watcher.PluginInfo]:
        """Find the plugin as kubelet does, tell it that it is registered, and hold a connection to it."""
        (registry,) = (self.folder / "plugins_registry").iterdir()
        async with grpc.aio.insecure_channel(f"unix:{registry}") as channel:
            service = "/pluginregistration.Registration"
            info = await call(channel, f"{service}/GetInfo", watcher.InfoRequest(), watcher.PluginInfo)
            status = watcher.RegistrationStatus(plugin_registered=True)
            await call(channel, f"{service}/NotifyRegistrationStatus", status, watcher.RegistrationStatusResponse)
        async with grpc.aio.insecure_channel(f"unix:{info.endpoint}") as self._channel:
            yield info

    def new_pod(self) -> str:
        """Make the folders of a pod, with the one of its volume, and return its UID."""
        uid = str(uuid4())
        self.volume_folder(uid).mkdir(parents=True)
        return uid

    def volume_folder(self, uid: str, volume: str = VOLUME) -> Path:
        return self.folder / "pods" / uid / "volumes" / "kubernetes.io~csi" / volume

    def target(self, uid: str, volume: str = VOLUME) -> Path:
        return self.volume_folder(uid, volume) / "mount"

    def forget(self, uid: str) -> None:
        """Remove what is left of a pod, as kubelet does in the end."""
        shutil.rmtree(self.folder / "pods" / uid)

    def publish_request(self, uid: str, volume: str = VOLUME) -> csi.NodePublishVolumeRequest:
        """The request that kubelet makes for an inline volume."""
        mode = csi.VolumeCapability.AccessMode(mode=csi.VolumeCapability.AccessMode.SINGLE_NODE_WRITER)
        return csi.NodePublishVolumeRequest(
            volume_id=f"csi-{uid.replace('-', '')}",
            target_path=str(self.target(uid, volume)),
            volume_capability=csi.VolumeCapability(mount=csi.VolumeCapability.MountVolume(), access_mode=mode),
            volume_context={
                "csi.storage.k8s.io/pod.name": "runner",
                "csi.storage.k8s.io/pod.namespace": "default",
                "csi.storage.k8s.io/pod.uid": uid,
                "csi.storage.k8s.io/serviceAccount.name": "default",
                "csi.storage.k8s.io/ephemeral": "true",
            },
        )

    def unpublish_request(self, uid: str, volume: str = VOLUME) -> csi.NodeUnpublishVolumeRequest:
        return csi.NodeUnpublishVolumeRequest(
            volume_id=f"csi-{uid.replace('-', '')}", target_path=str(self.target(uid, volume))
        )

    async def publish(self, request: csi.NodePublishVolumeRequest) -> None:
        await self.call("Node/NodePublishVolume", request, csi.NodePublishVolumeResponse)

    async def unpublish(self, request: csi.NodeUnpublishVolumeRequest) -> None:
        await self.call("Node/NodeUnpublishVolume", request, csi.NodeUnpublishVolumeResponse)

    async def call(self, method: str, request: Message, answer: type[Any]) -> Any:
        """Call one method of the driver."""
        assert self._channel is not None, "connect first"
        return await call(self._channel, f"/csi.v1.{method}", request, answer)


async def call(channel: grpc.aio.Channel, method: str, request: Message, answer: type[Any]) -> Any:
    stub = channel.unary_unary(method, request_serializer=_serialize, response_deserializer=answer.FromString)
    return await asyncio.wait_for(stub(request), CALL_SECONDS)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


class FolderViews:
    """Views as plain folders below `root`, without a store."""

    def __init__(self, root: Path) -> None:
        self.root = root / "views"
        self.root.mkdir(exist_ok=True)

    async def make(self, uid: str) -> Path:
        folder = self.root / uid
        folder.mkdir(exist_ok=True)
        return folder

    async def remove(self, uid: str) -> None:
        shutil.rmtree(self.root / uid, ignore_errors=True)

    async def names(self) -> frozenset[str]:
        return frozenset(path.name for path in self.root.iterdir())
