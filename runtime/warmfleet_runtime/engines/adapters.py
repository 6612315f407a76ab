"""The adapter of each engine type."""

from warmfleet_api.vocabulary import EngineType
from warmfleet_runtime.engines.port import EngineAdapter
from warmfleet_runtime.engines.simulated import SimulatedAdapter
from warmfleet_runtime.engines.vllm import VllmAdapter

ADAPTERS: dict[EngineType, EngineAdapter] = {
    EngineType.SIMULATED: SimulatedAdapter(),
    EngineType.VLLM: VllmAdapter(),
}
