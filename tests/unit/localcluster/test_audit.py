import json
from pathlib import Path

import pytest

from localcluster.audit import AuditLog, writes


def line(verb: str, name: str, *, user: str = "someone", agent: str = "kubectl/v1", code: int = 200) -> str:
    event = {
        "kind": "Event",
        "level": "Metadata",
        "stage": "ResponseComplete",
        "requestURI": f"/api/v1/namespaces/default/pods/{name}",
        "verb": verb,
        "user": {"username": user, "groups": ["system:authenticated"]},
        "userAgent": agent,
        "objectRef": {"resource": "pods", "namespace": "default", "name": name, "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": code},
        "requestReceivedTimestamp": "2026-03-01T10:00:00.250000Z",
    }
    return json.dumps(event) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log"
    path.touch()
    return path


def append(path: Path, *lines: str) -> None:
    with path.open("a") as stream:
        stream.writelines(lines)


def rotate(path: Path, stamp: str) -> None:
    path.rename(path.with_name(f"audit-{stamp}.log"))
    path.touch()


def test_a_request_is_read_with_who_what_and_outcome(path: Path) -> None:
    append(path, line("patch", "a", user="system:node:n1", agent="kubelet/v1.35", code=409))
    (request,) = AuditLog(path).requests()
    assert (request.verb, request.resource, request.namespace, request.name) == ("patch", "pods", "default", "a")
    assert (request.user, request.user_agent, request.code) == ("system:node:n1", "kubelet/v1.35", 409)
    assert request.time.isoformat() == "2026-03-01T10:00:00.250000+00:00"


def test_a_request_outside_of_resources_is_read(path: Path) -> None:
    event = json.loads(line("get", "a")) | {"requestURI": "/readyz"}
    del event["objectRef"]
    append(path, json.dumps(event) + "\n")
    (request,) = AuditLog(path).requests()
    assert (request.resource, request.path, request.is_write) == ("", "/readyz", False)


def test_only_what_came_after_a_position_is_read(path: Path) -> None:
    log = AuditLog(path)
    append(path, line("create", "before"))
    position = log.end()
    assert list(log.requests(position)) == []
    append(path, line("create", "after"))
    assert [request.name for request in log.requests(position)] == ["after"]


def test_a_position_outlives_rotations(path: Path) -> None:
    log = AuditLog(path)
    append(path, line("create", "a"))
    position = log.end()
    append(path, line("create", "b"))
    rotate(path, "2026-03-01T10-00-00.000")
    append(path, line("create", "c"))
    rotate(path, "2026-03-01T11-00-00.000")
    append(path, line("create", "d"))
    assert [request.name for request in log.requests(position)] == ["b", "c", "d"]
    assert [request.name for request in log.requests()] == ["a", "b", "c", "d"]


def test_a_position_whose_part_is_gone_is_an_error_and_not_silence(path: Path) -> None:
    log = AuditLog(path)
    append(path, line("create", "a"))
    position = log.end()
    rotate(path, "2026-03-01T10-00-00.000")
    append(path, line("create", "b"))
    path.with_name("audit-2026-03-01T10-00-00.000.log").unlink()
    with pytest.raises(LookupError, match="rotated away"):
        list(log.requests(position))


def test_a_line_still_being_written_is_left_for_the_next_reader(path: Path) -> None:
    log = AuditLog(path)
    whole = line("create", "a")
    append(path, whole[:40])
    assert list(log.requests()) == []
    append(path, whole[40:])
    assert [request.name for request in log.requests()] == ["a"]


def test_writes_are_told_by_user_and_by_user_agent(path: Path) -> None:
    append(
        path,
        line("create", "a", user="operator", agent="warmfleet/0.1"),
        line("get", "b", user="operator", agent="warmfleet/0.1"),
        line("delete", "c", user="operator", agent="kubectl/v1"),
        line("patch", "d", user="other", agent="warmfleet/0.1"),
    )
    requests = list(AuditLog(path).requests())
    assert [request.name for request in writes(requests)] == ["a", "c", "d"]
    assert [request.name for request in writes(requests, user="operator")] == ["a", "c"]
    assert [request.name for request in writes(requests, user_agent="warmfleet/")] == ["a", "d"]
    assert [request.name for request in writes(requests, user="operator", user_agent="warmfleet/")] == ["a"]
