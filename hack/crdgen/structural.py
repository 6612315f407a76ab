"""Pydantic models to the structural schemas of a CustomResourceDefinition.

Pydantic's JSON schema says more than a structural schema may: references, unions, `const`, numeric exclusive
bounds, tuples. What has an equivalent is rewritten, the rest is refused with the path of the field. Every string,
list and map must have a bound, because the API server multiplies them into the cost of each CEL rule, and every
field a description, because `kubectl explain` shows nothing else.

The rules of structural schemas:
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from warmfleet_api.rules import Block

Schema = dict[str, Any]

_NULL = {"type": "null"}
_INT_OR_STRING = "x-kubernetes-int-or-string"
_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
    "array": {"items", "minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"},
    "string": {"minLength", "maxLength", "pattern", "format", "enum"},
    "integer": {"minimum", "maximum", "format", "enum"},
    "boolean": set[str](),
}
_COMMON = {"type", "title", "description", "default", "x-kubernetes-validations"}
_NOT_RE2 = re.compile(r"\(\?[=!<>]|\\[1-9]")
_REMEDIES = {
    "exclusiveMinimum": "say ge= with the next whole number",
    "exclusiveMaximum": "say le= with the next whole number",
    "prefixItems": "a tuple has no place in a CRD; say a block with named fields",
    "oneOf": "a union has no place in a CRD; say one block with optional fields and a rule",
    "allOf": "say one block",
    "patternProperties": "bound the keys with a rule on the block",
    "propertyNames": "bound the keys with a rule on the block",
    "multipleOf": "say a rule",
}


class Refused(Exception):  # noqa: N818 - a sentence: "spec.x refused: why"
    """A model holds something that a CRD can't say. The message names the field and the way out."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path or 'the object'}: {why}")


def structural(model: type[Block], given: Mapping[str, Schema] = MappingProxyType({})) -> Schema:
    """Return the structural schema of a block and everything below it.

    Fields of the block itself that stand in `given` get that schema instead of their own.

    Raises:
        Refused: a field can't be expressed, has no bound or no description.
    """
    schema = model.model_json_schema(schema_generator=_WithRules)
    inliner = _Inliner(schema.pop("$defs", {}))
    own = {name: field for name, field in schema["properties"].items() if name not in given}
    result = inliner.convert(schema | {"properties": own}, "", ())
    return result | {"properties": {**given, **result["properties"]}}


