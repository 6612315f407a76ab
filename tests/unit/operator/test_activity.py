"""How long engines have been awake and idle, told from status lines alone."""

from dataclasses import dataclass, field

from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.activity import Activity


@dataclass
class Lines:
    """Lines of one runner with one engine, a clock beside it."""

    now: float = 100.0
    activity: Activity = field(default_factory=Activity)

    def __post_init__(self) -> None:
        self.activity.clock = lambda: self.now

    def say(
        self, state: EngineState = EngineState.READY, *, running: int = 0, requests: int = 0, starts: int = 1
    ) -> bool:
        """Take a line; return whether the engine was idle and is no more."""
        engine = EngineStatus(
            id="e",
            model="m",
            model_uid="u",
            hash="h",
            state=state,
            running=running,
            requests=requests,
            starts=starts,
        )
        return bool(self.activity.heard(RunnerStatus(pod_uid="p", engines=(engine,))))

    @property
    def idle(self) -> float | None:
        return self.activity.idle_seconds("p").get("e")

    @property
    def awake(self) -> float | None:
        return self.activity.awake_seconds("p").get("e")


def test_an_engine_without_requests_is_idle_since_it_was_first_heard() -> None:
    lines = Lines()
    lines.say()
    lines.now += 30
    assert (lines.idle, lines.awake) == (30, 30)


def test_a_busy_engine_is_not_idle_however_long_ago_it_was_heard() -> None:
    lines = Lines()
    lines.say()
    lines.now += 10
    assert lines.say(running=1, requests=1)
    lines.now += 30
    assert (lines.idle, lines.awake) == (None, 40)
    assert not lines.say(requests=1)
    lines.now += 5
    assert lines.idle == 5


def test_a_request_between_two_lines_ends_the_idleness_though_no_line_shows_it() -> None:
    lines = Lines()
    lines.say(requests=7)
    lines.now += 30
    assert lines.say(requests=8)
    lines.now += 1
    assert lines.idle == 1


def test_a_front_that_began_to_count_anew_counts_as_a_request() -> None:
    lines = Lines()
    lines.say(requests=7)
    lines.now += 30
    lines.say(requests=0)
    assert lines.idle == 0


def test_what_is_not_ready_is_neither_idle_nor_awake() -> None:
    lines = Lines()
    for state in set(EngineState) - {EngineState.READY}:
        lines.say()
        lines.say(state)
        assert (lines.idle, lines.awake) == (None, None)


def test_an_engine_that_did_not_fall_asleep_after_all_was_awake_all_the_time() -> None:
    lines = Lines()
    lines.say()
    lines.now += 30
    lines.say(EngineState.DRAINING)
    lines.say(running=1, requests=1)
    assert (lines.idle, lines.awake) == (None, 30)


def test_a_wake_that_no_line_showed_begins_a_new_residency() -> None:
    lines = Lines()
    lines.say()
    lines.now += 30
    lines.say(starts=2)
    lines.now += 1
    assert (lines.idle, lines.awake) == (1, 1)


def test_a_pod_that_is_gone_is_forgotten() -> None:
    lines = Lines()
    lines.say()
    lines.activity.forget("p")
    assert (lines.idle, lines.awake) == (None, None)
