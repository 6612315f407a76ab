"""What the operator remembers between rounds: estimates, what it foretold, when stages began."""

from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry, Histogram

from support import make
from support.starts import last_start
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState, Stage, StartType
from warmfleet_operator.decide.actions import Forecast
from warmfleet_operator.decide.predict_stages import start_seconds
from warmfleet_operator.estimates_keeper import FORGET_SECONDS, Predictions

LLAMA = make.model("llama")
NODES = {"n1": make.node("n1")}
DONE = last_start(StartType.WARM, WeightsLoaded=20, WarmedUp=1, Routable=0.5)


@dataclass
class Bench:
    """Predictions on a clock of our own."""

    now: float = 0.0

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        ratio = Histogram("ratio", "", ("start_type", "told"), buckets=(0.5, 1, 2), registry=self.registry)
        self.predictions = Predictions(ratio, clock=lambda: self.now)

    def foretell(self, seconds: float | None, *, queued: bool) -> None:
        forecasts = {LLAMA.key: Forecast(seconds, StartType.WARM, "because")}
        self.predictions.foretold(forecasts, [LLAMA.key] if queued else [])

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"start_type": "Warm"} | labels)


def test_the_first_estimates_come_from_the_last_starts_of_all_models() -> None:
    model = make.model("llama", status={"lastStart": DONE.model_dump(mode="json", by_alias=True)})
    estimates = Bench().predictions.estimates([model], NODES)
    assert start_seconds(estimates, model, StartType.WARM, NODES["n1"], {}) == pytest.approx(21.5)


def test_a_start_that_ended_is_learnt_from() -> None:
    bench = Bench()
    before = bench.predictions.estimates([LLAMA], NODES)
    bench.predictions.ended(LLAMA, DONE, NODES)
    after = bench.predictions.estimates([LLAMA], NODES)
    assert start_seconds(before, LLAMA, StartType.WARM, NODES["n1"], {}) < 2
    assert start_seconds(after, LLAMA, StartType.WARM, NODES["n1"], {}) == pytest.approx(21.5)


def test_what_was_foretold_is_compared_with_what_happened() -> None:
    bench = Bench()
    bench.foretell(29.5, queued=True)  # at 0: done at 29.5
    bench.now = 10
    bench.foretell(5.0, queued=True)  # a later one of the same wait counts for nothing
    bench.now = 20
    bench.foretell(39.5, queued=False)  # placed at 20: done at 59.5
    bench.now = 59.5
    bench.predictions.ended(LLAMA, DONE, NODES)
    assert bench.value("ratio_sum", told="Queued") == pytest.approx(2.0)
    assert bench.value("ratio_sum", told="Placed") == pytest.approx(1.0)
    assert bench.value("ratio_count", told="Queued") == 1


def test_a_wait_without_a_forecast_is_compared_from_its_first_forecast_on() -> None:
    bench = Bench()
    bench.foretell(None, queued=True)
    bench.now = 50
    bench.foretell(9.5, queued=True)
    bench.now = 59.5
    bench.predictions.ended(LLAMA, DONE, NODES)
    assert bench.value("ratio_sum", told="Queued") == pytest.approx(1.0)


def test_a_start_that_was_given_up_counts_for_no_later_one() -> None:
    bench = Bench()
    bench.foretell(5, queued=True)
    bench.now = FORGET_SECONDS + 1
    bench.predictions.foretold({}, [])
    bench.predictions.ended(LLAMA, DONE, NODES)
    assert bench.value("ratio_count", told="Queued") is None


def test_a_start_that_failed_is_neither_learnt_from_nor_compared() -> None:
    bench = Bench()
    before = bench.predictions.estimates([LLAMA], NODES)
    bench.foretell(5, queued=False)
    bench.predictions.ended(LLAMA, last_start(failed=True, WeightsLoaded=20, Routable=1), NODES)
    assert bench.predictions.estimates([], {}) == before
    assert bench.value("ratio_count", told="Placed") is None


def status(stage: Stage | None, *, state: EngineState = EngineState.STARTING, starts: int = 1) -> RunnerStatus:
    engine = EngineStatus(id="e", model="m", model_uid="u", hash="h", state=state, stage=stage, starts=starts)
    return RunnerStatus(pod_uid="pod", engines=(engine,))


def test_a_stage_lasts_from_the_first_line_that_tells_of_it() -> None:
    bench = Bench()
    bench.predictions.heard(status(Stage.ENGINE_FORKED))
    bench.now = 3
    bench.predictions.heard(status(Stage.ENGINE_FORKED))
    assert bench.predictions.stage_seconds("pod") == {"e": 3}
    bench.predictions.heard(status(Stage.WEIGHTS_LOADED))
    bench.now = 4
    assert bench.predictions.stage_seconds("pod") == {"e": 1}
    bench.predictions.heard(status(Stage.WEIGHTS_LOADED, starts=2))
    assert bench.predictions.stage_seconds("pod") == {"e": 0}
    bench.predictions.heard(status(None, state=EngineState.READY))
    assert bench.predictions.stage_seconds("pod") == {}


def test_a_pod_that_is_gone_is_forgotten() -> None:
    bench = Bench()
    bench.predictions.heard(status(Stage.ENGINE_FORKED))
    bench.predictions.forget("pod")
    assert bench.predictions.stage_seconds("pod") == {}
