"""Why a vLLM process ended, from its exit code and the last lines of its log, and what a person should change."""

import re
import signal
from collections.abc import Sequence

import msgspec

from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Reason
from warmfleet_runtime.engines.launch_vllm import REFUSED_LINE
from warmfleet_runtime.engines.port import how_it_ended

_MAX_MESSAGE_CHARACTERS = 700
_MAX_DETAIL_CHARACTERS = 400

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
_ADAPTER = re.compile(
    r"Call to add_lora method failed: (Worker failed with error ['\"])?(?P<text>.*?)"
    r"(['\"], please check the stack trace above for the root cause)?$"
)
_ADAPTER_LOADED = re.compile(r"Loaded new LoRA adapter: name '(?P<name>[^']+)'")
_KERNEL = re.compile(r"_C::\w*(quant|fp8|fp4|int8|awq|gptq|marlin)\w*\(\)|quantization is currently not supported in")
"""A quantization for which this build of vLLM has no code on this device."""
_ADVICE = (
    (re.compile(r"draft model|[Ss]peculative|num_speculative"), "correct engine.speculative"),
    (re.compile(r"Cannot find the config file for"), "the weights are not quantized so; correct engine.quantization"),
    (re.compile(r"[Qq]uantiz"), "correct engine.quantization, or remove it: the model's config.json says the same"),
    (re.compile(r"tensor parallel|pipeline parallel|data parallel"), "correct engine.parallelism or resources.gpus"),
    (re.compile(r"LoRA|lora"), "correct model.adapters"),
)
"""What to change for a configuration that vLLM refuses, by its words; the first that fits."""
_COMMON_ADVICE = "correct engine.args, engine.maxModelLen or the model"


def explain(exit_code: int, log_tail: Sequence[str]) -> EngineError:
    """Find the cause in the last lines of the log."""
    for line in reversed(log_tail):
        if line.startswith(REFUSED_LINE):
            return msgspec.json.decode(line.removeprefix(REFUSED_LINE), type=EngineError)
    lines = [_PREFIX.sub("", line) for line in log_tail]
    reason, message = _cause(exit_code, lines)
    return EngineError(reason=reason, message=message[:_MAX_MESSAGE_CHARACTERS], exit_code=exit_code)


def _cause(exit_code: int, lines: Sequence[str]) -> tuple[Reason, str]:
    for line in lines:
        if exit_code == _USAGE_EXIT_CODE and (usage := _USAGE_ERROR.match(line)):
            return Reason.INVALID_ARGS, f"vllm serve: {usage['text']}; correct engine.args"
    # The last one that is a cause: those before it were caught, or led to it.
    causes = [index for index, line in enumerate(lines) if _EXCEPTION.match(line) and not _CONSEQUENCE.search(line)]
    cause = lines[causes[-1]] if causes else ""
    refusal = _refusal(cause, lines[: causes[-1]], lines[causes[-1] + 1 :]) if causes else None
    if refusal is not None:
        return Reason.INVALID_ARGS, refusal
    if exit_code == -signal.SIGKILL or _OUT_OF_MEMORY.search(cause):
        message = (
            f"vLLM ran out of memory ({cause or how_it_ended(exit_code)}); raise resources.memory or "
            "resources.gpuMemory, or lower engine.maxModelLen"
        )
        return Reason.ENGINE_CRASHING, message
    last = cause or " | ".join(lines[-3:])
    return Reason.ENGINE_CRASHING, f"vLLM {how_it_ended(exit_code)}: {last}. See the runner's log"


def _refusal(cause: str, before: Sequence[str], after: Sequence[str]) -> str | None:
    """Say what vLLM refuses and would refuse at each try; None for what may go well another time."""
    if _VALIDATION.search(cause):
        text = _validation_text(after)
        advice = next((advice for words, advice in _ADVICE if words.search(text)), _COMMON_ADVICE)
        return f"vllm serve: {text.rstrip('.')}; {advice}"
    if adapter := _ADAPTER.search(cause):
        return _adapter_message(adapter["text"].rstrip("."), before)
    if _KERNEL.search(cause):
        return f"this quantization does not run on this device ({cause}); correct engine.quantization or the model"
    if _TOO_LITTLE_MEMORY.search(cause):
        return f"vLLM has too little memory: {cause}; lower engine.maxModelLen, or raise resources.memory"
    return None


def _adapter_message(text: str, lines: Sequence[str]) -> str:
    """Name the adapter by the one that was loaded before it: vLLM's error does not name it."""
    loaded = [found["name"] for line in lines if (found := _ADAPTER_LOADED.search(line))]
    which = f"the adapter after {loaded[-1]}" if loaded else "the first adapter"
    advice = "raise --max-lora-rank in engine.args" if "max_lora_rank" in text else "correct it or remove it"
    return f"{which} of model.adapters can't be served with this model: {text[:_MAX_DETAIL_CHARACTERS]}; {advice}"


def _validation_text(lines: Sequence[str]) -> str:
    """Return what pydantic's lines say, without its own `[type=…]`."""
    text: list[str] = []
    for line in lines:
        said, marker, _ = line.partition(" [type=")
        text.append(said.strip().removeprefix("Value error, "))
        if marker:
            break
    return " ".join(text)[:_MAX_DETAIL_CHARACTERS]
