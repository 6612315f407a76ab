"""The entry point of `vllm.general_plugins`; vLLM calls it in each of its processes, perhaps several times."""

import contextlib
import logging
import time
from functools import partial

from vllm.device_allocator.sleep_mode_backend import SleepModeBackendFactory
from vllm.platforms import current_platform

from warmfleet_runtime.engines.vllm_sleep import BACKEND

POLL_SECONDS = 200e-6
"""A twentieth of a step of the smallest model. With 20 us the processes of an engine changed places 13 times a
millisecond, and whoever shared their cores, the front first of all, was left out for tenths of a second."""
BUSY_SECONDS = 20e-3
"""So long after a message a process looks for the next one by itself; then it sleeps until told of one. A few steps
of a small model: within an answer nobody has to be told."""

_logger = logging.getLogger("vllm.warmfleet_plugin")


def register() -> None:
    """Add the sleep backend to vLLM's registry, and let processes of an engine on the CPU wait without spinning."""
    # The backend's module is imported by the process that sleeps, not by the others. It may be registered already: a
    # forked process inherits the registry.
    with contextlib.suppress(ValueError):
        SleepModeBackendFactory.register_backend(
            BACKEND, "warmfleet_runtime.engines.vllm_sleep.backend", "CpuSleepBackend"
        )
    if current_platform.is_cpu():
        _wait_without_spinning()


def _wait_without_spinning() -> None:
    """Let a process that waits for another one's message leave the core to who has work.

    EngineCore and workers call `sched_yield` in a loop until a second after the last message. On cores they share with
    each other, the API server and the front that is harmful: a process that yields all the time was left out for
    seconds by the kernel's scheduler (6.18), and the whole engine with it. And an engine that is asked twice a second
    would never come to rest.
    """
    from vllm.distributed.device_communicators import shm_broadcast  # noqa: PLC0415 - a worker's module, heavy

    condition = getattr(shm_broadcast, "SpinCondition", None)
    if not hasattr(shm_broadcast, "sched_yield") or condition is None:
        _logger.warning("vLLM waits in a way not known here: engines on the CPU may keep cores busy while they wait")
        return
    shm_broadcast.sched_yield = _sleep
    if not isinstance(condition, partial):  # registered already
        shm_broadcast.SpinCondition = partial(condition, busy_loop_s=BUSY_SECONDS)


def _sleep() -> None:
    time.sleep(POLL_SECONDS)
