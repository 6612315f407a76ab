"""vLLM's own OpenAI server on a unix socket. Only this module knows vLLM: its options, environment and log lines."""

import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Reason, Stage
from warmfleet_runtime.engines.port import Command, Observation, Place, how_it_ended

REFUSED_LINE = "warmfleet refused: "
WEIGHT_BYTES_LINE = "warmfleet weight bytes: "
_MAX_MESSAGE_CHARACTERS = 700
_MAX_DETAIL_CHARACTERS = 400

_STAGES = (
    (re.compile(r"Starting to load model"), Stage.ENGINE_FORKED),
    (re.compile(r"Loading weights took|Model loading took"), Stage.WEIGHTS_LOADED),
    (re.compile(r"torch\.compile took"), Stage.COMPILED),
    (re.compile(r"init engine \(profile, create kv cache"), Stage.CACHE_ALLOCATED),
)
_PROGRESS = re.compile(
    r"checkpoint shards: +\d+%|Capturing CUDA graphs|non-default args|Resolved architecture|"
    r"Initializing a V1 LLM engine|rank \d+ in world size"
)
_PREFIX = re.compile(r"^\(\w+ pid=\d+\) +((INFO|WARNING|ERROR) [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_USAGE_ERROR = re.compile(r"^\S+( serve)?: error: (?P<text>.+)")
_USAGE_EXIT_CODE = 2
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*\.)?(?P<kind>\w*(Error|Exception)): (?P<text>.+)")
_VALIDATION = re.compile(r"\d+ validation errors? for \w+$")
_CONSEQUENCE = re.compile(r"initialization failed|died unexpectedly")
"""Of exceptions that only pass on another process's."""
_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory|[Cc]annot allocate memory")
_TOO_LITTLE_MEMORY = re.compile(
    r"No available memory for the cache blocks|less than (desired|requested)|larger than the available KV cache"
)
"""vLLM's own sums: the same at each try, so a setting has to change."""


class VllmAdapter:
    """Starts `vllm serve` by exec, behind a check of the model's folder."""

    def command(self, engine: EngineAssignment, place: Place, environment: Mapping[str, str]) -> Command:
        """Return `vllm serve` with typed options first and the person's own after them."""
        spec = engine.engine
        length = () if spec.max_model_len is None else ("--max-model-len", str(spec.max_model_len))
        serve = (sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(place.weights))
        own = ("--uds", str(place.socket), "--served-model-name", *spec.served_names, *length)
        quiet = ("--disable-uvicorn-access-log",)
        launch = (sys.executable, "-m", "warmfleet_runtime.engines.launch_vllm", str(place.weights), spec.uri, "--")
        return Command(
            arguments=(*launch, *serve, *own, *quiet, *spec.args),
            environment={
                **environment,
                **environment_of(engine.id, engine.gpus, place.cache),
                **{each.name: each.value for each in spec.env},
            },
        )

    def observe(self, line: str) -> Observation | None:
        """Read vLLM's log: its stages, and its progress bars as signs of life."""
        if line.startswith(WEIGHT_BYTES_LINE):
            return Observation(weight_bytes=int(line.removeprefix(WEIGHT_BYTES_LINE)))
        for pattern, stage in _STAGES:
            if pattern.search(line):
                return Observation(stage=stage)
        return Observation() if _PROGRESS.search(line) else None

    def explain(self, exit_code: int, log_tail: Sequence[str]) -> EngineError:
        """Find the cause in the last lines of the log."""
        for line in reversed(log_tail):
            if line.startswith(REFUSED_LINE):
                return msgspec.json.decode(line.removeprefix(REFUSED_LINE), type=EngineError)
        lines = [_PREFIX.sub("", line) for line in log_tail]
        reason, message = _cause(exit_code, lines)
        return EngineError(reason=reason, message=message[:_MAX_MESSAGE_CHARACTERS], exit_code=exit_code)

    def memory_bytes(self, engine: EngineAssignment, measured_bytes: int) -> int:
        """Return what was measured."""
        return measured_bytes


def environment_of(name: str, gpus: Sequence[int], runner_cache: Path) -> dict[str, str]:
    """Return what vLLM finds in its environment beside the runner's own variables and the person's."""
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
    }


def _cause(exit_code: int, lines: Sequence[str]) -> tuple[Reason, str]:
    for line in lines:
        if exit_code == _USAGE_EXIT_CODE and (usage := _USAGE_ERROR.match(line)):
            return Reason.INVALID_ARGS, f"vllm serve: {usage['text']}; correct engine.args"
    # The last one that is a cause: those before it were caught, or led to it.
    causes = [index for index, line in enumerate(lines) if _EXCEPTION.match(line) and not _CONSEQUENCE.search(line)]
    cause = lines[causes[-1]] if causes else ""
    if _VALIDATION.search(cause):
        text = _validation_text(lines[causes[-1] + 1 :])
        return Reason.INVALID_ARGS, f"vllm serve: {text}; correct engine.args, engine.maxModelLen or the model"
    if _TOO_LITTLE_MEMORY.search(cause):
        message = f"vLLM has too little memory: {cause}; lower engine.maxModelLen, or raise resources.memory"
        return Reason.INVALID_ARGS, message
    if exit_code == -signal.SIGKILL or _OUT_OF_MEMORY.search(cause):
        message = (
            f"vLLM ran out of memory ({cause or how_it_ended(exit_code)}); raise resources.memory or "
            "resources.gpuMemory, or lower engine.maxModelLen"
        )
        return Reason.ENGINE_CRASHING, message
    last = cause or " | ".join(lines[-3:])
    return Reason.ENGINE_CRASHING, f"vLLM {how_it_ended(exit_code)}: {last}. See the runner's log"


def _validation_text(lines: Sequence[str]) -> str:
    """Return what pydantic's lines say, without its own `[type=…]`."""
    text: list[str] = []
    for line in lines:
        said, marker, _ = line.partition(" [type=")
        text.append(said.strip().removeprefix("Value error, "))
        if marker:
            break
    return " ".join(text)[:_MAX_DETAIL_CHARACTERS]
