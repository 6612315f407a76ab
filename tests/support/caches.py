"""The weight store of a whole cluster: its WeightCache, the NodeCaches of its nodes, and the agents that fill them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families

from support.cluster import Cluster
from support.kubeapi import MDL, Object
from support.waiting import wait_for
from warmfleet_api import names
from warmfleet_api.weight_cache import DEFAULT_CACHE

CACHED_SECONDS = 90
AGENT_SECONDS = 90
_open = build_opener(ProxyHandler({})).open


class Caches:
    """The WeightCache `default` and all that follows from it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    @property
    def path(self) -> str:
        """Path of the WeightCache."""
        return f"{MDL}/{names.WEIGHT_CACHE_PLURAL}/{DEFAULT_CACHE}"

    def change(self, **spec: Any) -> None:
        """Merge fields into the spec of the WeightCache."""
        self.cluster.api.merge(self.path, {"spec": spec})

    def wait_ready(self) -> None:
        """Wait until the agents of all nodes work as the present spec says."""
        agents = f"namespaces/{names.AGENT_NAMESPACE}"
        selected = {"labelSelector": "app.kubernetes.io/component=agent"}

        def ready() -> bool:
            found = self.cluster.api.get(self.path)
            if found is None:
                return False
            status = found.get("status", {})
            conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
            if status.get("observedGeneration") != found["metadata"]["generation"] or conditions.get("Ready") != "True":
                return False
            sets = self.cluster.api.list(f"apis/apps/v1/{agents}/daemonsets", **selected)
            pods = self.cluster.api.list(f"api/v1/{agents}/pods", **selected)
            hashes = {each["spec"]["template"]["metadata"]["labels"][names.LABEL_TEMPLATE_HASH] for each in sets}
            return {each["metadata"]["labels"][names.LABEL_TEMPLATE_HASH] for each in pods} == hashes

        wait_for("the agents work", ready, AGENT_SECONDS, self.explain)

    @contextmanager
    def preloaded(self, uris: Mapping[str, str], *, bytes_per_second: str | None = None) -> Iterator[None]:
        """Have all nodes keep models (uri by name) in memory while the context is open."""
        models = [{"name": name, "uri": uri} for name, uri in uris.items()]
        self.change(models=models, fetch={"bytesPerSecond": bytes_per_second})
        try:
            yield
        finally:
            self.change(models=[], fetch={"bytesPerSecond": None})

    # Nodes ----------------------------------------------------------------------------------------------------------

    def nodes(self) -> dict[str, Object]:
        """Return the NodeCaches by node."""
        found = self.cluster.api.list(f"{MDL}/{names.NODE_CACHE_PLURAL}")
        return {each["metadata"]["name"]: each for each in found}

    def entries(self, uri: str) -> dict[str, Object]:
        """Return what each node has of a uri at its revision, by node; nodes that were not told of it are left out."""
        found = {}
        for node, cache in self.nodes().items():
            wanted = {
                entry["key"]
                for entry in cache["spec"].get("entries", [])
                if entry["uri"] == uri and entry.get("revision")
            }
            for entry in cache.get("status", {}).get("entries", []):
                if entry["key"] in wanted:
                    found[node] = entry
        return found

    def in_memory(self, uri: str) -> set[str]:
        """Return the nodes that have a uri in memory."""
        return {
            node
            for node, entry in self.entries(uri).items()
            if (entry["tier"], entry["state"]) == ("Memory", "Present")
        }

    def wait_in_memory(self, uri: str, nodes: int, within: float = CACHED_SECONDS) -> set[str]:
        """Wait until so many nodes have a uri in memory, and return them."""

        def holders() -> set[str] | None:
            found = self.in_memory(uri)
            return found if len(found) >= nodes else None

        return wait_for(f"{uri} in memory of {nodes} nodes", holders, within, self.explain)

    def wait_problem(self, uri: str, reason: str, within: float = CACHED_SECONDS) -> str:
        """Wait until a node says why it can't have a uri, and return its words."""

        def message() -> str | None:
            for cache in self.nodes().values():
                keys = {entry["key"] for entry in cache["spec"].get("entries", []) if entry["uri"] == uri}
                for entry in cache.get("status", {}).get("entries", []):
                    error = entry.get("error")
                    if entry["key"] in keys and error and error["reason"] == reason:
                        words: str = error["message"]
                        return words
            return None

        return wait_for(f"{uri} has the problem {reason}", message, within, self.explain)

    # Agents ---------------------------------------------------------------------------------------------------------

    def agent(self, node: str) -> Object:
        """Return the agent's pod of a node."""

        def pod() -> Object | None:
            pods = self.cluster.api.list(
                f"api/v1/namespaces/{names.AGENT_NAMESPACE}/pods", labelSelector="app.kubernetes.io/component=agent"
            )
            here = [each for each in pods if each["spec"].get("nodeName") == node]
            running = [each for each in here if each["status"].get("phase") == "Running"]
            return running[0] if running and "deletionTimestamp" not in running[0]["metadata"] else None

        return wait_for(f"the agent of {node}", pod, AGENT_SECONDS, self.explain)

    def kill_agent(self, node: str) -> None:
        """Kill the agent of a node: no signal it could handle comes first."""
        self.cluster.kubectl(
            *("--namespace", names.AGENT_NAMESPACE, "delete", "pod", self.agent(node)["metadata"]["name"]),
            *("--force", "--grace-period=0"),
        )

    def restart_agent(self, node: str) -> None:
        """End the agent of a node and wait until its successor works."""
        former = self.agent(node)["metadata"]["uid"]
        self.cluster.kubectl(
            "--namespace", names.AGENT_NAMESPACE, "delete", "pod", self.agent(node)["metadata"]["name"]
        )

        def works() -> bool:
            pod = self.agent(node)
            return pod["metadata"]["uid"] != former and any(
                each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", [])
            )

        wait_for(f"another agent of {node} works", works, AGENT_SECONDS, self.explain)

    def transfers(self, node: str) -> dict[str, Object]:
        """Return what the agent of a node fetches, by key; nothing while it does not answer."""
        address = self.agent(node)["status"].get("podIP")
        try:
            with _open(f"http://{address}:{names.AGENT_PORT}{names.PATH_STATUS}", timeout=3) as answer:
                told = json.load(answer)
        except OSError:
            return {}
        return {each["key"]: each for each in told.get("transfers", [])}

    def metric(self, node: str, name: str, **labels: str) -> float:
        """Return the sum of an agent's samples of that name which have these labels."""
        address = self.agent(node)["status"]["podIP"]
        with _open(f"http://{address}:{names.AGENT_PORT}{names.PATH_METRICS}", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = (sample for family in families for sample in family.samples)
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    def files(self, node: str, *folder: str) -> str:
        """Return what lies below a folder of a node's memory tier, with inodes."""
        spec = self.nodes()[node]["spec"]
        place = "/".join((spec["memory"]["path"], *folder))
        pod = self.agent(node)["metadata"]["name"]
        script = f"find {place} -type f -printf '%i %s %P\\n' | sort -k3"
        return self.cluster.kubectl("--namespace", names.AGENT_NAMESPACE, "exec", pod, "--", "sh", "-c", script)

    def explain(self) -> str:
        """Return what a person would look at."""
        parts = [
            self.cluster.kubectl("get", "weightcaches,nodecaches", "-o", "wide"),
            self.cluster.kubectl("--namespace", names.AGENT_NAMESPACE, "get", "pods,daemonsets", "-o", "wide"),
            self.cluster.kubectl(
                *("--namespace", names.AGENT_NAMESPACE, "logs", "--prefix", "--tail=20"),
                *("--selector", "app.kubernetes.io/component=agent"),
            ),
        ]
        for node, cache in self.nodes().items():
            parts.append(f"{node}: {json.dumps(cache['spec'].get('entries', []))}")
            parts.append(f"{node}: {json.dumps(cache.get('status', {}).get('entries', []))}")
        return "\n".join(parts)
