"""Who serves a model at every moment, as the API server tells by its watches: for the least that was ever Ready."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from support.kubeapi import ApiError, KubeApi, Object
from support.namespace import Namespace, is_ready
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState

WATCH_SECONDS = 5
"""The server ends a watch after this long; it is asked anew from where it was."""
BEGIN_SECONDS = 30
Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen at one moment, in monotonic seconds."""

    at: float
    serving: int
    """Pods that the model's Service selects, Ready and not ending."""
    nodes: tuple[str, ...]
    """Their nodes."""


@dataclass
class ReadyWatch:
    """What was seen of one model since the watch began."""

    namespace: Namespace
    model: str
    pods: list[Sight] = field(default_factory=list)
    replicas: list[tuple[float, int, str]] = field(default_factory=list)
    """Moment, `status.readyReplicas` and the status of the condition Ready."""

    def least_serving(self, since: float = 0.0, until: float = float("inf")) -> int:
        """Return the fewest that served at any moment of a span."""
        return min(_within([(each.at, each.serving) for each in list(self.pods)], since, until))

    def least_replicas(self, since: float = 0.0, until: float = float("inf")) -> int:
        """Return the fewest that the status ever told of in a span."""
        return min(_within([(at, ready) for at, ready, _ in list(self.replicas)], since, until))

    def was_ready(self, since: float = 0.0, until: float = float("inf")) -> bool:
        """Whether the condition Ready was True all the time."""
        return set(_within([(at, status) for at, _, status in list(self.replicas)], since, until)) == {"True"}

    def take_pods(self, pods: Iterable[Object]) -> None:
        """Note the pods as they are now."""
        label = names.serve_label(self.model)
        serving = [
            each
            for each in pods
            if each["metadata"]["labels"].get(label) == EngineState.READY
            and "deletionTimestamp" not in each["metadata"]
            and is_ready(each)
        ]
        nodes = tuple(sorted(each["spec"]["nodeName"] for each in serving))
        self.pods.append(Sight(time.monotonic(), len(serving), nodes))

    def take_models(self, models: Iterable[Object]) -> None:
        """Note the model as it is now."""
        for each in models:
            if each["metadata"]["name"] == self.model:
                status = each.get("status", {})
                conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
                ready = conditions.get("Ready", "Unknown")
                self.replicas.append((time.monotonic(), status.get("readyReplicas", 0), ready))


@contextlib.contextmanager
def watching(namespace: Namespace, *models: str) -> Iterator[dict[str, ReadyWatch]]:
    """Watch models while the context is open; they serve when it is opened."""
    watches = {model: ReadyWatch(namespace, model) for model in models}

    def take_pods(pods: Iterable[Object]) -> None:
        for each in watches.values():
            each.take_pods(pods)

    def take_models(found: Iterable[Object]) -> None:
        for each in watches.values():
            each.take_models(found)

    runners = following(namespace.api, f"{namespace.core_path}/pods", take_pods, labelSelector=names.LABEL_RUNNER)
    with runners, following(namespace.api, namespace.models_path, take_models):
        deadline = time.monotonic() + BEGIN_SECONDS
        while not all(each.pods and each.replicas for each in watches.values()):
            assert time.monotonic() < deadline, f"nothing is seen of {', '.join(models)}"
            time.sleep(0.05)
        yield watches


@contextlib.contextmanager
def following(api: KubeApi, path: str, take: Callable[[Iterable[Object]], None], **query: str) -> Iterator[None]:
    """Tell of the objects of a collection at each of their changes while the context is open, from a thread."""
    ending = threading.Event()
    thread = threading.Thread(target=_follow, args=(api, path, take, query, ending), name=f"watch of {path}")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(3 * WATCH_SECONDS)


def _follow(
    api: KubeApi,
    path: str,
    take: Callable[[Iterable[Object]], None],
    query: Mapping[str, str],
    ending: threading.Event,
) -> None:
    while not ending.is_set():
        with contextlib.suppress(ApiError, OSError, json.JSONDecodeError):
            found, version = api.list_from(path, **query)
            known = {each["metadata"]["uid"]: each for each in found}
            take(known.values())
            while not ending.is_set():
                for event in api.watch(path, version, WATCH_SECONDS, **query):
                    metadata = event["object"]["metadata"]
                    version = metadata["resourceVersion"]
                    if event["type"] == "DELETED":
                        known.pop(metadata["uid"], None)
                    else:
                        known[metadata["uid"]] = event["object"]
                    take(known.values())


def _within(seen: Iterable[tuple[float, Seen]], since: float, until: float) -> list[Seen]:
    """Return what was so in a span: what was seen last before it, and all that was seen in it."""
    listed = list(seen)
    before = [value for at, value in listed if at <= since][-1:]
    return [*before, *(value for at, value in listed if since < at < until)]
