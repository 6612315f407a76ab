"""What starts teach: means that follow what is so, whatever a single measurement says."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import make
from support.starts import last_start
from warmfleet_api.status import LastStart, StageStatus
from warmfleet_api.vocabulary import Stage, StartType
from warmfleet_operator.decide import predict_learn
from warmfleet_operator.decide.estimates import Estimates, Measured
from warmfleet_operator.decide.predict_learn import observe, rebuilt, updated
from warmfleet_operator.decide.predict_stages import phases, stage_seconds, start_seconds

LLAMA = make.model("llama")
SECONDS = st.floats(0, 5000)


def after(*samples: float, begin: Measured | None = None) -> Measured:
    mean = begin or Measured(1.0, 0)
    for each in samples:
        mean = updated(mean, each)
    return mean


def test_the_first_measurement_replaces_what_was_assumed() -> None:
    assert after(3.0).seconds == pytest.approx(3.0)


def test_later_ones_weigh_three_tenths() -> None:
    steady, one_more = after(10, 10, 10, 10, 10), after(10, 10, 10, 10, 10, 20)
    assert steady.seconds == pytest.approx(10)
    assert 11.5 < one_more.seconds < 13.5


def test_a_first_measurement_counts_whatever_was_assumed_unless_it_is_absurd() -> None:
    assert after(300).seconds == pytest.approx(300), "an image that nobody had expected to be pulled"
    assert after(7200).seconds <= 600


def test_a_first_measurement_that_was_absurd_is_forgotten_within_a_few_starts() -> None:
    assert after(7200, 2, 2).seconds < 20
    assert after(7200, 2, 2, 2, 2).seconds < 6


def test_a_lasting_change_is_learnt_in_a_few_starts() -> None:
    known = after(*[2.0] * 10)
    assert after(*[40.0] * 5, begin=known).seconds > 20
    assert after(*[0.0] * 8, begin=after(*[40.0] * 10)).seconds < 4


@given(honest=st.floats(0.5, 2000), absurd=st.floats(allow_nan=False, allow_infinity=False))
def test_one_absurd_measurement_moves_an_estimate_by_half_at_most(honest: float, absurd: float) -> None:
    known = after(*[honest] * 5)
    moved = updated(known, absurd)
    assert known.seconds / 2 <= moved.seconds <= 1.6 * known.seconds + 0.2
    assert after(*[honest] * 4, begin=moved).seconds == pytest.approx(honest, rel=0.25, abs=0.1)


@given(st.lists(SECONDS, min_size=1, max_size=40))
def test_an_estimate_stays_between_the_least_and_the_most_that_was_measured(samples: list[float]) -> None:
    mean = after(*samples, begin=Measured(samples[0], 0))
    assert min(samples) - 1e-6 <= mean.seconds <= max(samples) + 1e-6
    assert mean.count >= 1


@given(honest=st.floats(1, 300), absurd=st.lists(SECONDS, min_size=2, max_size=8), chance=st.randoms())
def test_a_few_lies_among_honest_measurements_do_not_poison_an_estimate(
    honest: float, absurd: list[float], chance: Any
) -> None:
    # One in five lies, never two in a row: what repeats itself is believed.
    samples = [each for lie in absurd for each in (*[honest * chance.uniform(0.95, 1.05)] * 4, lie)]
    mean = after(*samples, *[honest] * 2, begin=Measured(honest, 3))
    assert honest / 1.6 <= mean.seconds <= honest * 1.6


def test_a_failed_start_teaches_nothing() -> None:
    start = last_start(StartType.WARM, failed=True, WeightsLoaded=3, Routable=1)
    assert observe(Estimates(), LLAMA, "cpu", start) == Estimates()


def test_what_nothing_can_have_taken_counts_for_nothing() -> None:
    impossible: list[Any] = [-5000, 10**12, float("nan"), float("inf")]
    stages = [StageStatus.model_construct(name=Stage.WEIGHTS_LOADED, milliseconds=each) for each in impossible]
    start = last_start().model_copy(update={"stages": stages})
    assert observe(Estimates(), LLAMA, "cpu", start) == Estimates()


def test_the_queue_and_the_wait_for_weights_are_no_time_of_the_start() -> None:
    start = last_start(StartType.WARM, Queued=500, WeightsInMemory=80, WeightsLoaded=3, Routable=1)
    estimates = observe(Estimates(), LLAMA, "cpu", start)
    assert start_seconds(estimates, LLAMA, StartType.WARM, None, {}) == pytest.approx(4)


def test_a_restart_inside_its_runner_leaves_the_other_stages_as_they_were() -> None:
    whole = last_start(StartType.COLD, RunnerScheduled=2, ImagePulled=9, RunnerReady=3, WeightsLoaded=5, Routable=1)
    known = observe(Estimates(), LLAMA, "cpu", whole)
    both = observe(known, LLAMA, "cpu", last_start(StartType.COLD, WeightsLoaded=5))
    assert stage_seconds(both, LLAMA, StartType.COLD, "cpu") == pytest.approx(
        stage_seconds(known, LLAMA, StartType.COLD, "cpu")
    )
    alone = stage_seconds(
        observe(Estimates(), LLAMA, "cpu", last_start(StartType.COLD, WeightsLoaded=5)), LLAMA, StartType.COLD, "cpu"
    )
    assumed = stage_seconds(Estimates(), LLAMA, StartType.COLD, "cpu")
    assert alone == pytest.approx(assumed | {Stage.WEIGHTS_LOADED: 5.0})


def test_a_stage_that_a_start_did_not_have_is_expected_to_vanish() -> None:
    compiled = last_start(StartType.WARM, Compiled=60, WeightsLoaded=5, Routable=1)
    cached = last_start(StartType.WARM, WeightsLoaded=5, Routable=1)
    estimates = Estimates()
    for start in (compiled, cached, cached, cached, cached):
        estimates = observe(estimates, LLAMA, "cpu", start)
    assert stage_seconds(estimates, LLAMA, StartType.WARM, "cpu")[Stage.COMPILED] < 6


def test_observing_leaves_the_former_estimates_as_they_were() -> None:
    first = observe(Estimates(), LLAMA, "cpu", last_start(StartType.WARM, WeightsLoaded=5, Routable=1))
    seconds = phases(first, LLAMA, StartType.WARM, "cpu").seconds
    observe(first, LLAMA, "cpu", last_start(StartType.WARM, WeightsLoaded=50, Routable=1))
    assert phases(first, LLAMA, StartType.WARM, "cpu").seconds == seconds


def test_what_was_seen_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_learn, "MAX_KINDS", 4)
    models = [make.model(f"m{number}") for number in range(4)]
    estimates = Estimates()
    for model in models:
        estimates = observe(estimates, model, "cpu", last_start(StartType.WARM, WeightsLoaded=9, Routable=1))
    assert {kind.subject for kind in estimates.models} == {models[2].hash, models[3].hash}


def with_last(name: str, start: LastStart, served: str | None = None) -> Any:
    status = {"lastStart": start.model_dump(mode="json", by_alias=True)}
    return make.model(name, status=status | ({"servedHash": served} if served is not None else {}))


def test_after_a_restart_the_last_starts_tell_what_was_known() -> None:
    model = with_last("llama", last_start(StartType.WARM, WeightsLoaded=42, WarmedUp=1, Routable=0.5))
    estimates = rebuilt([model, make.model("never-started")], {"n1": make.node("n1")})
    assert start_seconds(estimates, model, StartType.WARM, make.node("n1"), {}) == pytest.approx(43.5)


def test_after_a_restart_a_start_of_a_former_spec_tells_nothing_of_the_present_one() -> None:
    old = last_start(StartType.WARM, EngineForked=3, WeightsLoaded=42, WarmedUp=1, Routable=0.5)
    model = with_last("llama", old, served="former")
    estimates = rebuilt([model], {})
    stages = stage_seconds(estimates, model, StartType.WARM, "cpu")
    assert stages[Stage.WEIGHTS_LOADED] == 0.2, "as declared"
    assert stages[Stage.ENGINE_FORKED] == pytest.approx(3), "as any engine of its kind"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(StartType),
            st.dictionaries(st.sampled_from([str(each) for each in Stage]), st.floats(0, 90_000), max_size=8),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_whatever_is_measured_every_start_keeps_a_finite_time(starts: list[Any]) -> None:
    estimates, other = Estimates(), make.model("other")
    for kind, stages, failed in starts:
        estimates = observe(estimates, LLAMA, "cpu", last_start(kind, failed=failed, **stages))
    for model in (LLAMA, other):
        for kind in StartType:
            assert 0 <= start_seconds(estimates, model, kind, None, {}) < 13 * 86_400
