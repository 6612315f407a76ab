"""What the generator rewrites, and what it refuses, with the field's path."""

from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import ConfigDict, Field, StringConstraints, create_model

from crdgen.structural import Refused, structural
from support import autoscaling_objects, standby_objects
from support.objects import EVERYTHING
from warmfleet_api.fields import Quantity
from warmfleet_api.lists import UniqueBy, UniqueItems
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.rules import Block, rule

Short = Annotated[str, StringConstraints(max_length=10)]


class Inner(Block):
    """An inner block."""

    name: Short
    """Its name."""
    count: Annotated[int, Field(ge=0, le=9)] = 3
    """Its count."""


class Plain(Block):
    """A block without defaults to fill in."""

    note: Short = ""
    """A note."""


class Node(Block):
    """A block that holds itself."""

    child: Optional["Node"] = None
    """The next one."""


def field(kind: Any, default: Any = ...) -> dict[str, Any]:
    """Return the schema of a block's one field `x`."""
    block = create_model("Outer", __base__=Block, x=(kind, Field(default, description="A field.")))
    schema: dict[str, Any] = structural(block)["properties"]["x"]
    del schema["description"]
    return schema


def test_references_are_inlined_and_described_by_the_field() -> None:
    class Outer(Block):
        """An outer block."""

        inner: Inner
        """The one
        inside."""

    assert structural(Outer) == {
        "description": "An outer block.",
        "type": "object",
        "properties": {
            "inner": {
                "description": "The one inside.",
                "type": "object",
                "properties": {
                    "name": {"description": "Its name.", "type": "string", "maxLength": 10},
                    "count": {
                        "description": "Its count.",
                        "type": "integer",
                        "minimum": 0,
                        "maximum": 9,
                        "format": "int32",
                        "default": 3,
                    },
                },
                "required": ["name"],
            }
        },
        "required": ["inner"],
    }


def test_an_optional_field_is_one_that_may_be_absent() -> None:
    assert field(Short | None, None) == {"type": "string", "maxLength": 10}


def test_a_single_literal_becomes_an_enum() -> None:
    assert field(Literal["only"]) == {"type": "string", "enum": ["only"]}


def test_an_integer_without_small_bounds_is_64_bits_wide() -> None:
    assert field(Annotated[int, Field(ge=0)]) == {"type": "integer", "minimum": 0, "format": "int64"}


def test_a_quantity_is_int_or_string_with_bounds_beside() -> None:
    schema = field(Quantity)
    assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    assert schema["x-kubernetes-int-or-string"] is True
    assert (schema["minimum"], schema["maxLength"]) == (0, 32)


def test_lists_are_atomic_sets_or_maps() -> None:
    bound = Field(max_length=3)
    assert field(Annotated[list[Short], bound])["x-kubernetes-list-type"] == "atomic"
    assert field(Annotated[list[Short], bound, UniqueItems()])["x-kubernetes-list-type"] == "set"
    by_name = field(Annotated[list[Inner], bound, UniqueBy("name")])
    assert (by_name["x-kubernetes-list-type"], by_name["x-kubernetes-list-map-keys"]) == ("map", ["name"])


def test_the_default_of_a_block_is_what_is_filled_in_inside() -> None:
    counted = create_model("Counted", __base__=Block, n=(Annotated[int, Field(ge=0)], Field(1, description="Number.")))
    assert field(counted, counted())["default"] == {"n": 1}
    assert "default" not in field(Plain, Plain())


def test_empty_defaults_stay_absent() -> None:
    assert "default" not in field(Short, "")
    assert "default" not in field(Annotated[list[Short], Field(max_length=3)], [])


