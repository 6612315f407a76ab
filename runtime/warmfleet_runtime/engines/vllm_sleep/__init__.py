"""vLLM's sleep mode on CPU: a sleep backend that frees weights and KV cache, and loads the weights again on wake.

vLLM sleeps on GPUs by itself and has a registry for other ways, but its CPU worker never asks that registry. So two
public doors are used: the entry point `vllm.general_plugins` (`vllm_plugin`) registers the backend, and the option
`--worker-cls` puts a worker in place that asks for it (`worker`). `/sleep` and `/wake_up` are vLLM's own.

This module itself imports no vLLM: it says what an engine has to be started with.
"""

from collections.abc import Mapping, Sequence

BACKEND = "warmfleet-cpu"
"""Name of the backend in vLLM's registry."""
WORKER = "warmfleet_runtime.engines.vllm_sleep.worker.SleepingWorker"

ENVIRONMENT: Mapping[str, str] = {"VLLM_SERVER_DEV_MODE": "1"}
"""Serves `/sleep` and `/wake_up`; on the engine's own socket alone, the front forwards none of them."""


def options(gpus: Sequence[int]) -> tuple[str, ...]:
    """Return the options of `vllm serve` that let an engine on these GPUs sleep; none: on the CPU."""
    return ("--enable-sleep-mode",) if gpus else ("--worker-cls", WORKER)
