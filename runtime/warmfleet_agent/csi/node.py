"""The methods of the services Identity and Node that a driver of ephemeral inline volumes needs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import grpc
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue

from warmfleet_agent.csi import requests, targets
from warmfleet_agent.csi.proto import csi_pb2 as csi
from warmfleet_agent.mounts import MountError
from warmfleet_api import names

CALL_SECONDS = 60
"""Kubelet gives up after 120 and calls again."""
Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)
# Generic in the stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Service: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
log = logging.getLogger(__name__)


class NotReadyError(Exception):
    """There is no store yet; kubelet tries again."""


class Views(Protocol):
    """The store of the memory tier, as far as it has to do with views."""

    async def make(self, uid: str) -> Path:
        """Have a view of this pod and return its folder. Raises NotReadyError."""

    async def remove(self, uid: str) -> None:
        """Have none. Raises NotReadyError."""

    async def names(self) -> frozenset[str]:
        """Return the pods that have one. Raises NotReadyError."""


class Volumes:
    """What the methods do."""

    def __init__(self, kubelet: Path, node_name: str, views: Views, on_change: Callable[[], None]) -> None:
        self._kubelet = kubelet
        self._node_name = node_name
        self._views = views
        self._on_change = on_change
        # Volumes of one pod share its view, so one of them is dealt with at a time.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def handlers(self) -> tuple[Service, ...]:
        """Return both services."""
        return (
            service(
                "csi.v1.Identity",
                GetPluginInfo=method(self._plugin_info, csi.GetPluginInfoRequest),
                GetPluginCapabilities=method(self._plugin_capabilities, csi.GetPluginCapabilitiesRequest),
                Probe=method(self._probe, csi.ProbeRequest),
            ),
            service(
                "csi.v1.Node",
                NodeGetInfo=method(self._node_info, csi.NodeGetInfoRequest),
                NodeGetCapabilities=method(self._node_capabilities, csi.NodeGetCapabilitiesRequest),
                NodePublishVolume=method(self._publish, csi.NodePublishVolumeRequest),
                NodeUnpublishVolume=method(self._unpublish, csi.NodeUnpublishVolumeRequest),
            ),
        )

    async def sweep(self, suspects: frozenset[str] | None) -> frozenset[str]:
        """Remove the views of `suspects` (None: of all) whose pods are gone still; return those that are gone now.

        Raises:
            NotReadyError: there is no store yet.
            OSError: a view can't be removed.
        """
        gone = await asyncio.to_thread(targets.orphans, self._kubelet, await self._views.names())
        for uid in sorted(gone if suspects is None else gone & suspects):
            async with self._lock(uid):
                if uid not in await asyncio.to_thread(targets.bound, self._kubelet):
                    log.info("removing the view of pod %s, which is gone", uid)
                    await self._views.remove(uid)
        return gone

    async def _publish(self, request: csi.NodePublishVolumeRequest) -> csi.NodePublishVolumeResponse:
        target = requests.to_publish(request, self._kubelet)
        async with self._lock(target.uid):
            view = await self._views.make(target.uid)
            await asyncio.to_thread(targets.publish, self._kubelet, target, view)
        log.info("pod %s has its view as volume %s", target.uid, target.volume)
        self._on_change()
        return csi.NodePublishVolumeResponse()

    async def _unpublish(self, request: csi.NodeUnpublishVolumeRequest) -> csi.NodeUnpublishVolumeResponse:
        target = requests.to_unpublish(request, self._kubelet)
        async with self._lock(target.uid):
            await asyncio.to_thread(targets.unpublish, self._kubelet, target)
            if target.uid not in await asyncio.to_thread(targets.bound, self._kubelet):
                await self._views.remove(target.uid)
        log.info("pod %s has given volume %s back", target.uid, target.volume)
        self._on_change()
        return csi.NodeUnpublishVolumeResponse()

    async def _node_info(self, _: csi.NodeGetInfoRequest) -> csi.NodeGetInfoResponse:
        return csi.NodeGetInfoResponse(node_id=self._node_name)

    async def _node_capabilities(self, _: csi.NodeGetCapabilitiesRequest) -> csi.NodeGetCapabilitiesResponse:
        return csi.NodeGetCapabilitiesResponse()

    async def _plugin_info(self, _: csi.GetPluginInfoRequest) -> csi.GetPluginInfoResponse:
        return csi.GetPluginInfoResponse(name=names.CSI_DRIVER, vendor_version=version("warmfleet"))

    async def _plugin_capabilities(self, _: csi.GetPluginCapabilitiesRequest) -> csi.GetPluginCapabilitiesResponse:
        return csi.GetPluginCapabilitiesResponse()

    async def _probe(self, _: csi.ProbeRequest) -> csi.ProbeResponse:
        try:
            await self._views.names()
        except NotReadyError:
            return csi.ProbeResponse(ready=BoolValue(value=False))
        return csi.ProbeResponse(ready=BoolValue(value=True))

    def _lock(self, uid: str) -> asyncio.Lock:
        return self._locks.setdefault(uid, asyncio.Lock())


def service(name: str, **methods: "grpc.RpcMethodHandler[Any, Any]") -> Service:
    """Return a service; what it has no method for is answered UNIMPLEMENTED."""
    return grpc.method_handlers_generic_handler(name, methods)


def method(
    behaviour: Callable[[Request], Awaitable[Answer]], request: type[Request]
) -> "grpc.RpcMethodHandler[Request, Answer]":
    """Return a method; errors become a status, with words that kubelet puts into the pod's events."""

    async def answer(message: Request, context: Context) -> Answer:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await behaviour(message)
        except requests.RefusedError as error:
            status, words = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except NotReadyError as error:
            status, words = grpc.StatusCode.UNAVAILABLE, str(error) or "the agent has no store yet; it is tried again"
        except TimeoutError:
            status, words = grpc.StatusCode.DEADLINE_EXCEEDED, f"not done after {CALL_SECONDS} s; it is tried again"
        except (MountError, OSError) as error:
            status, words = grpc.StatusCode.INTERNAL, str(error)
        log.warning("%s refused: %s", request.__name__, words)
        await context.abort(status, words)
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=request.FromString, response_serializer=_serialize
    )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
