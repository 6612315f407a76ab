"""Who sends a request, as far as this router knows."""

from dataclasses import dataclass

from warmfleet_api import names
from warmfleet_api.vocabulary import Priority


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends a request. Runners believe it, because the router's token comes with it."""

    tenant: str
    priority: Priority | None = None
    """None: the class of the model that is asked for."""


ANYONE = Caller(names.DIRECT_TENANT)
"""Callers who show no key: what raw headers say of class and tenant is never believed."""
