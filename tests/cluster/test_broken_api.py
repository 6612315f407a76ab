"""Whatever breaks between the operator and the API server, the next round converges."""

import pytest

from support.api_call import ApiCall, resource_is, writes_in
from support.endstate import end_state, wait_tidy
from support.models import simulated
from support.namespace import Namespace
from support.operator import ProxiedOperator
from warmfleet_api import names

pytestmark = pytest.mark.cluster

WATCHED = (names.MODEL_DEPLOYMENT_PLURAL, "pods", "nodes", "services", "poddisruptionbudgets")


def test_models_converge_while_watches_are_cut(operator: ProxiedOperator, namespace: Namespace) -> None:
    namespace.apply(simulated("first"))
    assert operator.proxy.cut_watches() >= len(WATCHED)
    namespace.apply(simulated("second"))
    namespace.wait_ready("first", "second")
    operator.proxy.cut_watches()
    namespace.change("first", replicas=2)
    namespace.wait_ready("first", "second")
    wait_tidy(namespace)


def test_a_forgotten_resource_version_leads_to_a_new_list(operator: ProxiedOperator, namespace: Namespace) -> None:
    namespace.apply(simulated("kept"), simulated("replaced"))
    namespace.wait_ready("kept", "replaced")
    before = namespace.runners("replaced")[0]["metadata"]["uid"]
    # What happens now is never told by an event: only the new list shows it, by what it lacks.
    operator.proxy.hold_watches()
    namespace.remove("replaced")
    namespace.wait("Kubernetes removed its runner", lambda: not namespace.runners("replaced"))
    operator.proxy.forget_resource_version(*WATCHED)
    operator.proxy.cut_watches()
    operator.proxy.resume()
    namespace.apply(simulated("replaced"))
    namespace.wait_ready("kept", "replaced")
    assert [runner["metadata"]["uid"] for runner in namespace.runners("replaced")] != [before]
    wait_tidy(namespace)


def test_a_stale_list_at_start_makes_no_second_runner(operator: ProxiedOperator, namespace: Namespace) -> None:
    operator.proxy.record_lists("pods")
    operator.restart()
    operator.wait_ready()
    namespace.apply(simulated("only"), simulated("pair", replicas=2))
    namespace.wait_ready("only", "pair")
    before = end_state(namespace)
    operator.kill()
    # A new process that sees the models but none of their runners.
    operator.proxy.serve_stale_list("pods")
    operator.proxy.hold_watches()
    operator.start()

    def was_refused() -> bool:
        made = operator.proxy.writes(lambda call: call.method == "POST" and _is_runner(call, namespace))
        return any(exchange.status == 409 for exchange in made)

    namespace.wait("the operator tried to create a runner that exists", was_refused)
    namespace.stays("no runner is added", lambda: len(namespace.runners()) == 3, 2)
    operator.proxy.resume()
    operator.wait_ready()
    namespace.wait("everything is as before", lambda: end_state(namespace) == before)
    wait_tidy(namespace)


@pytest.mark.parametrize("status", [409, 429, 500])
def test_any_refused_write_is_made_up_for(operator: ProxiedOperator, namespace: Namespace, status: int) -> None:
    for nth in (1, 2, 4, 6, 9, 13):
        operator.proxy.refuse(writes_in(namespace.name), status, nth=nth)
    namespace.apply(simulated("first", replicas=2), simulated("second"))
    namespace.wait_ready("first", "second")
    namespace.change("second", engine={"simulated": {"tokensPerSecond": 7}})
    namespace.wait_ready("first", "second")
    namespace.wait("the old runner is gone", lambda: len(namespace.runners("second")) == 1)
    refused = [each for each in operator.proxy.writes(writes_in(namespace.name)) if each.status == status]
    assert len(refused) >= 5
    wait_tidy(namespace)


@pytest.mark.parametrize("status", [429, 500])
def test_lists_that_fail_at_first_only_delay_the_start(
    operator: ProxiedOperator, namespace: Namespace, status: int
) -> None:
    operator.kill()
    operator.proxy.refuse(lambda call: call.is_list, status, times=8)
    operator.start()
    namespace.apply(simulated("patient"))
    namespace.wait_ready("patient")


def test_a_resource_that_can_not_be_written_holds_up_no_other_model(
    operator: ProxiedOperator, namespace: Namespace
) -> None:
    blocked = resource_is("pods")

    def pods_of_blocked(call: ApiCall) -> bool:
        return blocked(call) and call.method == "POST" and call.namespace == namespace.name

    operator.proxy.refuse(pods_of_blocked, 500, times=3)
    namespace.apply(simulated("blocked"))
    other = Namespace(namespace.cluster, f"{namespace.name}-other", namespace.log_tail)
    other.create()
    other.apply(simulated("free"))
    other.wait_ready("free")
    namespace.wait_ready("blocked")
    other.delete()


def _is_runner(call: ApiCall, namespace: Namespace) -> bool:
    return call.resource == "pods" and call.namespace == namespace.name