class _WithRules(GenerateJsonSchema):
    """Pydantic's generator, with each block's rules beside its properties."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        json_schema = super().model_schema(schema)
        model = cast("type[BaseModel]", schema["cls"])
        if issubclass(model, Block) and model.rules:
            json_schema["x-kubernetes-validations"] = [
                {"rule": rule.cel, "message": rule.message}
                | ({} if rule.field_path is None else {"fieldPath": rule.field_path})
                for rule in model.rules
            ]
        return json_schema


class _Inliner:
    """Converts one schema; holds its definitions."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def convert(self, schema: Schema, path: str, parents: tuple[str, ...]) -> Schema:
        """Return the structural form of `schema` at `path`; `parents` are the definitions around it."""
        if "$ref" in schema:
            schema, parents = self._resolve(schema, path, parents)
        if "anyOf" in schema:
            if _INT_OR_STRING in schema:
                return _described(_int_or_string(schema, path), schema)
            return self.convert(_without_null(schema, path), path, parents)
        if "const" in schema:
            schema = {key: value for key, value in schema.items() if key != "const"} | {"enum": [schema["const"]]}
        kind = schema.get("type")
        if kind not in _KEYWORDS:
            raise Refused(path, f"type {kind!r} has no place in a CRD; say an object, list, string, integer or boolean")
        for keyword in sorted(schema.keys() - _KEYWORDS[kind] - _COMMON):
            raise Refused(path, f"`{keyword}` can't be said in a CRD; {_REMEDIES.get(keyword, 'say a rule')}")
        if kind == "object":
            result = self._object(schema, path, parents)
        elif kind == "array":
            result = self._array(schema, path, parents)
        else:
            result = _scalar(schema, kind, path)
        return _described(result, schema)

    def _resolve(self, schema: Schema, path: str, parents: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        name = schema["$ref"].removeprefix("#/$defs/")
        if name in parents:
            raise Refused(path, f"{name} holds itself; a CRD has no recursion")
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return self._definitions[name] | beside, (*parents, name)

    def _object(self, schema: Schema, path: str, parents: tuple[str, ...]) -> Schema:
        properties = schema.get("properties")
        values = schema.get("additionalProperties")
        if properties is None:
            if not isinstance(values, dict):
                raise Refused(path, "a map needs a type for its values")
            _needs_bound(schema, "maxProperties", path)
            bounds = _only(schema, "minProperties", "maxProperties")
            return {"type": "object", "additionalProperties": self.convert(values, f"{path}.*", parents)} | bounds
        if values is not False:
            raise Refused(path, "a block must forbid unknown fields (extra='forbid')")
        fields: Schema = {}
        for name, field in properties.items():
            where = f"{path}.{name}".removeprefix(".")
            fields[name] = self.convert(field, where, parents)
            if "description" not in fields[name]:
                raise Refused(where, "no description; write a docstring below the field")
            _add_default(fields[name], field, where)
        result: Schema = {"type": "object", "properties": fields}
        return result | _only(schema, "required", "x-kubernetes-validations")

    def _array(self, schema: Schema, path: str, parents: tuple[str, ...]) -> Schema:
        _needs_bound(schema, "maxItems", path)
        if not schema.get("items"):
            raise Refused(path, "a list needs a type for its items")
        kind = schema.get("x-kubernetes-list-type", "atomic")
        items = self.convert(schema["items"], f"{path}[]", parents)
        for key in schema.get("x-kubernetes-list-map-keys", ()):
            if key not in items.get("required", ()):
                raise Refused(path, f"the key {key!r} of a list-map must be a required field of its items")
        result: Schema = {"type": "array", "items": items}
        result |= _only(schema, "minItems", "maxItems", "x-kubernetes-list-map-keys")
        return result | {"x-kubernetes-list-type": kind}


def _scalar(schema: Schema, kind: str, path: str) -> Schema:
    result: Schema = {"type": kind} | _only(schema, *_KEYWORDS[kind])
    if kind == "string":
        if "enum" not in schema and schema.get("format") != "date-time":
            _needs_bound(schema, "maxLength", path)
        _needs_re2(schema, path)
    if kind == "integer" and "format" not in schema:
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        result["format"] = "int32" if low >= _INT32_MIN and high <= _INT32_MAX else "int64"
    return result


def _int_or_string(schema: Schema, path: str) -> Schema:
    """Both halves of `int | str` into the one form that a structural schema knows, bounds beside it."""
    halves = {half.get("type"): half for half in schema["anyOf"]}
    if halves.keys() != {"integer", "string"}:
        raise Refused(path, "x-kubernetes-int-or-string stands on something else than int | str")
    _needs_bound(halves["string"], "maxLength", path)
    _needs_re2(halves["string"], path)
    number = _only(halves["integer"], "minimum", "maximum")
    text = _only(halves["string"], "minLength", "maxLength", "pattern")
    return {_INT_OR_STRING: True, "anyOf": [{"type": "integer"}, {"type": "string"}]} | number | text


def _without_null(schema: Schema, path: str) -> Schema:
    """`X | None` is an optional X: the API server prunes a null of a field that is not nullable."""
    choices = [choice for choice in schema["anyOf"] if choice != _NULL]
    if len(choices) != 1 or len(choices) == len(schema["anyOf"]):
        raise Refused(path, "a union has no place in a CRD; say one block with optional fields and a rule")
    choice: Schema = choices[0]
    return choice | {key: value for key, value in schema.items() if key != "anyOf"}


def _described(result: Schema, schema: Schema) -> Schema:
    if "description" in schema:
        return {"description": " ".join(schema["description"].split())} | result
    return result


def _add_default(result: Schema, field: Schema, path: str) -> None:
    """Write a default, in the least form that gives the same object.

    An absent block gets the defaults inside it, written out: the API server evaluates rules on a default as it stands.
    Empty strings, lists and maps stay absent, so that objects stay as short as they were written.
    """
    default = field.get("default")
    if default is None:
        return
    if "properties" in result:
        _needs_own_defaults(result, default, path)
        default = {name: inner["default"] for name, inner in result["properties"].items() if "default" in inner}
    if default not in ("", [], {}):
        result["default"] = default


def _needs_own_defaults(block: Schema, default: Schema, path: str) -> None:
    for name, value in default.items():
        field = block["properties"][name]
        if "properties" in field and isinstance(value, dict):
            _needs_own_defaults(field, value, f"{path}.{name}")
        elif value not in (None, "", [], {}, field.get("default")):
            raise Refused(path, f"its default sets {name}: the default of a block is the block with its own defaults")


def _needs_bound(schema: Schema, keyword: str, path: str) -> None:
    if keyword not in schema:
        raise Refused(path, f"no {keyword}; the cost of CEL rules needs every string, list and map bounded")


def _needs_re2(schema: Schema, path: str) -> None:
    if _NOT_RE2.search(schema.get("pattern", "")):
        raise Refused(path, "the pattern has look-around or back-references, which the API server's RE2 has not")


def _only(schema: Schema, *keywords: str) -> Schema:
    return {key: value for key, value in schema.items() if key in keywords}
