"""What all tiers have in common: time limits of tests that fit the slowest machine they run on."""

import pytest

from support.waiting import PATIENCE


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every test its time limit as many times as its waits get their bounds, so that the waits speak first."""
    usual = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit_seconds = float(marker.args[0]) if marker else usual
        item.add_marker(pytest.mark.timeout(PATIENCE * limit_seconds), append=False)
