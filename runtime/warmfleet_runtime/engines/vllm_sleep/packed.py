"""Weights that vLLM's CPU linear layers keep packed inside oneDNN, out of PyTorch's sight.

After loading, such a layer has a function `cpu_linear` that closes over the handle of the packed copy. Compiled code
holds the very tensor in which the handle lies. So on wake the layer gets its former function back, and the new
copy's handle is written into the former tensor.
"""

from dataclasses import dataclass
from typing import Any

import torch

_FUNCTION = "cpu_linear"


@dataclass(slots=True)
class PackedLayer:
    """One layer, and the handle of its packed weights."""

    layer: Any
    function: Any
    handle: Any

    def release(self) -> None:
        """Free the packed copy, if there is one; the layer must not be used until `restore`."""
        if address := self.handle.handler_tensor.item():
            self.handle.dtor(address)
            self.handle.handler_tensor.fill_(0)

    def restore(self) -> None:
        """Take over the copy that loading has packed, or pack the layer's own weight where loading did not."""
        if getattr(self.layer, _FUNCTION) is self.function:
            # Its weight is another layer's too (tied embeddings), so loading did not come by here.
            self.layer.quant_method.process_weights_after_loading(self.layer)
        fresh = handle_of(self.layer)
        if fresh is None or fresh is self.handle:
            raise RuntimeError(f"{type(self.layer).__name__} was not packed again")
        # A wake that failed may have left a copy here.
        self.release()
        self.handle.handler_tensor.copy_(fresh.handler_tensor)
        # It is the former handle that frees the copy.
        fresh.handler_tensor = None
        setattr(self.layer, _FUNCTION, self.function)


def handle_of(layer: Any) -> Any | None:
    """Return the handle of a layer's packed weights, None if it has none."""
    cells = getattr(getattr(layer, _FUNCTION, None), "__closure__", None) or ()
    return next((cell.cell_contents for cell in cells if hasattr(cell.cell_contents, "handler_tensor")), None)


def packed_layers(model: torch.nn.Module) -> list[PackedLayer]:
    """Return the layers of a model whose weights are packed."""
    return [
        PackedLayer(layer, getattr(layer, _FUNCTION), handle)
        for layer in model.modules()
        if (handle := handle_of(layer)) is not None
    ]
