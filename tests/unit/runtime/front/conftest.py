"""A front in this process for every test that asks for one, on the event loop that it runs on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.front import Front, running_front
from support.loops import pytest_asyncio_loop_factories

__all__ = ["front", "pytest_asyncio_loop_factories"]


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_front(tmp_path) as front:
        yield front
