"""The command line of `vllm serve` for an engine of an assignment: typed fields first, engine.args last.

vLLM takes the last word of an option, so what engine.args says would win; the operator refuses clashes.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from warmfleet_api.assignment import EngineAssignment, EngineSpec, LoraAdapter, Parallelism, Speculative
from warmfleet_api.vllm_options import flags, integer_of, value_of
from warmfleet_runtime.engines import vllm_sleep

RANK = "{rank of the adapters}"
"""Stands for a number that only the adapters' folders tell; the check of the folders puts it in."""
DRAFT, ADAPTER = "draft", "adapter"
"""What a further folder of the check is."""
MAX_LORAS = 8
"""Adapters that requests of one batch may use; each costs memory of the GPU."""
SEQUENCES_ON_CPU = 128
SEQUENCES_ON_GPU = 256
"""What vLLM 0.32 runs at once where no option says it (`EngineArgs.get_batch_defaults`): on CPU per tensor and pipeline
process; on GPU it is 1024 for some with 70 GB or more, which nobody can tell before vLLM has seen the device."""


def serve_arguments(engine: EngineAssignment, socket: Path) -> tuple[str, ...]:
    """Return `serve …`, as it follows `vllm`."""
    spec = engine.engine
    length = () if spec.max_model_len is None else ("--max-model-len", str(spec.max_model_len))
    quantization = () if spec.quantization is None else ("--quantization", spec.quantization)
    return (
        *("serve", spec.folder),
        *("--uds", str(socket), "--served-model-name", *spec.served_names),
        *_parallel(spec.parallelism),
        *length,
        *quantization,
        *(_speculative(spec.speculative) if spec.speculative is not None else ()),
        *(_adapters(spec) if spec.adapters else ()),
        *vllm_sleep.options(engine.gpus),
        "--disable-uvicorn-access-log",
        *spec.args,
    )


def checked_folders(spec: EngineSpec) -> tuple[str, ...]:
    """Return what `launch_vllm` checks: `FOLDER URI`, then `draft FOLDER URI` and `adapter FOLDER URI`."""
    draft = (DRAFT, spec.speculative.folder, spec.speculative.uri) if spec.speculative is not None else ()
    adapters = (text for each in spec.adapters for text in (ADAPTER, each.folder, each.uri))
    return (spec.folder, spec.uri, *draft, *adapters)


def max_sequences(engine: EngineAssignment) -> int:
    """Return how many sequences the engine runs at once, all its copies of the model together."""
    args, parallel = engine.engine.args, engine.engine.parallelism
    tensor = _size(args, "tensor_parallel_size") or parallel.tensor
    pipeline = _size(args, "pipeline_parallel_size") or parallel.pipeline
    data = _size(args, "data_parallel_size") or parallel.data
    sequences = _size(args, "max_num_seqs")
    if sequences is None:
        sequences = SEQUENCES_ON_GPU if engine.gpus else SEQUENCES_ON_CPU * tensor * pipeline
        if value_of(args, "performance_mode") == "throughput":
            sequences *= 2
        sequences = min(sequences, _size(args, "max_num_batched_tokens") or sequences)
    return data * min(sequences, _size(args, "max_num_active_seqs") or sequences)


def rank_option(rank: int) -> str:
    """Return the least value of `--max-lora-rank` that takes adapters of this rank; the rank itself where none does."""
    known = sorted(int(text) for text in flags()["--max-lora-rank"].choices or ())
    return str(next((each for each in known if each >= rank), rank))


def _parallel(parallelism: Parallelism) -> Iterator[str]:
    sizes = {
        "--tensor-parallel-size": parallelism.tensor,
        "--pipeline-parallel-size": parallelism.pipeline,
        "--data-parallel-size": parallelism.data,
    }
    for flag, size in sizes.items():
        if size > 1:
            yield from (flag, str(size))


def _speculative(draft: Speculative) -> tuple[str, str]:
    """Leave the method to vLLM: the draft's own config.json tells it."""
    config = {"model": draft.folder, "num_speculative_tokens": draft.tokens}
    return "--speculative-config", msgspec.json.encode(config).decode()


def _adapters(spec: EngineSpec) -> Iterator[str]:
    """All of them stay in memory; sizes are the person's where engine.args gives them."""
    yield "--enable-lora"
    resident, together = _size(spec.args, "max_cpu_loras"), _size(spec.args, "max_loras")
    if resident is None:
        yield from ("--max-cpu-loras", str(max(len(spec.adapters), together or 1)))
    if together is None:
        yield from ("--max-loras", str(min(len(spec.adapters), MAX_LORAS, resident or MAX_LORAS)))
    if value_of(spec.args, "max_lora_rank") is None:
        yield from ("--max-lora-rank", RANK)
    yield from ("--lora-modules", *(_module(each) for each in spec.adapters))


def _module(adapter: LoraAdapter) -> str:
    """Return JSON: in the form `name=path`, vLLM takes a comma for the start of JSON."""
    return msgspec.json.encode({"name": adapter.name, "path": adapter.folder}).decode()


def _size(args: tuple[str, ...], name: str) -> int | None:
    """Return a size that engine.args gives; None where it gives none or one that vLLM will refuse."""
    size = integer_of(args, name)
    return size if size is not None and size > 0 else None
