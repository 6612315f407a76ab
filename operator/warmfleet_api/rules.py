"""Validation rules said once: as CEL for the API server and as Python for everybody else.

A rule is a method of a `Block`; its CEL text stands in the decorator above it, so a reader sees both
at once. The generator writes the CEL into the CRD; one table of good and bad objects proves that the
two agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `cel` is evaluated on the block (`self`); `message` tells a person what to change."""

    cel: str
    message: str
    check: Callable[[Any], bool]
    field_path: str | None = None


def rule(cel: str, message: str, *, field_path: str | None = None) -> Callable[[Callable[[Any], bool]], Rule]:
    """Declare a rule of a block; the decorated method returns whether the block keeps it."""

    def declare(check: Callable[[Any], bool]) -> Rule:
        return Rule(cel, message, check, field_path)

    return declare


class Block(BaseModel):
    """Base of every object in a spec or status: camelCase, frozen, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        ignored_types=(Rule,),
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.rules = tuple(
            value for base in reversed(cls.__mro__) for value in vars(base).values() if isinstance(value, Rule)
        )

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        for broken in (each for each in self.rules if not each.check(self)):
            raise ValueError(broken.message)
        return self
