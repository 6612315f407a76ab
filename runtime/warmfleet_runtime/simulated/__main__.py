"""`python -m warmfleet_runtime.simulated --socket PATH SPEC`: the process of a Simulated engine."""

import argparse
import asyncio
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from warmfleet_api.assignment import EngineSpec, SimulatedEngine
from warmfleet_api.vocabulary import Stage
from warmfleet_http.server import asgi_server
from warmfleet_runtime.engines.simulated import STAGE_LINE
from warmfleet_runtime.processes import die_with_parent
from warmfleet_runtime.simulated.app import SimulatedApp
from warmfleet_runtime.simulated.sleep import HeldMemory, say_only

_SHUTDOWN_SECONDS = 2.0


def main() -> None:
    """Load for as long as the spec says, then serve until SIGTERM or the spec's fault."""
    parser = argparse.ArgumentParser(prog="warmfleet_runtime.simulated")
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to serve on")
    parser.add_argument("spec", help="EngineSpec as JSON")
    arguments = parser.parse_args()
    die_with_parent()
    spec = msgspec.json.decode(arguments.spec, type=EngineSpec)
    _load(spec.simulated or SimulatedEngine())
    asyncio.run(_serve(spec, arguments.socket))


def _load(behaviour: SimulatedEngine) -> None:
    _finish(Stage.ENGINE_FORKED)
    fault = behaviour.fault.kind if behaviour.fault else None
    if fault == "CrashAtStart":
        sys.exit("simulated fault: CrashAtStart")
    if fault == "HangAtStart":
        signal.pause()
    time.sleep(behaviour.load_milliseconds / 1000)
    _finish(Stage.WEIGHTS_LOADED)
    time.sleep(behaviour.initialize_milliseconds / 1000)
    _finish(Stage.CACHE_ALLOCATED)


async def _serve(spec: EngineSpec, path: Path) -> None:
    behaviour = spec.simulated or SimulatedEngine()
    app = SimulatedApp(spec, HeldMemory().hold if behaviour.holds_memory else say_only)
    engine = asgi_server(app, shutdown_seconds=_SHUTDOWN_SECONDS)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, setattr, engine, "should_exit", True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    crashing = asyncio.create_task(_crash(app, behaviour), name="fault")
    try:
        await engine.serve([listening])
    finally:
        crashing.cancel()
        await asyncio.gather(crashing, return_exceptions=True)


async def _crash(app: SimulatedApp, behaviour: SimulatedEngine) -> None:
    fault = behaviour.fault
    if fault is None or fault.kind != "CrashAfterSeconds":
        return
    await app.answered.wait()
    await asyncio.sleep(fault.after_seconds)
    sys.stderr.write(f"simulated fault: CrashAfterSeconds {fault.after_seconds}\n")
    signal.raise_signal(signal.SIGKILL)


def _finish(stage: Stage) -> None:
    sys.stdout.write(f"{STAGE_LINE}{stage}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
