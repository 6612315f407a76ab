"""Which runners are played: those of pods that have an address in the range, on nodes that exist."""

import ipaddress
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from warmfleet_api import names, quantity
from warmfleet_api.runner_status import StartRecord
from warmfleet_http.asgi import AsgiHandler
from warmfleet_runtime.front import replies
from warmfleet_runtime.front.api import LIMITS
from warmfleet_runtime.front.feed import Feed
from warmfleet_runtime.front.metrics import RequestMetrics
from warmfleet_runtime.player.played_runner import PlayedRunner
from warmfleet_runtime.player.watch import Watched

BEATS = 10
"""Parts of a second over which the heartbeats of all streams are spread."""
_log = logging.getLogger("player")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Resources(msgspec.Struct, frozen=True):
    limits: Mapping[str, str | int] = {}


class _Container(msgspec.Struct, frozen=True):
    name: str = ""
    resources: _Resources = _Resources()


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""
    containers: tuple[_Container, ...] = ()


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    pod_ip: str = msgspec.field(default="", name="podIP")
    phase: str = ""


class RunnerPod(Watched, frozen=True):
    """What the player reads of a runner's pod."""

    spec: _Spec = _Spec()
    status: _Status = _Status()


class Fleet:
    """All played runners, by pod and by address."""

    def __init__(self, network: Network, metrics: RequestMetrics) -> None:
        self._network = network
        self._metrics = metrics
        self._nodes: set[str] = set()
        self._pods: dict[str, RunnerPod] = {}
        self._pods_of_node: defaultdict[str, set[str]] = defaultdict(set)
        self._runners: dict[str, PlayedRunner] = {}
        # Each keeps its part for life: by its place among all, one that others keep leaving might never be called.
        self._beaten: tuple[dict[str, PlayedRunner], ...] = tuple({} for _ in range(BEATS))
        self._by_address: dict[str, str] = {}

    def node_seen(self, node: Watched) -> None:
        """A node exists."""
        name = node.metadata.name
        if name not in self._nodes:
            self._nodes.add(name)
            self._converge_node(name)

    def node_gone(self, node: Watched) -> None:
        """A node is gone, and its runners with it, whatever the API still says of their pods."""
        self._nodes.discard(node.metadata.name)
        self._converge_node(node.metadata.name)

    def pod_seen(self, pod: RunnerPod) -> None:
        """A pod is as given."""
        if pod.status.pod_ip and ipaddress.ip_address(pod.status.pod_ip) in self._network:
            if former := self._pods.get(pod.metadata.uid):
                self._free_address(former)
            self._pods[pod.metadata.uid] = pod
            self._pods_of_node[pod.spec.node_name].add(pod.metadata.uid)
            self._converge(pod)

    def pod_gone(self, pod: RunnerPod) -> None:
        """A pod is gone."""
        uid = pod.metadata.uid
        if known := self._pods.pop(uid, None):
            self._pods_of_node[known.spec.node_name].discard(uid)
            self._end(known)

    def beat(self, part: int) -> None:
        """Give one of `BEATS` parts of all status streams their heartbeat."""
        for runner in tuple(self._beaten[part].values()):
            runner.beat()

    def find_feed(self, scope: Scope) -> Feed | None:
        """Return the status feed of the runner whose address was called."""
        runner = self._find(scope)
        return runner.board.feed if runner else None

    def find_starts(self, scope: Scope) -> Sequence[StartRecord] | None:
        """Return the last starts of the runner whose address was called."""
        runner = self._find(scope)
        return runner.board.table.starts if runner else None

    async def api(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an API request in place of the runner whose address was called."""
        runner = self._find(scope)
        if runner:
            await AsgiHandler(runner.api, LIMITS)(scope, receive, send)
        else:
            await replies.reply_bad_request(send, "no runner has this address", "not_found", 404)

    def close(self) -> None:
        """End all runners."""
        for pod in tuple(self._pods.values()):
            self._end(pod)

    def _find(self, scope: Scope) -> PlayedRunner | None:
        server: tuple[Any, ...] = scope["server"]
        uid = self._by_address.get(str(server[0]))
        return self._runners.get(uid) if uid else None

    def _converge_node(self, name: str) -> None:
        for uid in tuple(self._pods_of_node[name]):
            self._converge(self._pods[uid])

    def _converge(self, pod: RunnerPod) -> None:
        metadata = pod.metadata
        if pod.spec.node_name not in self._nodes or pod.status.phase in {"Succeeded", "Failed"}:
            self._end(pod)
            return
        runner = self._runners.get(metadata.uid)
        if runner is None:
            if metadata.deletion_timestamp:
                return
            runner = PlayedRunner(metadata.uid, _memory_limit_bytes(pod), self._metrics)
            self._runners[metadata.uid] = runner
            min(self._beaten, key=len)[metadata.uid] = runner
            _log.info("playing %s/%s at %s", metadata.namespace, metadata.name, pod.status.pod_ip)
        # The player of the nodes may give a pod another address: two events of it that race get one each.
        self._by_address[pod.status.pod_ip] = metadata.uid
        if metadata.deletion_timestamp:
            runner.terminate()
        else:
            runner.assign(metadata.annotations.get(names.ANNOTATION_ASSIGNMENT, ""))

    def _end(self, pod: RunnerPod) -> None:
        uid = pod.metadata.uid
        if runner := self._runners.pop(uid, None):
            runner.close()
            for part in self._beaten:
                part.pop(uid, None)
            _log.info("%s/%s is gone", pod.metadata.namespace, pod.metadata.name)
        self._free_address(pod)

    def _free_address(self, pod: RunnerPod) -> None:
        # It may have been given to another pod by now.
        if self._by_address.get(pod.status.pod_ip) == pod.metadata.uid:
            del self._by_address[pod.status.pod_ip]


def _memory_limit_bytes(pod: RunnerPod) -> int:
    limits = (each.resources.limits for each in pod.spec.containers if each.name == names.RUNNER_CONTAINER)
    return next((quantity.to_bytes(each["memory"]) for each in limits if "memory" in each), 0)
