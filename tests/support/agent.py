"""The node agent as a process on the host, models for it to fetch, and NodeCaches to tell it so."""

import asyncio
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from support.ports import free_port
from support.sources.web_server import WebServer, web_server
from support.waiting import wait_for
from warmfleet_api import agent_status, names
from warmfleet_api.agent_status import AgentStatus
from warmfleet_api.weights import entry_key

MIB = 1024 * 1024
START_SECONDS = 60
STOP_SECONDS = 30
PROBE_SECONDS = 5
_open = build_opener(ProxyHandler({})).open


def write_model(folder: Path, size_bytes: int, *, files: int = 1, seed: int = 1) -> str:
    """Write a model of about this size below `folder`, and return its uri: valid safetensors and a config."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "seed": seed}))
    each = size_bytes // files
    block = bytes((seed * 7 + number) % 251 for number in range(64 * 1024))
    for number in range(1, files + 1):
        header = json.dumps({"w": {"dtype": "U8", "shape": [each], "data_offsets": [0, each]}}).encode()
        header += b" " * (-len(header) % 8)
        name = "model.safetensors" if files == 1 else f"model-{number:05}-of-{files:05}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            left = each
            while left:
                left -= file.write(block[: min(left, len(block))])
    return folder.resolve().as_uri()


def wanted(uri: str, revision: str = "", scope: str = "", *, tier: str = "Memory", **more: Any) -> dict[str, Any]:
    """Return a wanted entry as it stands in a NodeCache."""
    entry = {"key": entry_key(uri, revision, scope), "uri": uri, "tier": tier, **more}
    return entry | ({"revision": revision} if revision else {})


def node_cache(node: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a NodeCache as the operator writes it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.NODE_CACHE_KIND,
        "metadata": {"name": node},
        "spec": dict(spec),
    }


def seen(status: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an entry of a NodeCache's status; an empty one where there is none."""
    found: Mapping[str, Any]
    for found in status.get("entries", []):
        if found["key"] == key:
            return found
    return {}


@contextmanager
def hub(root: Path) -> Iterator[WebServer]:
    """Serve the model below `root` as `hf://org/model`, on a thread of its own."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    ready = threading.Event()
    servers: list[WebServer] = []

    async def serve() -> None:
        async with web_server(root) as server:
            servers.append(server)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="hub", daemon=True)
    thread.start()
    assert ready.wait(START_SECONDS), "the hub did not start"
    try:
        yield servers[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(STOP_SECONDS)
        loop.close()


class AgentProcess:
    """`python -m warmfleet_agent`. Settings are those of its environment; the process ends with the context."""

    def __init__(
        self, kubeconfig: Path, directory: Path, node: str, environment: Mapping[str, str], **settings: str | int
    ) -> None:
        self.node = node
        self._environment = environment
        self.log = directory / f"agent-{node}.log"
        self.memory, self.disk = directory / "memory", directory / "disk"
        self.memory.mkdir(exist_ok=True)
        self._settings: dict[str, str | int] = {
            "node_name": node,
            "kubeconfig": str(kubeconfig),
            "memory_path": str(self.memory),
            "memory_mount": "Present",
            "disk_path": str(self.disk),
            "kubelet_path": "",
        }
        self._settings |= settings
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Process id of the running agent."""
        assert self._process is not None, "the agent was not started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the agent ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process; `wait_ready` tells when it has its stores."""
        self._port = free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WARMFLEET_")}
        environment |= {f"WARMFLEET_{key.upper()}": str(value) for key, value in self._settings.items()}
        environment |= {"WARMFLEET_PORT": str(self._port), **self._environment}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "warmfleet_agent"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self) -> None:
        """Wait until /readyz is green."""
        wait_for(
            "the agent is ready",
            lambda: self.exit_code is not None or self.probe(names.PATH_READY) == 200,
            START_SECONDS,
            self.log_tail,
        )
        assert self.exit_code is None, f"the agent ended with {self.exit_code}\n{self.log_tail()}"

    def kill(self) -> None:
        """End the process as a power-off would, and reap it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        assert self._process is not None
        return self._process.wait(STOP_SECONDS)

    def probe(self, path: str) -> int:
        """Return the HTTP status of a path; 0 where nothing answers."""
        try:
            with _open(self._url(path), timeout=PROBE_SECONDS) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, TimeoutError, ConnectionError):
            return 0

    def status(self) -> AgentStatus:
        """Return what the agent says of itself."""
        with _open(self._url(names.PATH_STATUS), timeout=PROBE_SECONDS) as answer:
            return agent_status.decode(answer.read())

    @contextmanager
    def stream(self) -> Iterator[list[AgentStatus]]:
        """Follow the status stream; the list grows while the context is open."""
        lines: list[AgentStatus] = []
        answer = _open(self._url(names.PATH_STATUS + "?watch=1"), timeout=PROBE_SECONDS * 4)

        def follow() -> None:
            try:
                while line := answer.readline():
                    lines.append(agent_status.decode(line))
            except (OSError, ValueError, AttributeError):
                return  # the agent ended

        thread = threading.Thread(target=follow, name="stream", daemon=True)
        thread.start()
        try:
            yield lines
        finally:
            answer.fp.raw._sock.shutdown(socket.SHUT_RDWR)
            thread.join(PROBE_SECONDS)
            answer.close()

    def metrics(self) -> dict[str, float]:
        """Return /metrics by sample, its labels included as they are written."""
        with _open(self._url(names.PATH_METRICS), timeout=PROBE_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def fetched_bytes(self) -> int:
        """Return how much this process has fetched from afar."""
        return int(self.metrics().get('warmfleet_weights_bytes_total{step="Fetch"}', 0))

    def log_tail(self, lines: int = 40) -> str:
        """Return the end of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def said(self, pattern: str) -> bool:
        """Whether the log has a line with this."""
        return re.search(pattern, self.log.read_text(errors="replace")) is not None

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}{path}"
