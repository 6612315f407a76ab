"""vLLM's CPU worker, which sleeps. `--worker-cls` names it; vLLM's own only logs that it can't."""

from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker

from warmfleet_runtime.engines.vllm_sleep import BACKEND
from warmfleet_runtime.engines.vllm_sleep.backend import CpuSleepBackend


class SleepingWorker(CPUWorker):  # type: ignore[misc]  # vLLM's types are not seen here
    """Passes sleep and wake to the backend of vLLM's registry, as the GPU worker does."""

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        vllm_config.model_config.sleep_mode_backend = BACKEND
        super().__init__(vllm_config, *args, **kwargs)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, and let the backend know where it is."""
        super().load_model(*args, **kwargs)
        backend: CpuSleepBackend = self.sleep_mode_backend
        backend.attach(self)

    def sleep(self, level: int = 1) -> None:
        """Free weights and KV cache."""
        self.sleep_mode_backend.suspend(level)

    def wake_up(self, tags: list[str] | None = None) -> None:
        """Load the weights again."""
        self.sleep_mode_backend.resume(tags)
