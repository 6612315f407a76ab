"""The adapter of each engine type."""

import functools
import importlib.util

from warmfleet_api.vocabulary import EngineType
from warmfleet_runtime.engines.port import EngineAdapter
from warmfleet_runtime.engines.simulated import SimulatedAdapter
from warmfleet_runtime.engines.vllm import VllmAdapter

ADAPTERS: dict[EngineType, EngineAdapter] = {
    EngineType.SIMULATED: SimulatedAdapter(),
    EngineType.VLLM: VllmAdapter(),
}


@functools.cache
def is_vllm_installed() -> bool:
    """Whether this runner could run vLLM at all; looks, and imports nothing."""
    return importlib.util.find_spec("vllm") is not None
