"""Both ways to serve a handler."""

import pytest


@pytest.fixture(params=[False, True], ids=["direct", "plain"])
def plain(request: pytest.FixtureRequest) -> bool:
    """Both ways to serve a handler."""
    return bool(request.param)
