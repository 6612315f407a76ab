"""A spec of another version of the API: said in the status, and nothing else is touched."""

from support import make
from warmfleet_api.status import Condition
from warmfleet_operator.unreadable import unreadable_status

SERVING = {
    "type": "Ready",
    "status": "True",
    "reason": "Serving",
    "message": "1 of 1",
    "lastTransitionTime": make.ago(500),
}


def conditions(*, status: dict[str, object]) -> dict[str, Condition]:
    record = make.record("llama", {"surprise": 1}, generation=7, status=status)
    written = unreadable_status(record, "spec.surprise: Extra inputs are not permitted", make.NOW)
    assert written.observed_generation == 7
    return {each.type: each for each in written.conditions}


def test_an_object_that_never_served_is_stalled_and_not_ready() -> None:
    found = conditions(status={})
    assert found["Stalled"].status == "True"
    assert found["Stalled"].reason == "InvalidArgs"
    assert "spec.surprise" in found["Stalled"].message
    assert (found["Ready"].status, found["Reconciling"].status) == ("False", "False")


def test_a_model_that_serves_goes_on_to_serve() -> None:
    found = conditions(status={"conditions": [SERVING], "readyReplicas": 1})
    assert found["Ready"].reason == "Serving"
    assert found["Ready"].last_transition_time == make.ago(500)


def test_saying_it_twice_changes_nothing() -> None:
    record = make.record("llama", {"surprise": 1}, status={"conditions": [SERVING]})
    once = unreadable_status(record, "why", make.NOW)
    again = make.record("llama", {"surprise": 1}, status=once.model_dump(by_alias=True, exclude_none=True))
    assert unreadable_status(again, "why", make.NOW) == once
