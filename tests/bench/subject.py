"""What benchmarks of the runner measure: one with the tiny model on real vLLM, beside the engine's own socket."""

import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from support import engine
from support.runner_process import RunnerProcess, running_runner
from support.tokens import public_key, signed_token
from warmfleet_api import assignment, names
from warmfleet_api.assignment import Assignment, Serving

MODEL = "tiny"
_POD_UID = "pod-uid"
_TOKEN_SECONDS = 3600
_LOG_BYTES = 4000
# The model is too small for more, and threads that wait for each other would take the cores from front and client.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@dataclass(slots=True)
class Subject:
    """A runner with one engine that is Ready."""

    runner: RunnerProcess
    socket: str
    """The engine's own."""
    arguments: tuple[str, ...]
    context_tokens: int
    key: Ed25519PrivateKey
    revision: int = 0

    @property
    def port(self) -> int:
        """The runner's API."""
        return int(self.runner.api.rpartition(":")[2])

    def serve(self, serving: Serving, *, trusts: bool) -> None:
        """Assign the engine with this serving; `trusts`: whoever holds our key may name a class."""
        self.revision += 1
        assigned = engine.assigned(MODEL, engine.tiny_model(), *self.arguments, serving=serving)
        spec = replace(assigned.engine, max_model_len=self.context_tokens)
        keys = (public_key(self.key),) if trusts else ()
        engines = (replace(assigned, engine=spec),)
        wanted = Assignment(version=assignment.VERSION, revision=self.revision, engines=engines, trusted_keys=keys)
        self.runner.write_assignment(assignment.encode(wanted))

    async def serve_anew(self, serving: Serving, *, trusts: bool) -> None:
        """Change the serving and wait until the runner has heard."""
        self.serve(serving, trusts=trusts)
        await self.runner.wait(lambda status: status.revision == self.revision)

    def trusted(self, **headers: str) -> dict[str, str]:
        """Return the headers of a sender that may name its class."""
        token = signed_token(self.key, _POD_UID, time.time() + _TOKEN_SECONDS)
        return {names.HEADER_TOKEN: token, **headers}

    def engine_cpu_seconds(self) -> float:
        """Processor time the engine's processes have used."""
        return sum(_cpu_seconds(pid) for pid in self.runner.processes("VLLM::"))

    def front_cpu_seconds(self) -> float:
        """Processor time the front has used."""
        return sum(_cpu_seconds(pid) for pid in self.runner.processes("warmfleet_runtime.front"))


@asynccontextmanager
async def subject(
    *arguments: str, serving: Serving, trusts: bool = False, context_tokens: int = engine.MAX_MODEL_LEN
) -> AsyncIterator[Subject]:
    """Start a runner and the tiny model in it with these options of vLLM; give it when it is Ready."""
    with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
        folder = Path(directory)
        async with running_runner(
            folder, "--stop-seconds=5", python=engine.RUNTIME_PYTHON, environment=_ENVIRONMENT
        ) as runner:
            socket = str(folder / "run" / f"{MODEL}.sock")
            subject = Subject(runner, socket, arguments, context_tokens, Ed25519PrivateKey.generate())
            subject.serve(serving, trusts=trusts)
            try:
                await runner.wait_ready(MODEL, seconds=engine.START_SECONDS)
                yield subject
            except Exception as error:
                error.add_note((folder / "runner.log").read_text(errors="replace")[-_LOG_BYTES:])
                raise


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
