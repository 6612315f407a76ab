"""The Service of a model: a stable address for whichever of its engines are Ready."""

from typing import Any

from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.build.pod import owner_reference
from warmfleet_operator.decide.fleet import Model, ModelKey


def model_service(model: Model) -> dict[str, Any]:
    """Return the Service to apply."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": model.key.name,
            "namespace": model.key.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: model.key.name},
            "ownerReferences": [owner_reference(model)],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": {names.serve_label(model.key.name): EngineState.READY.value},
            "ports": [
                {"name": "http", "port": names.SERVICE_PORT, "targetPort": names.API_PORT, "protocol": "TCP"},
            ],
        },
    }


def endpoint_of(key: ModelKey) -> str:
    """Return the base URL an OpenAI client in the cluster is given."""
    return f"http://{key.name}.{key.namespace}.svc/v1"
