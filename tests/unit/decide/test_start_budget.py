"""How long a start may take."""

from typing import Any

import pytest

from support import make, make_weights
from warmfleet_api.vocabulary import Tier
from warmfleet_operator.decide.start_budget import (
    awake_bytes,
    fetch_budget_seconds,
    fetch_seconds,
    start_budget_seconds,
)

VLLM: dict[str, Any] = {"engine": {"type": "VLLM"}, "model": {"uri": "file:///srv/models/x"}}


def last_start(result: str, **milliseconds: int) -> dict[str, Any]:
    stages = [{"name": name, "milliseconds": each} for name, each in milliseconds.items()]
    return {
        "lastStart": {
            "startType": "Cold",
            "result": result,
            "durationMilliseconds": 1,
            "time": make.ago(9),
            "node": "n1",
            "stages": stages,
            "summary": "",
        }
    }


def test_a_simulated_start_is_known_beforehand_and_has_a_minute_at_least() -> None:
    assert start_budget_seconds(make.model()) == 60
    slow = {"type": "Simulated", "simulated": {"loadMilliseconds": 90_000, "initializeMilliseconds": 500}}
    assert start_budget_seconds(make.model(engine=slow)) == 181


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        # Nothing known: 16 GiB of memory at 200 MB/s, and a minute to initialise.
        ({}, 292),
        ({"model": {"bytes": 2_000_000_000}}, 140),
        (last_start("Succeeded", WeightsLoaded=100_000, EngineForked=20_000, WarmedUp=5_000, ImagePulled=900_000), 250),
        (last_start("Succeeded", WeightsLoaded=1_000, EngineForked=2_000), 60),
        # What failed tells nothing about how long it would have taken.
        (last_start("Failed", WeightsLoaded=1_000_000), 292),
    ],
    ids=["nothing known", "size known", "measured", "measured and quick", "failed"],
)
def test_a_start_has_twice_what_its_bytes_and_its_engine_need(status: dict[str, Any], seconds: int) -> None:
    assert start_budget_seconds(make.model(status=status, memory="16Gi", **VLLM)) == seconds


def test_the_ledger_reserves_gpu_memory_or_the_runners_own() -> None:
    assert awake_bytes(make.model(resources={"gpus": 2, "gpuMemory": "40Gi"})) == 80 * make.GIB
    assert awake_bytes(make.model(memory="3Gi")) == 3 * make.GIB
    assert awake_bytes(make.model(gpus=2)) == 0


def test_the_size_a_source_told_counts_before_anything_was_started() -> None:
    model = make_weights.model(bytes=20_000_000_000)
    assert start_budget_seconds(model) == 2 * (100 + 60)


READS = make_weights.model(bytes=10_000_000_000)


@pytest.mark.parametrize(
    ("tier", "status", "spec", "seconds"),
    [
        (None, {}, {}, 200),
        (None, {"remoteBytesPerSecond": 10**9}, {}, 10),
        (None, {"remoteBytesPerSecond": 10**9}, {"bytesPerSecond": 10**8}, 100),
        (None, {}, {"bytesPerSecond": 10**7}, 1000),
        (Tier.DISK, {}, {}, 50),
        (Tier.DISK, {"disk": {"bytesPerSecond": 2 * 10**9}}, {"bytesPerSecond": 1}, 5),
        (Tier.MEMORY, {}, {}, 0),
    ],
    ids=["nothing known", "measured", "limited", "limited, unknown", "disk", "disk, measured", "there"],
)
def test_what_is_still_to_come_takes_as_long_as_the_node_measured(
    tier: Tier | None, status: dict[str, Any], spec: dict[str, Any], seconds: float
) -> None:
    seen = () if tier is None else (make_weights.seen(READS, tier),)
    cache = make_weights.cache("n1", *seen, status=status, **spec)
    assert fetch_seconds(READS.weights, cache) == seconds
    assert fetch_budget_seconds(READS.weights, cache) == 2 * seconds
    assert fetch_budget_seconds(READS.weights, None) == 0
