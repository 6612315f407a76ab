"""What an engine of one node compiled serves the engine of another: real vLLM on CPU, with Inductor's cache."""

from pathlib import Path

import pytest

from bench.compile import measure
from support import engine
from warmfleet_api.vocabulary import Stage

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


async def test_an_engine_on_another_node_compiles_nothing_anew(tmp_path: Path) -> None:
    """The first start is the control: without a cache in the store the same engine does compile."""
    first, handing, second = await measure(engine.tiny_model("--draft"), tmp_path)
    assert first.record.compile_cache_files == 0
    assert first.objects
    assert handing.pack_bytes > 0
    assert second.record.compile_cache_files > len(first.objects)
    assert second.objects == first.objects
    assert Stage.COMPILED in {stage.name for stage in second.record.stages}
