"""`/v1/models`: what can be asked for, and how far from answering each model is; `/openapi.json`: by which requests."""

from typing import Any

from warmfleet_api import openapi
from warmfleet_api.vocabulary import Reason
from warmfleet_router import refusals
from warmfleet_router.catalog import Catalog, MayAsk, Model, ServedName
from warmfleet_router.endpoints import Endpoints

MODEL = openapi.MODELS + "/"


def models(catalog: Catalog, endpoints: Endpoints, may_ask: MayAsk) -> dict[str, Any]:
    """Return the body of `/v1/models`."""
    return {"object": "list", "data": [_entry(*each, endpoints) for each in catalog.names(may_ask)]}


def model(catalog: Catalog, endpoints: Endpoints, path: str, may_ask: MayAsk) -> dict[str, Any]:
    """Return the body of `/v1/models/<name>`, of which `path` is percent-decoded.

    Raises:
        RefusedError: there is no such model.
    """
    name = path.removeprefix(MODEL)
    found = catalog.find(name, may_ask)
    if found is None:
        raise refusals.unknown_model(name, [each for each, _, _ in catalog.names(may_ask)])
    return _entry(name, *found, endpoints)


def document(catalog: Catalog, may_ask: MayAsk) -> bytes:
    """Return the API's description, with both names of each model that may be asked for."""
    names = {name for name, _, _ in catalog.names(may_ask)}
    names |= {f"{model.key.namespace}/{served.name}" for _, model, served in catalog.names(may_ask)}
    return openapi.router_document(tuple(sorted(names)))


def _entry(name: str, model: Model, served: ServedName, endpoints: Endpoints) -> dict[str, Any]:
    ready = sum(each.is_ready for each in endpoints.of(model.key))
    pending = model.pending
    own: dict[str, Any] = {
        "namespace": model.key.namespace,
        "name": model.key.name,
        # Labels are newer than status: what is Ready there is served.
        "state": Reason.SERVING if ready else model.state,
        "readyEngines": ready,
        "priority": model.priority,
    }
    if pending is not None and not ready:
        own |= {"position": pending.position, "of": pending.of, "blocker": pending.blocker}
        if pending.ready_time is not None:
            own["readyTime"] = pending.ready_time
    created = model.created_at
    entry = {"id": name, "object": "model", "created": created, "owned_by": "warmfleet", "root": served.name}
    return entry | {"parent": served.parent, "warmfleet": own}
