"""The mirror: the resourceVersion orders lists, watch events and answers to own writes."""

from hypothesis import given
from hypothesis import strategies as st

from warmfleet_kube.mirror import Mirror
from warmfleet_kube.objects import Metadata
from warmfleet_operator.records import Service

Change = tuple[str | None, str | None]


def service(version: int, name: str = "a", uid: str = "u", color: str = "red") -> Service:
    return Service(
        metadata=Metadata(name=name, namespace="n", uid=uid, resource_version=str(version)), spec={"color": color}
    )


def color_of(mirror: Mirror[Service], name: str = "a") -> str | None:
    known = mirror.get("n", name)
    return None if known is None else known.spec["color"]


def listened(mirror: Mirror[Service]) -> list[Change]:
    heard: list[Change] = []
    mirror.subscribe(
        lambda former, new: heard.append((former.spec["color"] if former else None, new.spec["color"] if new else None))
    )
    return heard


def test_the_answer_to_an_own_write_is_seen_at_once_and_no_older_event_takes_it_back() -> None:
    mirror: Mirror[Service] = Mirror()
    mirror.replace([service(5)], 10)
    mirror.expect(service(20, color="blue"))
    mirror.saw(service(15, color="green"))
    assert color_of(mirror) == "blue"
    assert mirror.position == 15


def test_a_list_from_before_an_own_write_keeps_what_was_written() -> None:
    mirror: Mirror[Service] = Mirror()
    mirror.expect(service(20, name="new"))
    mirror.replace([service(5)], 10)
    assert color_of(mirror, "new") == "red"
    assert color_of(mirror) == "red"


def test_a_list_removes_what_it_lacks_and_tells_so() -> None:
    mirror: Mirror[Service] = Mirror()
    mirror.replace([service(5), service(6, name="b", color="blue")], 10)
    heard = listened(mirror)
    mirror.replace([service(5)], 30)
    assert heard == [("blue", None)]
    assert len(mirror) == 1


def test_a_late_answer_does_not_bring_back_what_the_watch_has_seen_deleted() -> None:
    mirror: Mirror[Service] = Mirror()
    mirror.saw(service(20))
    mirror.saw_deletion(service(25))
    mirror.expect(service(22, color="blue"))
    assert color_of(mirror) is None


def test_an_old_deletion_does_not_remove_a_newer_object_of_the_name() -> None:
    mirror: Mirror[Service] = Mirror()
    mirror.expect(service(30, uid="second"))
    mirror.saw_deletion(service(25, uid="first"))
    assert color_of(mirror) == "red"


def test_forgetting_spares_another_object_of_the_name() -> None:
    mirror: Mirror[Service] = Mirror()
    mirror.saw(service(30, uid="second"))
    mirror.forget(service(10, uid="first"))
    assert len(mirror) == 1
    mirror.forget(service(30, uid="second"))
    assert len(mirror) == 0


def test_a_change_of_nothing_but_the_version_is_kept_and_not_told() -> None:
    mirror: Mirror[Service] = Mirror()
    mirror.saw(service(5))
    heard = listened(mirror)
    mirror.saw(service(9))
    known = mirror.get("n", "a")
    assert known is not None
    assert known.metadata.resource_version == "9"
    assert heard == []


def test_the_index_follows_objects_that_change_and_go() -> None:
    mirror: Mirror[Service] = Mirror(index=lambda each: [each.spec["color"]])
    mirror.saw(service(5))
    mirror.saw(service(6, color="blue"))
    assert [len(mirror.indexed(color)) for color in ("red", "blue")] == [0, 1]
    mirror.saw_deletion(service(7, color="blue"))
    assert mirror.indexed("blue") == ()


WRITES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["red", "blue", "gone"]), st.booleans()), max_size=30
)


@given(writes=WRITES, cut=st.integers(0, 30))
def test_whatever_own_answers_come_in_between_the_watch_leads_to_the_state_of_the_server(
    writes: list[tuple[str, str, bool]], cut: int
) -> None:
    """Every write is on the server at once; its answer reaches the mirror now (own) or only by the watch, later."""
    server: dict[str, Service] = {}
    log: list[tuple[bool, Service]] = []
    mirror: Mirror[Service] = Mirror()
    for version, (name, color, own) in enumerate(writes, start=1):
        if color == "gone":
            known = server.pop(name, None)
            if known is not None:
                log.append((True, service(version, name, color=known.spec["color"])))
        else:
            server[name] = service(version, name, color=color)
            log.append((False, server[name]))
            if own:
                mirror.expect(server[name])
        if version == cut:
            mirror.replace(list(server.values()), version)
            log.clear()
    for deleted, item in log:
        (mirror.saw_deletion if deleted else mirror.saw)(item)
    assert {each.metadata.name: each for each in mirror.values()} == server
