"""The event loop of tests whose subject runs on uvloop: a `conftest.py` that has the hook lets them run on it too."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return uvloop, or asyncio's own for what compares times: uvloop counts whole milliseconds and may ring early."""
    if item.get_closest_marker("exact_time"):
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}
