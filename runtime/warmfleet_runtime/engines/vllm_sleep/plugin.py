"""The entry point of `vllm.general_plugins`; vLLM calls it in each of its processes, perhaps several times."""

import contextlib

from vllm.device_allocator.sleep_mode_backend import SleepModeBackendFactory

from warmfleet_runtime.engines.vllm_sleep import BACKEND


def register() -> None:
    """Add the backend to vLLM's registry. Its module is imported by the process that sleeps, not by the others."""
    # It may be there already: a forked process inherits the registry.
    with contextlib.suppress(ValueError):
        SleepModeBackendFactory.register_backend(
            BACKEND, "warmfleet_runtime.engines.vllm_sleep.backend", "CpuSleepBackend"
        )
