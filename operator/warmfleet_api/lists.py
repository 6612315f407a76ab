"""Lists without duplicates, said once for Python and for the API server.

    Annotated[list[EnvVarSpec], Field(max_length=32), UniqueBy("name")]

A list without a marker is atomic: whoever applies it owns it whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class UniqueItems:
    """A set of scalars: `x-kubernetes-list-type: set`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _unique(handler(source), lambda item: item)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"x-kubernetes-list-type": "set"}


@dataclass(frozen=True, slots=True)
class UniqueBy:
    """Blocks that one required field tells apart: `x-kubernetes-list-type: map`."""

    key: str
    """Name of the field on the wire."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        attribute = to_snake(self.key)
        return _unique(handler(source), lambda item: getattr(item, attribute))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}


def _unique(schema: CoreSchema, key: Callable[[Any], Any]) -> CoreSchema:
    def check(items: list[Any]) -> list[Any]:
        seen = set()
        for item in items:
            if key(item) in seen:
                raise ValueError(f"Duplicate value: {key(item)!r}")
            seen.add(key(item))
        return items

    return core_schema.no_info_after_validator_function(check, schema)
