"""Which models can't be woken in place: those whose weights, as they lie in memory, can't be made anew from the files.

Such an engine sleeps by being stopped, and wakes by being started.
"""

from typing import Any

_LOAD_FORMATS = ("auto", "hf", "safetensors")
_RELOADED = {"UnquantizedEmbeddingMethod", "UnquantizedLinearMethod"}
"""How vLLM prepares layers that are known to come back from the files as they were."""


def obstacle(vllm_config: Any, model: Any) -> str | None:
    """Return why a model can't sleep in place, None if it can."""
    quantization = vllm_config.model_config.quantization
    load_format = vllm_config.load_config.load_format
    rearranged = {
        type(module.quant_method).__name__
        for module in model.modules()
        if getattr(module, "quant_method", None) is not None
    } - _RELOADED
    obstacles = (
        (quantization is not None, f"its weights are quantized ({quantization})"),
        (vllm_config.lora_config is not None, "it serves LoRA adapters"),
        (vllm_config.speculative_config is not None, "it has a draft model"),
        (vllm_config.kv_transfer_config is not None, "its KV cache is shared with other engines"),
        (load_format not in _LOAD_FORMATS, f"its weights are loaded as {load_format}"),
        (bool(rearranged), f"its layers are rearranged after loading ({', '.join(sorted(rearranged))})"),
    )
    return next((reason for applies, reason in obstacles if applies), None)
