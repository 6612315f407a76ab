"""The custom resource Tenant: who may ask the models of a namespace through the router, how urgently and how much.

A namespace with a Tenant is closed: its models answer only to keys of its Tenants. One without is open to whoever
reaches the router. The routers read it, and say in its status whether they have its keys.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from warmfleet_api.fields import ObjectName
from warmfleet_api.lists import UniqueBy, UniqueItems
from warmfleet_api.pod_template import LocalObjectReference
from warmfleet_api.rules import Block
from warmfleet_api.status import Condition, Count
from warmfleet_api.vocabulary import Priority

MIN_KEY_CHARACTERS = 16
"""What is shorter can be guessed, and is no key."""


class TenantLimits(Block):
    """What a tenant may use; each replica of the router lets its share of it through. Default: no limit."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Requests in a minute. The allowance grows steadily; up to a minute's worth may be used at once."""
    tokens_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Tokens of prompts and answers in a minute, charged when an answer has ended: the one that exceeds the allowance
    is still answered, the next waits until the allowance is above zero again."""
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests at once, held ones too."""


class TenantSpec(Block):
    """Who it is, and what it may do."""

    secret_ref: LocalObjectReference
    """Secret of the same namespace; the value of each of its entries is an API key of the tenant, at least 16
    characters. Clients send one as `Authorization: Bearer KEY`. Routers read the Secret only if an administrator lets
    them."""
    priority: Priority | None = None
    """Class of its requests in the queues of engines. Default: the class of the model that is asked for."""
    limits: TenantLimits = TenantLimits()
    """What it may use."""
    models: Annotated[list[ObjectName], Field(max_length=256), UniqueItems()] = []
    """ModelDeployments of the namespace that it may ask for; to it there are no others. Default: all."""


class TenantStatus(Block):
    """What the routers know."""

    observed_generation: Annotated[int, Field(ge=-1, json_schema_extra={"format": "int64"})] = -1
    """Generation of the spec this status speaks of."""
    conditions: Annotated[list[Condition], Field(max_length=8), UniqueBy("type")] = []
    """Ready."""
    keys: Count = 0
    """API keys that are accepted."""


class ObjectMeta(Block):
    """Metadata of the object, as far as a rule of ours speaks of it."""

    model_config = ConfigDict(extra="ignore")

    name: str
    """Name of the tenant: `namespace/name` stands in logs and metrics."""


class Tenant(Block):
    """Who may ask the models of a namespace through the router. With the first one it is closed to all others."""

    api_version: Literal["warmfleet.dev/v1alpha1"]
    """Version of this schema."""
    kind: Literal["Tenant"]
    """Kind of the object."""
    metadata: ObjectMeta
    """Standard object metadata."""
    spec: TenantSpec
    """Who it is, and what it may do."""
    status: TenantStatus = TenantStatus()
    """What the routers know."""