def test_rules_stand_on_their_block() -> None:
    class Ruled(Block):
        """A block with a rule."""

        size: Annotated[int, Field(ge=0, le=9)]
        """A size."""

        @rule("self.size != 5", "not five", field_path=".size")
        def not_five(self) -> bool:
            return self.size != 5

    assert structural(Ruled)["x-kubernetes-validations"] == [
        {"rule": "self.size != 5", "message": "not five", "fieldPath": ".size"}
    ]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (str, "no maxLength"),
        (Annotated[list[Short], Field(min_length=1)], "no maxItems"),
        (dict[str, Short], "no maxProperties"),
        (Annotated[dict[str, str], Field(max_length=2)], r"x\.\*: no maxLength"),
        (Annotated[list[str], Field(max_length=2)], r"x\[\]: no maxLength"),
        (Annotated[list[Any], Field(max_length=2)], "a list needs a type"),
        (Annotated[int, Field(gt=0)], "exclusiveMinimum.*say ge="),
        (Annotated[int, Field(lt=9)], "exclusiveMaximum.*say le="),
        (Annotated[int, Field(multiple_of=2)], "multipleOf"),
        (float, "type 'number'"),
        (tuple[int, int], "tuple"),
        (int | Short, "a union has no place"),
        (Inner | Plain, "a union has no place"),
        (Inner | Plain | None, "a union has no place"),
        (dict[str, Any], "a map needs a type"),
        (Annotated[dict[Short, Short], Field(max_length=2)], "propertyNames.*rule"),
        (Any, "type None"),
        (Node, "holds itself"),
    ],
    ids=str,
)
def test_refuses_what_a_crd_cannot_say(kind: Any, why: str) -> None:
    with pytest.raises(Refused, match=f"(?s)^x.*{why}|^{why}"):
        field(kind)


def test_refuses_a_pattern_that_the_api_server_cannot_read() -> None:
    class Outer(Block):
        """An outer block."""

        word: Annotated[str, Field(max_length=9, json_schema_extra={"pattern": "^(?!no)"})]
        """A word."""

    with pytest.raises(Refused, match="word: the pattern has look-around"):
        structural(Outer)


def test_refuses_a_field_without_description() -> None:
    block = create_model("Outer", __base__=Block, x=(Short, ...))
    with pytest.raises(Refused, match="x: no description"):
        structural(block)


def test_refuses_a_block_that_lets_unknown_fields_pass() -> None:
    class Open(Block):
        """An open block."""

        model_config = ConfigDict(extra="allow")

    with pytest.raises(Refused, match="x: a block must forbid unknown fields"):
        field(Open)


def test_refuses_a_default_that_is_not_the_blocks_own() -> None:
    with pytest.raises(Refused, match="x: its default sets name"):
        field(Inner, Inner(name="other"))


def test_refuses_a_list_map_whose_key_may_be_absent() -> None:
    with pytest.raises(Refused, match="the key 'count' of a list-map must be a required field"):
        field(Annotated[list[Inner], Field(max_length=2), UniqueBy("count")])


def test_the_table_sets_every_field_that_a_person_can_set() -> None:
    """A field that is missing from EVERYTHING would be proven by no test."""
    schema = structural(ModelDeploymentSpec)
    everything = EVERYTHING["spec"] | {
        "autoscaling": autoscaling_objects.EVERYTHING,
        "standby": standby_objects.EVERYTHING,
    }
    of_other_policies = {"autoscaling.utilizationPercent", "autoscaling.marks"}
    clash_with_others = {"engine.simulated", "pools"} | of_other_policies
    assert set(_unset(schema, everything, "")) == clash_with_others


def _unset(schema: dict[str, Any], value: Any, path: str) -> list[str]:
    missing: list[str] = []
    for name, inner in schema.get("properties", {}).items():
        where = f"{path}.{name}".removeprefix(".")
        values = [each[name] for each in value if name in each] if isinstance(value, list) else value.get(name)
        if values in (None, []):
            missing.append(where)
        else:
            flat = (
                [item for each in values for item in each] if isinstance(value, list) and "items" in inner else values
            )
            missing += _unset(inner.get("items", inner), flat, where)
    return missing
