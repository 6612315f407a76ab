"""What runners read of their node's weight store, as their assignments say."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from warmfleet_api.node_cache import MAX_VIEW_KEYS
from warmfleet_operator.decide.fleet import Runner
from warmfleet_operator.decide.runners import node_of
from warmfleet_operator.decide.weights import keys_of


def reads_by_node(
    runners: Iterable[Runner], compiled: Callable[[Runner], tuple[str, ...]] = lambda _: ()
) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Return what the runners of each node read: node → uid of the pod → keys. One that ends reads until its end.

    `compiled` gives the compile caches that a runner is shown beside its weights, as far as there is room.
    """
    reads: defaultdict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for runner in runners:
        node = node_of(runner.pod)
        if node and not runner.pod.is_terminal:
            engines = runner.assignment.engines if runner.assignment is not None else ()
            keys = {key for engine in engines for key in keys_of(engine.engine)}
            reads[node][runner.pod.metadata.uid] = (*sorted(keys), *compiled(runner))[:MAX_VIEW_KEYS]
    return reads


def hosted_hashes(runners: Iterable[Runner]) -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Return where the ModelDeployments have engines: uid → node → the template hashes of those there."""
    hosted: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for runner in runners:
        if runner.assignment is not None and not runner.pod.is_terminal:
            for engine in runner.assignment.engines:
                hosted[engine.model_uid][node_of(runner.pod)].add(engine.hash)
    return {uid: {node: frozenset(hashes) for node, hashes in nodes.items()} for uid, nodes in hosted.items()}
