"""`make bench-rolling`: everything behind and in front of the routers is replaced while 100 requests come a second.

Runners by a rollout and by `kubectl delete pod`, one after the other; then a router, gracefully and by SIGKILL; real
vLLM with fewer requests. At last the control: runners that are killed instead of drained, which has to lose streams.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from rich.console import Console

from bench.phases import CALM_SECONDS, Phases, Progress, report
from bench.traffic import Summary, mixed, traffic, wait_answered
from support.cluster import REPOSITORY, Cluster
from support.front_door import kill_process, router_pods, service_address, wait_routers
from support.models import simulated, vllm
from support.namespace import Namespace, new_name, settled
from support.real_cluster import model_folder, operator_log, real_cluster
from warmfleet_api import names

RESULT = REPOSITORY / "build" / "bench" / "rolling.json"
REPLICAS = 3
TOKENS = 12
WAIT_SECONDS = 300
VLLM_SECONDS = 900
"""Two engines start at once, on what the routers and everything else leave of the cores."""
KILLED_SECONDS = 60
"""Requests of a whole minute count to the death of a router: what comes while its address still counts is lost."""
KILLED_SUCCESS = 0.99
REPLACED = "runners replaced"
DELETED = "a router deleted"
KILLED = "a router killed"
CONTROL = "control: runners killed"
REAL = "real vLLM: runners deleted"
console = Console(width=120)


def roll_out(namespace: Namespace, model: str, number: int) -> None:
    """Change the template of the model's runners, and wait until only new ones are left."""
    former = {each["metadata"]["uid"] for each in namespace.runners(model)}
    environment = [{"name": "ROLLED", "value": str(number)}]
    namespace.change(model, engine={"env": environment})

    def replaced() -> bool:
        present = {each["metadata"]["uid"] for each in namespace.runners(model)}
        return settled(namespace.model(model)) and not present & former

    namespace.wait("only new runners", replaced, WAIT_SECONDS)


def delete_one_by_one(namespace: Namespace, model: str, within: float = WAIT_SECONDS) -> None:
    """Delete each runner as people do, and wait for the next one until the model has all replicas again."""
    for runner in namespace.runners(model):
        namespace.kubectl("delete", "pod", runner["metadata"]["name"], bound_seconds=within)
        wait_whole(namespace, model, within)


def kill_one_by_one(namespace: Namespace, model: str) -> None:
    """Kill each runner without a word to it."""
    for runner in namespace.runners(model):
        kill_process(runner, "warmfleet_runtime")
        time.sleep(CALM_SECONDS)
        wait_whole(namespace, model)


def wait_whole(namespace: Namespace, model: str, within: float = WAIT_SECONDS) -> None:
    """Wait until the model has all its replicas."""
    namespace.wait_ready(model, within=within)


def delete_router(cluster: Cluster) -> None:
    """Delete one router as a node drain does."""
    name = router_pods(cluster)[0]["metadata"]["name"]
    cluster.kubectl("--namespace", names.SYSTEM_NAMESPACE, "delete", "pod", name, "--wait=false")
    time.sleep(CALM_SECONDS)
    wait_routers(cluster, WAIT_SECONDS)


def kill_router(cluster: Cluster) -> None:
    """Kill one router without a word to it."""
    killed_at = time.monotonic()
    kill_process(router_pods(cluster)[0], "warmfleet_router")
    time.sleep(CALM_SECONDS)
    wait_routers(cluster, WAIT_SECONDS)
    time.sleep(max(0.0, killed_at + KILLED_SECONDS - CALM_SECONDS - time.monotonic()))


