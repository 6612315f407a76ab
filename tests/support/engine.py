"""The tiny model on real vLLM without a cluster: in the runtime image's environment, with this tree's code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.cluster import REPOSITORY, run
from support.runner_process import simulated
from warmfleet_api.assignment import EngineAssignment, EngineSpec, EnvVar
from warmfleet_api.vocabulary import EngineType

RUNTIME_PYTHON = str(REPOSITORY / "hack" / "runtime-python")
SMALL = ("--enforce-eager", "--kv-cache-memory-bytes", "67108864", "--max-num-seqs", "8")
"""Options that start vLLM quickly on two cores: nothing compiled, nothing profiled, little memory."""
MAX_MODEL_LEN = 512
START_SECONDS = 240.0
"""What a start may take on a machine that is busy with others."""
MAKE_SECONDS = 120


def tiny_model(*options: str) -> Path:
    """Return the folder of the tiny model, or of another that `options` name; it is made where it is missing."""
    return Path(run([str(REPOSITORY / "hack" / "model" / "tiny"), *options], MAKE_SECONDS).strip().splitlines()[-1])


def assigned(
    name: str, folder: Path, *args: str, env: Mapping[str, str] | None = None, **fields: Any
) -> EngineAssignment:
    """Return the assignment of a vLLM engine that serves `folder` as `name`; `fields` are the assignment's own."""
    spec = EngineSpec(
        type=EngineType.VLLM,
        uri=f"file://{folder}",
        folder=str(folder),
        served_names=(name,),
        max_model_len=MAX_MODEL_LEN,
        args=(*SMALL, *args),
        env=tuple(EnvVar(name=variable, value=value) for variable, value in (env or {}).items()),
    )
    return simulated(name, **{"start_budget_seconds": int(START_SECONDS), "engine": spec, **fields})
