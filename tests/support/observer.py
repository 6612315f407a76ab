"""The snapshot's observer over mirrors that a test fills; nobody answers its streams."""

from support import make
from warmfleet_operator.agent_streams import AgentStreams
from warmfleet_operator.caches_snapshot import StoresObserver
from warmfleet_operator.cluster import Cluster
from warmfleet_operator.demand import Demands
from warmfleet_operator.estimates_keeper import Predictions
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.snapshot import Observer
from warmfleet_operator.streams import Streams


def stores_of(cluster: Cluster) -> StoresObserver:
    """Return an observer of the weight stores."""
    return StoresObserver(cluster, AgentStreams(lambda *_: None, Metrics()), make.LIMITS)


def observer_of(cluster: Cluster) -> Observer:
    """Return an observer of everything."""
    streams, predictions = Streams(lambda *_: None, Metrics()), Predictions(Metrics().prediction_ratio)
    stores = stores_of(cluster)
    return Observer(cluster, streams, make.LIMITS, stores, demands=Demands(), predictions=predictions)
