"""The plugin's sockets: one for kubelet's calls, one at which kubelet learns of the first."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc

from warmfleet_agent.csi import targets
from warmfleet_agent.csi.node import NotReadyError, Service, Views, Volumes, method, service
from warmfleet_agent.csi.proto import pluginregistration_pb2 as watcher
from warmfleet_agent.mounts import MountError
from warmfleet_api import names

SWEEP_SECONDS = 60.0
NOT_READY_SECONDS = 1.0
STOP_SECONDS = 2.0
MAX_CALLS = 64
_MAX_MESSAGE_BYTES = 1024 * 1024
_VERSION = "1.0.0"
"""Of the interface, as kubelet asks for it."""
log = logging.getLogger(__name__)


class Plugin:
    """The running plugin."""

    def __init__(self, kubelet: Path) -> None:
        self._kubelet = kubelet
        self.is_registered = False
        """Whether kubelet has taken it: before, no pod with the volume starts."""
        self.registration_error = ""
        """Why it has not."""

    def bound(self) -> frozenset[str]:
        """Return the UIDs of the pods that have their view mounted now. Blocks for milliseconds."""
        return targets.bound(self._kubelet)

    def registration(self) -> Service:
        """Return the service at which kubelet learns of the plugin."""
        return service(
            "pluginregistration.Registration",
            GetInfo=method(self._info, watcher.InfoRequest),
            NotifyRegistrationStatus=method(self._notify, watcher.RegistrationStatus),
        )

    async def _info(self, _: watcher.InfoRequest) -> watcher.PluginInfo:
        endpoint = str(socket_path(self._kubelet))
        return watcher.PluginInfo(
            type="CSIPlugin", name=names.CSI_DRIVER, endpoint=endpoint, supported_versions=[_VERSION]
        )

    async def _notify(self, status: watcher.RegistrationStatus) -> watcher.RegistrationStatusResponse:
        self.is_registered, self.registration_error = status.plugin_registered, status.error
        if status.plugin_registered:
            log.info("kubelet has registered %s", names.CSI_DRIVER)
        else:
            log.error("kubelet refuses %s: %s; it tries again", names.CSI_DRIVER, status.error)
        return watcher.RegistrationStatusResponse()


def socket_path(kubelet: Path) -> Path:
    """Return where kubelet calls the plugin."""
    return kubelet / "plugins" / names.CSI_DRIVER / names.CSI_SOCKET


def registration_path(kubelet: Path) -> Path:
    """Return where kubelet learns of it."""
    return kubelet / "plugins_registry" / f"{names.CSI_DRIVER}-reg.sock"


@asynccontextmanager
async def serve(
    kubelet_path: Path, node_name: str, views: Views, on_change: Callable[[], None] = lambda: None
) -> AsyncIterator[Plugin]:
    """Serve kubelet in this event loop until the block is left; that takes `STOP_SECONDS` at most.

    Views of pods that are gone are removed as soon as there is a store, and from then on each `SWEEP_SECONDS`, once
    they were seen twice: the pod of a view may be about to come.

    Args:
        kubelet_path: kubelet's folder, on the node and in the agent alike.
        node_name: what the node is called.
        views: the store.
        on_change: called in the loop when a volume was mounted or has gone.

    Raises:
        MountError: a socket can't be made; the message says which, and what to do.
    """
    kubelet = await asyncio.to_thread(kubelet_path.resolve)
    plugin = Plugin(kubelet)
    volumes = Volumes(kubelet, node_name, views, on_change)
    # First what kubelet calls, then what tells it so.
    async with (
        _serving(socket_path(kubelet), *volumes.handlers()),
        _serving(registration_path(kubelet), plugin.registration()),
        asyncio.TaskGroup() as tasks,
    ):
        sweep = tasks.create_task(_sweep(volumes, on_change), name="sweep of views")
        try:
            yield plugin
        finally:
            sweep.cancel()


@asynccontextmanager
async def _serving(path: Path, *services: Service) -> AsyncIterator[None]:
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)], maximum_concurrent_rpcs=MAX_CALLS
    )
    server.add_generic_rpc_handlers(services)
    try:
        await asyncio.to_thread(_clear, path)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
    except (OSError, RuntimeError) as error:
        raise MountError(
            f"no socket can be made at {path}: {error}; is WARMFLEET_KUBELET_PATH kubelet's folder?"
        ) from error
    try:
        yield
    finally:
        await server.stop(STOP_SECONDS)


def _clear(path: Path) -> None:
    """Make way for a socket: a former agent that was killed has left its own there."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    if path.is_socket():
        with suppress(FileNotFoundError):
            path.unlink()


async def _sweep(volumes: Volumes, on_change: Callable[[], None]) -> None:
    gone: frozenset[str] | None = None
    while True:
        pause = SWEEP_SECONDS
        try:
            gone = await volumes.sweep(gone)
        except NotReadyError:
            pause = NOT_READY_SECONDS
        except OSError as error:
            log.warning("a view of a pod that is gone can't be removed: %s; it is tried again", error)
        else:
            if gone:
                on_change()
        await asyncio.sleep(pause)
