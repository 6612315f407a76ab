"""The table of good and bad objects, asked of pydantic. tests/cluster/test_api_rules.py asks the API server."""

import re

import pytest
from pydantic import ValidationError

from support.objects import BAD, GOOD, Bad, Good
from warmfleet_api.model_deployment import (
    Engine,
    Model,
    ModelDeployment,
    ModelDeploymentSpec,
    PodTemplate,
    Resources,
    Toleration,
)

BLOCKS = (ModelDeployment, ModelDeploymentSpec, Model, Engine, Resources, PodTemplate, Toleration)
RULES = [rule for block in BLOCKS for rule in block.rules]


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
    empty_blocks: dict[str, object] = {"engine": {}, "resources": {}, "rollout": {}, "podTemplate": {}}
    assert ModelDeploymentSpec.model_validate(smallest | empty_blocks) == ModelDeploymentSpec.model_validate(smallest)
