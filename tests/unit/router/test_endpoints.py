"""Where requests can go, from pods and from what answers show."""

from warmfleet_api import assignment, names
from warmfleet_api.assignment import Assignment, EngineAssignment, EngineSpec
from warmfleet_api.vocabulary import DesiredState, EngineType, WakePolicy
from warmfleet_kube.objects import Metadata
from warmfleet_router.catalog import ModelKey
from warmfleet_router.endpoints import Endpoint, Endpoints, Load, Pause, read_load
from warmfleet_router.records import Pod, PodStatus

M = ModelKey("ns", "m")


def pod(
    name: str = "p",
    *,
    ip: str = "10.0.0.1",
    phase: str = "Running",
    going: bool = False,
    uid: str = "",
    assigned: str = "",
    **states: str,
) -> Pod:
    return Pod(
        metadata=Metadata(
            name=name,
            namespace="ns",
            uid=uid or f"uid-{name}",
            annotations={names.ANNOTATION_ASSIGNMENT: assigned} if assigned else {},
            labels={names.serve_label(model): state for model, state in states.items()},
            deletion_timestamp="2026-01-01T00:00:00Z" if going else None,
        ),
        status=PodStatus(phase=phase, pod_ip=ip),
    )


def asleep(wake: WakePolicy) -> Pod:
    spec = EngineSpec(type=EngineType.SIMULATED, uri="hf://a/b", served_names=("m",))
    engine = EngineAssignment(
        id="e", model="m", model_uid="u", hash="h", engine=spec, state=DesiredState.ASLEEP, wake=wake
    )
    assigned = assignment.encode(Assignment(version=assignment.VERSION, revision=1, engines=(engine,)))
    return pod(assigned=assigned, m="Asleep")


class Table:
    def __init__(self) -> None:
        self.changes: list[ModelKey] = []
        self.endpoints = Endpoints(self.changes.append)

    def only(self) -> Endpoint:
        (found,) = self.endpoints.of(M)
        return found


def test_a_ready_engine_of_a_runner_with_an_address_is_usable() -> None:
    table = Table()
    table.endpoints.follow(pod(m="Ready"))
    assert table.only().is_usable(0.0)
    assert table.changes == [M]


def test_a_pod_without_address_or_at_its_end_has_no_endpoint() -> None:
    table = Table()
    table.endpoints.follow(pod(ip="", m="Ready"))
    assert table.endpoints.of(M) == ()
    table.endpoints.follow(pod(m="Ready"))
    table.endpoints.follow(pod(phase="Failed", m="Ready"))
    assert table.endpoints.of(M) == ()


def test_an_engine_without_its_label_is_gone_and_others_stay() -> None:
    table = Table()
    table.endpoints.follow(pod(m="Ready", other="Ready"))
    table.endpoints.follow(pod(other="Ready"))
    assert table.endpoints.of(M) == ()
    assert len(table.endpoints.of(ModelKey("ns", "other"))) == 1


def test_a_pod_that_is_being_deleted_takes_no_more_requests() -> None:
    table = Table()
    table.endpoints.follow(pod(m="Ready"))
    endpoint = table.only()
    table.endpoints.follow(pod(m="Ready", going=True))
    assert table.only() is endpoint
    assert not endpoint.is_usable(0.0)


def test_a_pod_of_the_same_name_is_another_runner() -> None:
    table = Table()
    table.endpoints.follow(pod(m="Ready"))
    table.endpoints.lost(table.only().runner)
    table.endpoints.follow(pod(ip="10.0.0.2", uid="other", m="Ready"))
    assert table.only().runner.address.host == "10.0.0.2"
    assert table.only().is_usable(0.0)


def test_a_sleeping_engine_is_usable_where_its_runner_wakes_it() -> None:
    table = Table()
    table.endpoints.follow(asleep(WakePolicy.ON_ASSIGNMENT))
    assert not table.only().is_usable(0.0)
    table.endpoints.follow(asleep(WakePolicy.ON_REQUEST))
    assert table.only().is_usable(0.0) and not table.only().is_ready


def test_an_assignment_that_can_not_be_read_leaves_what_is_ready() -> None:
    table = Table()
    table.endpoints.follow(pod(assigned='{"version": 99}', m="Ready", other="Asleep"))
    assert table.only().is_usable(0.0)


def test_a_lost_runner_is_left_out_until_a_probe_finds_it() -> None:
    table = Table()
    table.endpoints.follow(pod(m="Ready"))
    runner = table.only().runner
    assert table.endpoints.lost(runner)
    assert not table.endpoints.lost(runner), "no news"
    assert not table.only().is_usable(0.0)
    table.changes.clear()
    table.endpoints.found(runner)
    assert table.only().is_usable(0.0) and table.changes == [M]


def test_pauses_grow_from_a_fifth_of_a_second_to_five_and_end_with_news() -> None:
    pause = Pause()
    assert [pause.again(10.0 * step) for step in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert pause.again(61.0) == 4.0, "ten requests that meet the same make it no longer"
    table = Table()
    table.endpoints.follow(pod(m="Ready"))
    table.only().pause.again(0.0)
    assert not table.only().is_usable(0.1)
    table.endpoints.follow(pod(m="Draining"))
    table.endpoints.follow(pod(m="Ready"))
    assert table.only().is_usable(0.1)


def test_an_answer_ends_the_pause() -> None:
    endpoint = _endpoint()
    endpoint.pause.again(0.0)
    endpoint.answered(0.1)
    assert endpoint.is_usable(0.0)


def test_requests_of_other_routers_are_known_for_two_seconds() -> None:
    endpoint = _endpoint()
    endpoint.begin(0.0)
    endpoint.told(Load(running=8, waiting=3, window=8, queue=256), 0.0)
    endpoint.begin(0.1)
    assert endpoint.requests(1.0) == 12
    assert endpoint.room(1.0, 100) == 8 + 256 - 12
    endpoint.end()
    assert endpoint.requests(1.0) == 11
    assert endpoint.requests(3.0) == 1
    assert endpoint.room(3.0, 100) == 99


def test_the_load_header_is_read_and_what_it_lacks_is_no_load() -> None:
    assert read_load(b"running=3;waiting=0;window=16;queue=256;new=1") == Load(3, 0, 16, 256)
    for bad in (b"", b"running=3", b"running=x;waiting=0;window=16;queue=256", b"\xff;;=1"):
        assert read_load(bad) is None


def _endpoint() -> Endpoint:
    table = Table()
    table.endpoints.follow(pod(m="Ready"))
    return table.only()
