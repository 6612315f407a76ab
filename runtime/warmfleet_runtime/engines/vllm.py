"""vLLM's own OpenAI server on a unix socket: how it is started, and what its log tells.

Its command line stands in `vllm_serve`, the reasons of its end in `vllm_failures`.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from warmfleet_api.artifacts import cache_name
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Stage
from warmfleet_runtime.engines import vllm_sleep
from warmfleet_runtime.engines.launch_vllm import COMPILE_CACHE, COMPILE_CACHE_LINE, WEIGHT_BYTES_LINE
from warmfleet_runtime.engines.port import Command, Observation, Place
from warmfleet_runtime.engines.vllm_failures import explain
from warmfleet_runtime.engines.vllm_serve import checked_folders, max_sequences, serve_arguments

_STAGES = (
    (re.compile(r"Starting to load model"), Stage.ENGINE_FORKED),
    (re.compile(r"Loading weights took|Model loading took"), Stage.WEIGHTS_LOADED),
    (re.compile(r"torch\.compile took|cpu_model_runner\.py:\d+\] Warming up done"), Stage.COMPILED),
    (re.compile(r"init engine \(profile, create kv cache"), Stage.CACHE_ALLOCATED),
)
_PROGRESS = re.compile(
    r"checkpoint shards: +\d+%|Capturing CUDA graphs|non-default args|Resolved architecture|"
    r"Initializing a V1 LLM engine|rank \d+ in world size|Warming up model for the compilation|Starting torch\.compile|"
    r"Dynamo bytecode transform time|the graph of compile range|a graph for compile range|Directly load "
)

_LAUNCH = (sys.executable, "-m", "warmfleet_runtime.engines.launch_vllm")
_VLLM = (sys.executable, "-m", "vllm.entrypoints.cli.main")


class VllmAdapter:
    """Starts `vllm serve` behind a check of the folders it reads."""

    can_sleep = True

    def command(self, engine: EngineAssignment, place: Place, environment: Mapping[str, str]) -> Command:
        """Return `vllm serve` with typed options first and the person's own after them."""
        serve = serve_arguments(engine, place.socket)
        name = cache_name(engine.engine)
        shown = "" if place.is_fresh else str(place.weights / name)
        checked = (*checked_folders(engine.engine), COMPILE_CACHE, str(place.cache / name), shown, "--")
        return Command(
            arguments=(*_LAUNCH, *checked, *_VLLM, *serve),
            environment={
                **environment,
                **environment_of(name, engine.gpus, place.cache),
                **{each.name: each.value for each in engine.engine.env},
            },
            fork_arguments=(*checked, *serve),
            traces=tuple(place.cache / name / folder for folder in ("inductor", "inductor/locks", "triton")),
        )

    def max_sequences(self, engine: EngineAssignment) -> int:
        """Return how many sequences the engine runs at once."""
        return max_sequences(engine)

    def observe(self, line: str) -> Observation | None:
        """Read vLLM's log: its stages, and its progress bars as signs of life."""
        if line.startswith(WEIGHT_BYTES_LINE):
            return Observation(weight_bytes=int(line.removeprefix(WEIGHT_BYTES_LINE)))
        if line.startswith(COMPILE_CACHE_LINE):
            return Observation(compile_cache_files=int(line.removeprefix(COMPILE_CACHE_LINE)))
        for pattern, stage in _STAGES:
            if pattern.search(line):
                return Observation(stage=stage)
        return Observation() if _PROGRESS.search(line) else None

    def explain(self, exit_code: int, log_tail: Sequence[str]) -> EngineError:
        """Find the cause in the last lines of the log."""
        return explain(exit_code, log_tail)

    def memory_bytes(self, engine: EngineAssignment, measured_bytes: int, *, is_asleep: bool = False) -> int:
        """Return what was measured."""
        return measured_bytes


def environment_of(name: str, gpus: Sequence[int], runner_cache: Path) -> dict[str, str]:
    """Return what vLLM finds in its environment beside the runner's own variables and the person's.

    `name`: of the folder with its caches. Engines that compile the same share one, at once or one after the other.
    """
    cache = runner_cache / name
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in gpus),
        "HOME": str(runner_cache),
        # Python looks names of users up in vain where an image has no entry for the uid.
        "USER": "warmfleet",
        "XDG_CACHE_HOME": str(cache),
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        # Nothing is fetched and nothing is told: the weights are here, and telemetry needs the person's consent.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Bound threads of several runners would pile up on the same cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Tell of a failure at once: log lines must not wait in a buffer.
        "PYTHONUNBUFFERED": "1",
        **vllm_sleep.ENVIRONMENT,
    }
