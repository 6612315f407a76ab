"""A router as a process of its own, without a cluster: what a cluster would tell it comes in lines on standard input.

    {"model": "m", "spec": {"serving": {...}}}               a ModelDeployment; `spec` is what differs from the shortest
    {"runner": "r1", "host": "127.0.0.1", "m": "Ready"}      a runner and the states of its engines
    {"tenant": "t", "keys": ["sk-..."], "spec": {...}}       a Tenant with its API keys

It prints `port N KEY` once it listens (KEY: public half of what signs its tokens, as an assignment carries it), and
`wake ns/m` for each wake it would ask the operator for. Everything else is as in the real one: tokens, access log (to
a file), metrics, tries, breakers, and how it leaves after SIGTERM.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.tokens import public_key
from warmfleet_api import names
from warmfleet_api.tenant import TenantSpec
from warmfleet_http.collector import calm_the_collector
from warmfleet_http.messages import Limits
from warmfleet_http.server import server
from warmfleet_http.slices import ask_for_short_slices
from warmfleet_kube.objects import Metadata
from warmfleet_router.access_log import AccessLog
from warmfleet_router.dispatch import Bounds
from warmfleet_router.metrics import Metrics
from warmfleet_router.process import serve_until
from warmfleet_router.records import ModelDeployment, Pod, PodStatus
from warmfleet_router.settings import MEBIBYTE, Settings
from warmfleet_router.tenants import TenantKey
from warmfleet_router.tokens import Tokens
from warmfleet_router.wiring import Outside, Parts

NAMESPACE = "ns"
HELD_BYTES = 256 * MEBIBYTE
STOP_SECONDS = 10.0


async def main(arguments: argparse.Namespace) -> None:
    key = Ed25519PrivateKey.generate()
    with arguments.log.open("wb") as file:
        log = AccessLog(file)
        parts = Parts(
            Outside(
                wanted=lambda key: tell(f"wake {key}"),
                tokens=Tokens(key),
                metrics=Metrics(),
                bounds=Bounds(HELD_BYTES, HELD_BYTES),
                log=log,
                runner_port=arguments.runner_port,
            )
        )
        listening = socket.create_server(("127.0.0.1", 0), backlog=8192)
        limits = Limits(body_bytes=Settings.model_fields["body_mebibytes"].default * MEBIBYTE)
        serving = server(parts.router, shutdown_seconds=STOP_SECONDS, limits=limits)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        loop.add_reader(sys.stdin.fileno(), hear, parts, bytearray())
        logging = asyncio.create_task(log.run(), name="access log")
        tell(f"port {listening.getsockname()[1]} {public_key(key)}")
        await serve_until(stopping, serving, listening, arguments.leave_seconds)
        logging.cancel()
        await asyncio.gather(logging, return_exceptions=True)
        await parts.close()


def hear(parts: Parts, rest: bytearray) -> None:
    """Take what came on standard input: whole lines at once, so that none waits for the next one."""
    data = os.read(sys.stdin.fileno(), 65_536)
    if not data:
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        return
    rest += data
    *lines, last = bytes(rest).split(b"\n")
    rest[:] = last
    for line in lines:
        take(parts, msgspec.json.decode(line))


def take(parts: Parts, told: dict[str, Any]) -> None:
    if name := told.pop("model", None):
        metadata = Metadata(name=name, namespace=NAMESPACE, creation_timestamp="2026-01-01T00:00:00Z")
        spec = {"model": {"uri": "hf://a/b"}, **told.pop("spec", {})}
        parts.model_changed(None, ModelDeployment(metadata=metadata, spec=spec))
        return
    if tenant := told.pop("tenant", None):
        key = TenantKey(NAMESPACE, tenant)
        allowed = TenantSpec.model_validate({"secretRef": {"name": "keys"}, **told.pop("spec", {})})
        parts.tenants.put(key, allowed, [each.encode() for each in told["keys"]])
        parts.quotas.put(key, allowed.limits, time.monotonic())
        return
    runner, host = told.pop("runner"), told.pop("host")
    labels = {names.serve_label(model): state for model, state in told.items()}
    metadata = Metadata(name=runner, namespace=NAMESPACE, uid=f"uid-{runner}", labels=labels)
    parts.pod_changed(None, Pod(metadata=metadata, status=PodStatus(phase="Running", pod_ip=host)))


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runner-port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--leave-seconds", type=float, default=0.0, help="requests are taken for so long after SIGTERM")
    calm_the_collector()
    ask_for_short_slices()
    uvloop.run(main(parser.parse_args()))