def run_simulated(cluster: Cluster, namespace: Namespace, rate: float, requests: int) -> dict[str, Summary]:
    """Replace runners and routers under the whole rate."""
    behaviour = {"loadMilliseconds": 200, "firstTokenMilliseconds": 20, "tokensPerSecond": 100}
    model = simulated("steady", replicas=REPLICAS)
    model["spec"]["engine"]["simulated"] |= behaviour
    namespace.apply(model)
    wait_whole(namespace, "steady")
    arrivals = mixed(f"{namespace.name}/steady", rate, tokens=TOKENS)
    showing = Progress(console, "simulated engines")
    with traffic(service_address(cluster), names.SERVICE_PORT, arrivals, showing) as seen:
        phases = Phases(seen, console)
        wait_answered(seen, 10, WAIT_SECONDS)
        with phases.phase(REPLACED):
            for number in count():
                roll_out(namespace, "steady", number)
                delete_one_by_one(namespace, "steady")
                if len(seen.ended) >= requests:
                    break
        with phases.phase(DELETED):
            delete_router(cluster)
        with phases.phase(KILLED):
            kill_router(cluster)
        with phases.phase(CONTROL):
            kill_one_by_one(namespace, "steady")
    return phases.summaries()


def run_vllm(cluster: Cluster, namespace: Namespace, models: Path, rate: float) -> dict[str, Summary]:
    """Replace two runners with real vLLM, one after the other."""
    namespace.apply(vllm("real", f"{models}/tiny-llama", replicas=2))
    wait_whole(namespace, "real", VLLM_SECONDS)
    arrivals = mixed(f"{namespace.name}/real", rate, tokens=TOKENS)
    with traffic(service_address(cluster), names.SERVICE_PORT, arrivals, Progress(console, "real vLLM")) as seen:
        phases = Phases(seen, console)
        wait_answered(seen, 4, WAIT_SECONDS)
        with phases.phase(REAL):
            delete_one_by_one(namespace, "real", VLLM_SECONDS)
    return phases.summaries()


def main() -> int:
    """Bring a cluster up, measure, write and print the figures."""
    arguments = argparse.ArgumentParser(prog="bench.rolling", description=__doc__.splitlines()[0])
    arguments.add_argument("--requests", type=int, default=10_000, help="while runners are replaced, at least")
    arguments.add_argument("--rate", type=float, default=100.0, help="requests a second")
    arguments.add_argument("--vllm-rate", type=float, default=4.0, help="of those to real vLLM; 0: leave that out")
    chosen = arguments.parse_args()
    with model_folder("bench-rolling") as models, real_cluster("bench-rolling", models) as cluster:
        namespace = Namespace(cluster, new_name("rolling"), lambda: operator_log(cluster))
        namespace.create()
        try:
            found = run_simulated(cluster, namespace, chosen.rate, chosen.requests)
            namespace.remove("steady")
            if chosen.vllm_rate:
                try:
                    found |= run_vllm(cluster, namespace, models, chosen.vllm_rate)
                except AssertionError as error:
                    console.print(f"{REAL}: {error}", soft_wrap=True)  # what was measured before is told all the same
        finally:
            namespace.delete()
    title = f"{chosen.rate:g} requests a second, three of four streams"
    settings = {"rate_per_second": chosen.rate, "vllm_rate_per_second": chosen.vllm_rate, "replicas": REPLICAS}
    broken = broken_promises(found, chosen.requests)
    if chosen.vllm_rate and REAL not in found:
        broken.append(f"{REAL}: not measured")
    for each in broken:
        console.print(f"does not hold: {each}")
    report(console, RESULT, title, found, settings)
    return 1 if broken else 0


def broken_promises(found: Mapping[str, Summary], requests: int) -> list[str]:
    """Return what does not hold of what is promised, in words."""
    lossless = [name for name in (REPLACED, DELETED, REAL) if name in found]
    broken = [f"{name}: {found[name].lost} of {found[name].requests} lost" for name in lossless if found[name].lost]
    if found[REPLACED].requests < requests:
        broken.append(f"{REPLACED}: only {found[REPLACED].requests} of {requests} requests were sent")
    if found[KILLED].success < KILLED_SUCCESS:
        broken.append(f"{KILLED}: {found[KILLED].success:.3%} answered")
    if not found[CONTROL].lost:
        broken.append(f"{CONTROL}: none lost, so the others say nothing")
    return broken


if __name__ == "__main__":
    sys.exit(main())
