"""The table of good and bad objects, asked of pydantic. tests/cluster/test_api_rules.py asks the API server."""

import re
from typing import get_args

import pytest
from pydantic import ValidationError

from support import autoscaling_objects, objects, standby_objects
from support.objects import Bad, Good
from warmfleet_api.model_deployment import ModelDeployment, ModelDeploymentSpec
from warmfleet_api.rules import Block, Rule


def rules_of(block: type[Block]) -> list[Rule]:
    """Return the rules of a block and of all blocks inside it."""
    found: list[Rule] = []
    blocks = [block]
    for each in blocks:  # grows while it is read
        found += each.rules
        blocks += [inner for field in each.model_fields.values() for inner in blocks_in(field.annotation)]
    return list(dict.fromkeys(found))


def blocks_in(kind: object) -> list[type[Block]]:
    """Return the blocks that an annotation names."""
    if isinstance(kind, type) and issubclass(kind, Block):
        return [kind]
    return [block for inner in get_args(kind) for block in blocks_in(inner)]


RULES = rules_of(ModelDeployment)
GOOD = (*objects.GOOD, *autoscaling_objects.GOOD, *standby_objects.GOOD)
BAD = (*objects.BAD, *autoscaling_objects.BAD, *standby_objects.BAD)


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.shows)
def test_accepts(good: Good) -> None:
    parsed = ModelDeployment.model_validate(good.object)
    assert parsed.metadata.name == good.object["metadata"]["name"]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.shows)
def test_refuses(bad: Bad) -> None:
    with pytest.raises(ValidationError) as refusal:
        ModelDeployment.model_validate(bad.object)
    if any(bad.message in rule.message for rule in RULES):
        assert bad.message in str(refusal.value)
    else:
        places = [".".join(str(part) for part in error["loc"]) for error in refusal.value.errors()]
        field = re.sub(r"\[(\d+)\]", r".\1", bad.field)
        assert any(place == field or place.startswith(f"{field}.") for place in places)


def test_every_rule_has_an_object_that_breaks_it() -> None:
    unbroken = [rule.message for rule in RULES if not any(bad.message in rule.message for bad in BAD)]
    assert unbroken == []


def test_an_empty_block_is_the_same_as_none() -> None:
    smallest = {"model": {"uri": "file:///m"}}
    empty_blocks: dict[str, object] = {"engine": {}, "resources": {}, "rollout": {}, "podTemplate": {}, "serving": {}}
    assert ModelDeploymentSpec.model_validate(smallest | empty_blocks) == ModelDeploymentSpec.model_validate(smallest)
