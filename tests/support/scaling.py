"""The keeper of wishes over mirrors that a test fills."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from warmfleet_operator.cluster import Cluster
from warmfleet_operator.decide.fleet import ModelKey
from warmfleet_operator.decide.situation import Situation
from warmfleet_operator.demand import Demands
from warmfleet_operator.scaling import Scalings
from warmfleet_operator.scaling_metrics import ScalingMetrics


def scalings_of(
    cluster: Cluster,
    demands: Demands | None = None,
    situations: Callable[[], Iterable[Situation]] = tuple,
    changed: Callable[[ModelKey], None] = lambda _: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Scalings:
    """Return one that measures these situations, and calls the server of external metrics `nobody`."""

    def found(key: ModelKey) -> Situation | None:
        return next((each for each in situations() if each.model.key == key), None)

    return Scalings(
        situation=found,
        models=lambda: [each.model.key for each in situations()],
        demands=demands or Demands(),
        autoscalers=cluster.autoscalers,
        explain=lambda: "nobody serves external metrics",
        metrics=ScalingMetrics(CollectorRegistry()),
        changed=changed,
        now=now,
    )
