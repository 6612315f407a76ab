"""The guide of the router tells of what there is."""

import re
from pathlib import Path

from warmfleet_router.metrics import Metrics
from warmfleet_router.settings import Settings

PAGE = (Path(__file__).parents[3] / "docs" / "guide" / "router.md").read_text()


def test_every_metric_of_the_router_is_in_the_guide() -> None:
    told = set(re.findall(r"^\| `(warmfleet_router_\w+)`", PAGE, re.MULTILINE))
    families = {
        each.name + ("_total" if each.type == "counter" else "")
        for each in Metrics().registry.collect()
        if each.name.startswith("warmfleet_router_")
    }
    assert told == families


def test_settings_in_the_guide_are_settings() -> None:
    told = set(re.findall(r"`WARMFLEET_(\w+)`", PAGE.partition("## Settings")[2]))
    assert told and told <= {name.upper() for name in Settings.model_fields}
