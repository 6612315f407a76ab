"""One operator leads; another takes over; who does not lead any more changes nothing; who sees nothing restarts."""

import signal

import pytest

from support.api_call import ApiCall, Match
from support.endstate import wait_tidy
from support.models import simulated
from support.namespace import Namespace
from support.operator import LEASE_PATH, LEASE_SECONDS, ProxiedOperator, StartOperator
from support.waiting import wait_for
from warmfleet_api import assignment, names

pytestmark = [pytest.mark.cluster, pytest.mark.long]

BLIND_SECONDS = 15


def test_a_follower_takes_over_when_the_leader_dies(start_operator: StartOperator, namespace: Namespace) -> None:
    leader = start_operator()
    namespace.log_tail = leader.log_tail
    namespace.apply(simulated("before"))
    namespace.wait_ready("before")
    follower = start_operator()
    namespace.stays("only the leader writes", lambda: not follower.proxy.writes(_pods_of(namespace)), 2)
    leader.kill()
    namespace.log_tail = follower.log_tail
    namespace.apply(simulated("after"))
    namespace.wait_ready("before", "after")
    wait_tidy(namespace)


def test_a_leader_that_ends_in_order_hands_over_at_once(start_operator: StartOperator, namespace: Namespace) -> None:
    leader = start_operator(lease_seconds=600)
    follower = start_operator(lease_seconds=10)
    leader.signal(signal.SIGTERM)
    assert leader.wait_ended(30) == 0
    namespace.log_tail = follower.log_tail
    namespace.apply(simulated("handed"))
    namespace.wait_ready("handed")


def test_a_runner_of_a_stale_leader_is_refused(start_operator: StartOperator, namespace: Namespace) -> None:
    stale = start_operator()
    creates = _pods_of(namespace, "POST")
    held = stale.proxy.hold_write(creates, lambda: stale.signal(signal.SIGSTOP))
    namespace.apply(simulated("model"))
    assert held.arrived.wait(30), stale.log_tail()
    leader = start_operator()
    namespace.log_tail = leader.log_tail
    namespace.wait_ready("model")
    held.release()
    wait_for("the stale runner was answered", lambda: stale.proxy.writes(creates), 30)
    assert [each.status for each in stale.proxy.writes(creates)] == [409]
    stale.signal(signal.SIGCONT)
    assert stale.wait_ended(LEASE_SECONDS * 6) != 0
    assert len(namespace.runners()) == 1
    wait_tidy(namespace)


def test_a_stale_change_of_a_runner_is_refused(start_operator: StartOperator, namespace: Namespace) -> None:
    stale = start_operator()
    namespace.log_tail = stale.log_tail
    patches = _pods_of(namespace, "PATCH")
    held = stale.proxy.hold_write(patches, lambda: stale.signal(signal.SIGSTOP))
    namespace.apply(simulated("model"))
    assert held.arrived.wait(60), namespace.explain()
    _write_next_revision(namespace)
    held.release()
    wait_for("the stale patch was answered", lambda: stale.proxy.writes(patches), 30)
    assert stale.proxy.writes(patches)[0].status in {409, 422}
    stale.kill()
    leader = start_operator()
    namespace.log_tail = leader.log_tail
    namespace.wait_ready("model")


def test_a_current_change_of_a_runner_is_accepted(start_operator: StartOperator, namespace: Namespace) -> None:
    """The control: the same held patch passes where nobody wrote in between."""
    operator = start_operator()
    namespace.log_tail = operator.log_tail
    patches = _pods_of(namespace, "PATCH")
    held = operator.proxy.hold_write(patches, lambda: operator.signal(signal.SIGSTOP))
    namespace.apply(simulated("model"))
    assert held.arrived.wait(60), namespace.explain()
    held.release()
    wait_for("the patch was answered", lambda: operator.proxy.writes(patches), 30)
    assert operator.proxy.writes(patches)[0].status == 200


def test_nothing_freezes_when_the_lease_is_deleted(operator: ProxiedOperator, namespace: Namespace) -> None:
    namespace.apply(simulated("before"))
    namespace.wait_ready("before")
    namespace.api.delete(LEASE_PATH)
    namespace.apply(simulated("after"))
    namespace.wait_ready("before", "after")
    namespace.wait("the Lease is there again", lambda: namespace.api.get(LEASE_PATH))
    assert operator.running


def test_an_operator_that_sees_nothing_goes_red(start_operator: StartOperator, namespace: Namespace) -> None:
    operator = start_operator(watch_seconds=5, blind_seconds=BLIND_SECONDS)
    assert operator.probe("/livez") == 200
    operator.proxy.hold_watches()
    wait_for("/livez is red", lambda: operator.probe("/livez") >= 500, BLIND_SECONDS * 4, operator.log_tail)
    operator.restart()
    operator.proxy.resume()
    operator.wait_ready()
    namespace.log_tail = operator.log_tail
    namespace.apply(simulated("seen"))
    namespace.wait_ready("seen")
    assert operator.probe("/livez") == 200


def test_a_leader_that_reaches_nothing_ends(start_operator: StartOperator) -> None:
    operator = start_operator()
    wait_for("it leads", lambda: "leads" in operator.log_tail(), 30, operator.log_tail)
    operator.proxy.pause()
    assert operator.wait_ended(LEASE_SECONDS * 6) != 0


def _pods_of(namespace: Namespace, *methods: str) -> Match:
    def match(call: ApiCall) -> bool:
        return (
            call.is_write
            and (call.resource, call.namespace) == ("pods", namespace.name)
            and (not methods or call.method in methods)
        )

    return match


def _write_next_revision(namespace: Namespace) -> None:
    """Write the runner's assignment once more, as another leader would: only its revision differs."""
    pod = namespace.runners()[0]["metadata"]
    written = assignment.decode(pod["annotations"][names.ANNOTATION_ASSIGNMENT])
    following = assignment.Assignment(version=written.version, revision=written.revision + 1, engines=written.engines)
    annotations = {names.ANNOTATION_ASSIGNMENT: assignment.encode(following)}
    namespace.api.merge(f"{namespace.core_path}/pods/{pod['name']}", {"metadata": {"annotations": annotations}})
