"""The operator's parts are tested on the event loop that it runs on."""

from support.loops import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
