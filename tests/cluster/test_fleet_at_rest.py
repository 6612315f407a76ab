"""A fleet of 200 models on 100 nodes converges, and then the operator has nothing more to write."""

import pytest

from localcluster.audit import AuditLog
from support import fleet
from support.cluster import Cluster
from support.endstate import wait_tidy
from support.namespace import Namespace
from support.operator import ProxiedOperator
from support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1200)]


def test_a_large_fleet_converges_and_then_nothing_is_written(
    cluster: Cluster, operator: ProxiedOperator, namespace: Namespace
) -> None:
    log = AuditLog(cluster.audit_log)
    begin = log.end()
    fleet.apply_fleet(namespace)
    fleet.wait_converged(namespace)
    wait_tidy(namespace)
    assert len(fleet.operator_writes(log, begin)) >= 2 * fleet.MODELS
    fleet.wait_quiet(log)
    assert [f"{each.verb} {each.path}" for each in fleet.writes_at_rest(log)] == []

    # The control: the same reader sees the one write that undoing a person's deletion takes.
    rest = log.end()
    namespace.api.delete(f"{namespace.core_path}/services/model-0")
    wait_for("the reader sees the operator write", lambda: fleet.operator_writes(log, rest), 60, operator.log_tail)
    assert {each.resource for each in fleet.operator_writes(log, rest)} >= {"services"}
