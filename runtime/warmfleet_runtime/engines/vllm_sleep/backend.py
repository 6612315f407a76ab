"""The sleep backend for CPUs: weights and KV cache are freed, and the weights loaded again from the model's folder.

The process stays as it is, with its connections, compiled code and caches. Tensors keep their addresses, as only
their pages are freed; weights that vLLM keeps packed inside oneDNN are released and packed anew (`packed`).

vLLM knows two levels: 1 keeps a copy of the weights in memory, 2 drops them. A copy in the same memory would free
nothing, so here both drop them.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from vllm.device_allocator.sleep_mode_backend import SleepModeBackend

from warmfleet_runtime.engines.vllm_sleep import memory
from warmfleet_runtime.engines.vllm_sleep.fidelity import Fingerprint, ModelFiles, fingerprint
from warmfleet_runtime.engines.vllm_sleep.obstacles import obstacle
from warmfleet_runtime.engines.vllm_sleep.packed import PackedLayer, packed_layers

_logger = logging.getLogger("vllm.warmfleet_sleep")


class SleepRefusedError(RuntimeError):
    """This model can't sleep in place. The engine goes on as before."""


class WakeFailedError(RuntimeError):
    """The weights did not come back as they were. The engine must not answer any more."""


class CpuSleepBackend(SleepModeBackend):  # type: ignore[misc]  # vLLM's types are not seen here
    """Frees and restores the memory of one worker."""

    def __init__(self) -> None:
        super().__init__()
        self._state = "RUNNING"
        self._worker: Any = None
        self._files: ModelFiles | None = None
        self._packed: list[PackedLayer] = []
        self._expected: Fingerprint | None = None
        self._is_proven = False

    def attach(self, worker: Any) -> None:
        """Take the worker whose model has just been loaded."""
        self._worker = worker
        self._files = ModelFiles.of(worker.model_config.model)

    def suspend(self, level: int = 1) -> None:
        """Free the memory of weights and KV cache.

        Raises:
            SleepRefusedError: the weights could not be restored; nothing was freed.
        """
        del level
        if self._state == "SUSPENDED":
            return
        started = time.monotonic()
        runner = self._worker.model_runner
        model = runner.get_model()
        if reason := obstacle(self._worker.vllm_config, model):
            raise SleepRefusedError(f"can't sleep in place: {reason}")
        if not self._is_proven:
            self._expected = fingerprint(model)
        self._packed = packed_layers(model)
        tensors = [*model.parameters(), *_flat(runner.kv_caches)]
        self._state = "SUSPENDED"
        try:
            for layer in self._packed:
                layer.release()
            freed = memory.discard(tensors)
        except OSError as error:
            # vLLM takes a failed sleep for none at all, and would go on with half of the weights.
            self.resume()
            raise SleepRefusedError(f"can't sleep in place: {error}") from error
        memory.trim()
        _logger.info(
            "Asleep after %.3f s: %d MiB of weights and KV cache freed, %d packed layers released",
            time.monotonic() - started,
            freed >> 20,
            len(self._packed),
        )

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def resume(self, tags: list[str] | None = None) -> None:
        """Load the weights again; the KV cache needs nothing, it is empty.

        Raises:
            WakeFailedError: they are not what they were.
        """
        if self._state == "RUNNING" or (tags is not None and "weights" not in tags):
            return
        started = time.monotonic()
        self._state = "RESUMING"
        if self._files is None or not self._files.are_unchanged():
            raise WakeFailedError("the model's files changed while it slept; start the engine anew")
        self._worker.reload_weights()
        for layer in self._packed:
            layer.restore()
        model = self._worker.model_runner.get_model()
        if not self._is_proven and fingerprint(model) != self._expected:
            raise WakeFailedError("the weights loaded on wake differ from those before sleep; start the engine anew")
        self._is_proven, self._expected, self._packed = True, None, []
        memory.trim()
        self._state = "RUNNING"
        _logger.info("Awake after %.3f s", time.monotonic() - started)

    @classmethod
    def preserves_communicators(cls) -> bool:
        """Processes and their connections stay."""
        return True

    @classmethod
    def preserves_compiled_artifacts(cls) -> bool:
        """Compiled code stays; the tensors it names keep their addresses."""
        return True


def _flat(tensors: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield tensors; layers that keep a state instead of keys and values have several each."""
    for each in tensors:
        if isinstance(each, torch.Tensor):
            yield each
        else:
            yield from _flat(each)
