"""What the policies of autoscaling wish, and what an autoscaler is shown."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.make import NOW
from warmfleet_api.autoscaling import Autoscaling
from warmfleet_operator.decide.scaling import SAMPLE_SECONDS, History, Sample, Timetable, Wish, desired, exported
from warmfleet_operator.decide.scaling_schedule import timetable


def block(**fields: Any) -> Autoscaling:
    return Autoscaling.model_validate(fields)


def lately(seconds: float, /, **seen: Any) -> list[Sample]:
    """Samples of the same content up to NOW."""
    count = int(seconds / SAMPLE_SECONDS)
    fields = {"replicas": 1, "ready": 1} | seen
    return [Sample(time=NOW - timedelta(seconds=SAMPLE_SECONDS * ago), **fields) for ago in range(count, -1, -1)]


def wish(spec: Autoscaling, samples: list[Sample], **facts: Any) -> Wish:
    return desired(History(spec, samples, **facts), NOW)


def test_demand_is_divided_by_what_a_replica_is_to_have() -> None:
    found = wish(block(), lately(150, demand=57))
    assert (found.replicas, found.reason) == (3, "57.0 requests on average of 30 s, 20 for each replica")


def test_more_replicas_come_only_when_the_short_window_is_full() -> None:
    assert wish(block(), lately(15, demand=57)).replicas == 1
    assert wish(block(windows={"upSeconds": 0}), lately(0, demand=57)).replicas == 3


def test_fewer_replicas_stay_only_when_the_long_window_is_full_as_after_a_restart_it_is_not() -> None:
    assert wish(block(), lately(60, replicas=4, ready=4, demand=5)).replicas == 4
    assert wish(block(), lately(150, replicas=4, ready=4, demand=5)).replicas == 1


def test_a_short_peak_is_averaged_away_and_a_short_pause_lets_nobody_go() -> None:
    calm, peak = lately(150, demand=10), lately(0, demand=60)
    assert wish(block(), [*calm[:-1], *peak]).replicas == 1
    busy, pause = lately(150, replicas=3, ready=3, demand=55), lately(30, replicas=3, ready=3, demand=0)
    assert wish(block(), [*busy[:-7], *pause]).replicas == 3


def test_demand_that_fits_into_fewer_only_just_lets_nobody_go() -> None:
    assert wish(block(), lately(150, replicas=3, ready=3, demand=39)).replicas == 3
    assert wish(block(), lately(150, replicas=3, ready=3, demand=36)).replicas == 2


def test_what_is_not_known_is_no_wish_and_no_metric() -> None:
    spec = block()
    found = wish(spec, lately(150, replicas=3, ready=3, missing="nothing is heard of llama-0-1"))
    assert found == Wish(None, ("nothing is heard of llama-0-1",))
    assert exported(History(spec, lately(150)), found, NOW) is None


def test_nothing_measured_lately_is_not_known_either() -> None:
    old = [Sample(NOW - timedelta(seconds=16), replicas=3, ready=3)]
    assert wish(block(), old).replicas is None
    assert wish(block(), []).replicas is None


def test_what_is_known_may_ask_for_more_though_some_is_not_known() -> None:
    assert wish(block(), lately(150, demand=57, missing="nothing is heard of llama-0-1")).replicas == 3


def test_a_gap_in_the_long_window_lets_nobody_go() -> None:
    samples = lately(150, replicas=3, ready=3)
    samples[10] = lately(0, replicas=3, ready=3, missing="not heard")[0]
    assert wish(block(), samples).replicas == 3


def test_the_wish_stays_within_its_bounds() -> None:
    many = wish(block(maxReplicas=4), lately(150, demand=1000))
    assert (many.replicas, many.reasons[-1]) == (4, "maxReplicas is 4")
    few = wish(block(minReplicas=2), lately(150, replicas=3, ready=3))
    assert (few.replicas, few.reasons[-1]) == (2, "at least 2")


def test_while_nothing_is_ready_a_held_crowd_starts_what_there_is_and_no_more() -> None:
    spec, samples = block(), lately(150, ready=0, demand=100)
    found = wish(spec, samples)
    assert (found.replicas, found.reasons[-1]) == (1, "1 replica until one is Ready, then 5")
    assert exported(History(spec, samples), found, NOW) == 20


def test_a_stopped_model_wishes_nothing() -> None:
    assert wish(block(), lately(150, replicas=0, ready=0, demand=50)) == Wish(0, ("replicas is 0: stopped",))


def test_utilization_is_of_what_engines_were_measured_to_take_at_once() -> None:
    spec = block(policy="Utilization")
    found = wish(spec, lately(150, demand=30, capacity=16))
    assert (found.replicas, found.reason) == (3, "30.0 requests on average of 30 s, 70 % of 16 for each replica")
    assert exported(History(spec, lately(150)), found, NOW) == 3
    assert wish(block(policy="Utilization", utilizationPercent=100), lately(150, demand=30, capacity=16)).replicas == 2


def test_utilization_without_a_measured_capacity_is_not_known() -> None:
    assert wish(block(policy="Utilization"), lately(150, demand=30)).replicas is None


CALM: dict[str, Any] = {"cpu_percent": 10, "latency_milliseconds": 100, "queue_requests": 0}


@pytest.mark.parametrize(
    ("over", "replicas"),
    [
        ({"cpu_percent": 90}, 2),
        ({"cpu_percent": 90, "queue_requests": 11}, 3),
        ({"latency_milliseconds": 2001, "queue_requests": 11}, 3),
        ({"gpu_percent": 81, "cpu_percent": 81}, 3),
    ],
)
def test_rules_go_up_by_one_when_any_two_marks_are_passed(over: dict[str, int], replicas: int) -> None:
    seen = CALM | {"gpu_percent": 10} | over
    found = wish(block(policy="Rules"), lately(60, replicas=2, ready=2, **seen), has_gpus=True)
    assert found.replicas == replicas


def test_rules_go_down_only_when_all_marks_would_be_kept_with_one_fewer() -> None:
    spec = block(policy="Rules")
    assert wish(spec, lately(60, replicas=2, ready=2, **CALM)).replicas == 1
    assert wish(spec, lately(60, replicas=2, ready=2, **CALM | {"cpu_percent": 45})).replicas == 2
    assert wish(spec, lately(60, replicas=2, ready=2, **CALM | {"latency_milliseconds": 2000})).replicas == 2


def test_rules_wait_for_the_cooldown_that_status_or_samples_tell_of() -> None:
    spec, samples = block(policy="Rules"), lately(60, replicas=2, ready=2, **CALM)
    assert wish(spec, samples, scaled_time=NOW - timedelta(seconds=299)).replicas == 2
    assert wish(spec, samples, scaled_time=NOW - timedelta(seconds=300)).replicas == 1
    grown = [*lately(60, replicas=1, ready=1, **CALM)[:-3], *samples[-3:]]
    assert wish(spec, grown).replicas == 2


def test_rules_let_nobody_go_while_a_mark_is_not_known() -> None:
    found = wish(block(policy="Rules"), lately(60, replicas=2, ready=2, **CALM), has_gpus=True)
    assert found == Wish(None, ("not known: GPU %",))


def test_an_external_autoscaler_sees_what_there_is_and_a_held_crowd_as_one_replicas_worth() -> None:
    spec = block(policy="External", targetRequests=10)
    for samples, value in (
        (lately(5, demand=73), 73),
        (lately(5, demand=73, ready=0), 10),
        (lately(5, demand=73, missing="not heard"), None),
    ):
        assert exported(History(spec, samples), wish(spec, samples), NOW) == value


WORK = {"cron": "45 7 * * 1-5", "timeZone": "Europe/Vienna", "durationSeconds": 3600, "replicas": 3}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("now", "replicas"),
    [
        ("2026-01-30T07:44:59+01:00", 0),
        ("2026-01-30T07:45:00+01:00", 3),
        ("2026-01-30T08:44:59+01:00", 3),
        ("2026-01-30T08:45:00+01:00", 0),
        ("2026-01-31T08:00:00+01:00", 0),
        ("2026-07-01T06:00:00+00:00", 3),
    ],
)
def test_a_schedule_holds_from_its_time_for_its_duration_in_its_zone(now: str, replicas: int) -> None:
    assert timetable(block(schedule=[WORK]).schedule, at(now).astimezone(UTC)).replicas == replicas


def test_of_entries_that_hold_at_once_the_most_replicas_count() -> None:
    spec = block(schedule=[{"cron": "0 * * * *"}, {"cron": "0 0 * * *", "durationSeconds": 86400, "replicas": 2}])
    found = timetable(spec.schedule, at("2026-01-30T10:30:00+00:00"))
    assert found == Timetable(2, "schedule 0 0 * * * in Etc/UTC, until 2026-01-31T00:00:00Z")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            {"cron": "61 * * * *"},
            'schedule "61 * * * *": bad minute; it has minute, hour, day of month, month and day of week',
        ),
        (
            {"cron": "0 8 * * *", "timeZone": "Europe/Nowhere"},
            'schedule "0 8 * * *": there is no time zone Europe/Nowhere; write one such as Europe/Vienna or Etc/UTC',
        ),
    ],
)
def test_an_entry_that_cant_be_read_is_told_and_the_others_hold(entry: dict[str, str], problem: str) -> None:
    spec = block(schedule=[entry, {"cron": "0 * * * *"}])
    found = timetable(spec.schedule, at("2026-01-30T10:30:00+00:00"))
    assert (found.replicas, found.problem) == (1, problem)


def test_a_schedule_asks_for_its_replicas_whatever_the_policy_knows() -> None:
    planned = Timetable(3, "schedule 45 7 * * 1-5 in Europe/Vienna, until 2026-01-30T07:45:00Z")
    for samples in (lately(150), lately(150, missing="not heard"), lately(150, ready=0)):
        found = wish(block(), samples, timetable=planned)
        assert (found.replicas, found.reasons) == (3, (planned.reason,))
