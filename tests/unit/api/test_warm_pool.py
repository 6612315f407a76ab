"""Good and bad WarmPools, asked of pydantic. tests/cluster/test_api_rules.py asks the API server."""

import pytest
from pydantic import ValidationError

from support.objects import Bad, Good
from support.pools import BAD, GOOD
from warmfleet_api.warm_pool import WarmPool, WarmPoolSpec

RULES = [rule for block in (WarmPool, WarmPoolSpec) for rule in block.rules]


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.shows)
def test_accepts(good: Good) -> None:
    parsed = WarmPool.model_validate(good.object)
    assert parsed.metadata.name == good.object["metadata"]["name"]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.shows)
def test_refuses(bad: Bad) -> None:
    with pytest.raises(ValidationError) as refusal:
        WarmPool.model_validate(bad.object)
    if any(bad.message in rule.message for rule in RULES):
        assert bad.message in str(refusal.value)
    else:
        places = [".".join(str(part) for part in error["loc"]) for error in refusal.value.errors()]
        assert any(place == bad.field or place.startswith(f"{bad.field}.") for place in places)


def test_every_rule_has_an_object_that_breaks_it() -> None:
    assert [rule.message for rule in RULES if not any(bad.message in rule.message for bad in BAD)] == []
