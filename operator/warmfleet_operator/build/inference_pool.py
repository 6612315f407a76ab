"""The InferencePool of a model: its engines as a Gateway sees them, where Gateway API Inference Extension is there."""

from typing import Any

from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.build.pod import owner_reference
from warmfleet_operator.decide.fleet import Model


def inference_pool(model: Model) -> dict[str, Any] | None:
    """Return the InferencePool to apply; None where none is wanted.

    It selects what the model's Service selects. Which of these engines gets a request is the matter of the endpoint
    picker that the spec names; nothing of Warmfleet is one.
    """
    block = model.spec.serving.inference_pool
    if block is None:
        return None
    picker = block.endpoint_picker_ref
    return {
        "apiVersion": f"{names.INFERENCE_GROUP}/v1",
        "kind": names.INFERENCE_POOL_KIND,
        "metadata": {
            "name": model.key.name,
            "namespace": model.key.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: model.key.name},
            "ownerReferences": [owner_reference(model)],
        },
        "spec": {
            "selector": {"matchLabels": {names.serve_label(model.key.name): EngineState.READY.value}},
            "targetPorts": [{"number": names.API_PORT}],
            "endpointPickerRef": {
                "kind": "Service",
                "name": picker.name,
                "port": {"number": picker.port},
                "failureMode": picker.failure_mode.value,
            },
        },
    }
