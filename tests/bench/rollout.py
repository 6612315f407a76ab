"""`make bench-rollout`: a model is changed while 100 requests come a second, and somebody counts who is Ready.

Changed specs one after the other; a change that is tried with a tenth of the requests, and taken back; changes that
crash and that hang, beside which the former spec serves on; the former object applied again. At last real vLLM: another
revision of the weights, which may take the former one's place only where its weights are already. The control is a
changed spec whose former runners are killed instead of drained, which has to lose streams.
"""

import argparse
import json
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from rich.console import Console

from bench import figures
from bench.phases import CALM_SECONDS, Phases, Progress, report
from bench.rolling import roll_out, wait_whole
from bench.traffic import Summary, mixed, traffic, wait_answered
from support.cluster import REPOSITORY, Cluster
from support.front_door import kill_process, service_address
from support.kubeapi import MDL, Object
from support.models import simulated, vllm
from support.namespace import Namespace, new_name
from support.ready_watch import ReadyWatch, following, watching
from support.real_cluster import model_folder, operator_log, real_cluster
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState

RESULT = REPOSITORY / "build" / "bench" / "rollout.json"
MODEL = "changed"
REPLICAS = 3
WEIGHT = 10
WEIGHT_MARGIN = 2
"""Percentage points by which the share of a canary may differ."""
CANARY_REQUESTS = 2000
TOKENS = 12
WAIT_SECONDS = 300
HANG_SECONDS = 20
"""rollout.progressDeadlineSeconds of the change that hangs."""
LOOK_SECONDS = 0.02
CHANGED = "spec changes"
TRIED = "canary"
TAKEN_BACK = "canary taken back"
CRASHES = "a change that crashes"
HANGS = "a change that hangs"
ROLLED_BACK = "former object applied again"
REVISION = "real vLLM: another revision"
CONTROL = "control: changed without drain"
LOSSLESS = (CHANGED, TRIED, TAKEN_BACK, CRASHES, HANGS, ROLLED_BACK, REVISION)
BEHAVIOUR = {"loadMilliseconds": 200, "firstTokenMilliseconds": 20, "tokensPerSecond": 20}
"""Streams of up to 2.4 s: whoever kills a runner that drains finds some under way."""
console = Console()
_open = build_opener(ProxyHandler({})).open


@dataclass(frozen=True, slots=True)
class Served:
    """How many served in one phase, beside what was promised."""

    phase: str
    promised: int
    least_serving: int
    """Pods that the Service selects, as a watch of the pods saw them."""
    least_ready_replicas: int
    """`status.readyReplicas`, as a watch of the object saw it."""
    ready_all_the_time: bool
    """The condition Ready."""


@dataclass
class Findings:
    """What was found beside the requests."""

    served: list[Served]
    seconds: dict[str, float]
    """How long things took."""
    said: dict[str, str]
    """What the object said of changes that do not start."""
    canary_percent: float = 0.0
    kept_runners: bool = False
    """Whether runners that served before a bad change serve after it was taken back."""
    weights_first: bool = False
    """Whether each former engine went after the new weights were in memory of its node."""


class Run:
    """One model under requests, and who serves it."""

    def __init__(self, namespace: Namespace, phases: Phases, ready: ReadyWatch, found: Findings) -> None:
        self.namespace = namespace
        self.phases = phases
        self.ready = ready
        self.found = found

    @contextmanager
    def phase(self, name: str, promised: int) -> Iterator[None]:
        """Count requests and replicas to this phase while the context is open."""
        with self.phases.phase(name):
            yield
        span = self.phases.spans[name]
        ready = self.ready
        seen = ready.least_serving(*span), ready.least_replicas(*span), ready.was_ready(*span)
        self.found.served.append(Served(name, promised, *seen))
        self.found.seconds[f"{name.replace(':', '').replace(' ', '_')}_seconds"] = round(
            span[1] - span[0] - CALM_SECONDS, 1
        )
        console.print(f"    least serving {seen[0]} of {promised} promised")


def model_object(**fields: Any) -> Object:
    """Return the model as it is applied first, with further fields of its spec."""
    made = simulated(MODEL, replicas=REPLICAS, **fields)
    made["spec"]["engine"]["simulated"] |= BEHAVIOUR
    return made


def change_until(run: Run, requests: int) -> None:
    """Change the spec again and again, each time until only new runners are left."""
    with run.phase(CHANGED, REPLICAS):
        for number in count():
            roll_out(run.namespace, MODEL, number)
            if len(run.phases.seen.ended) >= requests:
                return


def try_a_change(run: Run) -> None:
    """Try a change with a share of the requests, measure the share, and take it back."""
    namespace = run.namespace
    stable = model_object()
    namespace.apply(stable)
    settle(namespace)
    tried = model_object(rollout={"canaryWeight": WEIGHT})
    tried["spec"]["engine"]["simulated"]["tokensPerSecond"] += 1
    with run.phase(TRIED, REPLICAS):
        namespace.apply(tried)
        namespace.wait_condition(MODEL, "Reconciling", "False", "Canary", within=WAIT_SECONDS)
        canary = namespace.model(MODEL)["status"]["rollout"]["canaryHash"]
        run.found.canary_percent = round(share_of(run, canary), 2)
    with run.phase(TAKEN_BACK, REPLICAS):
        namespace.apply(stable)
        namespace.wait("the canary is gone", lambda: canary not in hashes(namespace).values(), WAIT_SECONDS)
    console.print(f"    the canary got {run.found.canary_percent:g} % of the requests")


def share_of(run: Run, hash_: str) -> float:
    """Return how many percent of the requests engines of that hash get, as their runners count them."""
    # Routers hear of a new engine by their own watches.
    time.sleep(CALM_SECONDS)
    before, ended = requests_by_runner(run.namespace), len(run.phases.seen.ended)
    wait_answered(run.phases.seen, ended + CANARY_REQUESTS, WAIT_SECONDS)
    after, whose = requests_by_runner(run.namespace), hashes(run.namespace)
    got: Counter[str] = Counter()
    for uid, requests in after.items():
        got[whose[uid]] += requests - before.get(uid, 0)
    return 100.0 * got[hash_] / got.total()


def requests_by_runner(namespace: Namespace) -> dict[str, int]:
    """Return how many requests came for the engine of each runner so far, by the pod's uid."""
    found = {}
    for runner in namespace.runners(MODEL):
        with _open(f"http://{runner['status']['podIP']}:{names.STATUS_PORT}/v1/status", timeout=10) as answer:
            status = json.load(answer)
        found[runner["metadata"]["uid"]] = sum(each.get("requests", 0) for each in status["engines"])
    return found


def hashes(namespace: Namespace) -> dict[str, str]:
    """Return the template hash of each runner that does not end, by the pod's uid."""
    return {
        each["metadata"]["uid"]: each["metadata"]["labels"][names.LABEL_TEMPLATE_HASH]
        for each in namespace.runners(MODEL)
        if "deletionTimestamp" not in each["metadata"]
    }


def break_it(run: Run) -> None:
    """Apply changes that never start, and then the former object again."""
    namespace = run.namespace
    before = hashes(namespace)
    for name, fault, reason in (
        (CRASHES, "CrashAtStart", "EngineCrashing"),
        (HANGS, "HangAtStart", "ProgressDeadlineExceeded"),
    ):
        broken = model_object(rollout={"progressDeadlineSeconds": HANG_SECONDS})
        broken["spec"]["engine"]["simulated"]["fault"] = {"kind": fault}
        with run.phase(name, REPLICAS):
            namespace.apply(broken)
            said = namespace.wait_condition(MODEL, "Stalled", "True", within=WAIT_SECONDS)
            run.found.said[name] = f"{said['reason']}: {said['message']}"
        assert said["reason"] == reason, said
    with run.phase(ROLLED_BACK, REPLICAS):
        namespace.apply(model_object())
        namespace.wait("the bad change is gone", lambda: hashes(namespace).keys() == before.keys(), WAIT_SECONDS)
        settle(namespace)
    run.found.kept_runners = hashes(namespace) == before


def settle(namespace: Namespace) -> None:
    """Wait until the model has all replicas of its present spec, and nothing else is left."""
    wait_whole(namespace, MODEL)
    namespace.wait("one spec is left", lambda: len(set(hashes(namespace).values())) == 1, WAIT_SECONDS)


def change_without_drain(run: Run) -> None:
    """Change the spec once more; each former runner is killed as soon as it takes no more requests."""
    with run.phase(CONTROL, REPLICAS), killing_leavers(run.namespace):
        roll_out(run.namespace, MODEL, 10_000)


@contextmanager
def killing_leavers(namespace: Namespace) -> Iterator[None]:
    """Kill every runner that is to drain, while the context is open: by its label, for when it is deleted it has."""
    ending = threading.Event()
    killed: set[str] = set()

    def kill() -> None:
        while not ending.wait(LOOK_SECONDS):
            for runner in namespace.runners(MODEL):
                metadata = runner["metadata"]
                drains = metadata["labels"].get(names.serve_label(MODEL)) == EngineState.DRAINING
                if (drains or "deletionTimestamp" in metadata) and metadata["uid"] not in killed:
                    killed.add(metadata["uid"])
                    kill_process(runner, "warmfleet_runtime")

    thread = threading.Thread(target=kill, name="killer")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(WAIT_SECONDS)
    assert killed, "no runner drained"


def run_simulated(cluster: Cluster, namespace: Namespace, rate: float, requests: int) -> tuple[Findings, Phases]:
    """Change a model of Simulated engines under the whole rate."""
    namespace.apply(model_object())
    wait_whole(namespace, MODEL)
    arrivals = mixed(f"{namespace.name}/{MODEL}", rate, tokens=TOKENS)
    found = Findings([], {}, {})
    with (
        watching(namespace, MODEL) as ready,
        traffic(service_address(cluster), names.SERVICE_PORT, arrivals, Progress(console, "changes")) as seen,
    ):
        run = Run(namespace, Phases(seen, console), ready[MODEL], found)
        wait_answered(seen, 10, WAIT_SECONDS)
        change_until(run, requests)
        try_a_change(run)
        break_it(run)
        change_without_drain(run)
    return found, run.phases


def run_vllm(cluster: Cluster, namespace: Namespace, models: Path, rate: float, found: Findings) -> Phases:
    """Have another revision take the place of the former one, where its weights are; real vLLM, two replicas."""
    second = models / "tiny-llama-2"
    shutil.copytree(models / "tiny-llama", second)
    rollout = {"maxSurge": 0, "maxUnavailable": 1}
    namespace.apply(vllm(MODEL, f"{models}/tiny-llama", replicas=2, rollout=rollout))
    wait_whole(namespace, MODEL)
    arrivals = mixed(f"{namespace.name}/{MODEL}", rate, tokens=TOKENS)
    with (
        watching(namespace, MODEL) as ready,
        traffic(service_address(cluster), names.SERVICE_PORT, arrivals, Progress(console, REVISION)) as seen,
    ):
        run = Run(namespace, Phases(seen, console), ready[MODEL], found)
        wait_answered(seen, 4, WAIT_SECONDS)
        former = {each["metadata"]["uid"]: each["spec"]["nodeName"] for each in namespace.runners(MODEL)}
        with run.phase(REVISION, 1), going(namespace, f"file://{second}") as told:
            namespace.change(MODEL, model={"uri": f"file://{second}"})
            settle(namespace)
        found.weights_first = told.in_order(former)
    return run.phases


@dataclass
class Told:
    """What the API server told in which order, by its resource versions."""

    near: dict[str, int] = field(default_factory=dict)
    """Node → version at which it had weights in memory first."""
    gone: dict[str, int] = field(default_factory=dict)
    """UID of a runner's pod → version at which it was told to end."""

    def in_order(self, former: dict[str, str]) -> bool:
        """Whether each former runner was told to end after its node had the weights; `former` has nodes by uid."""
        unknown = sys.maxsize
        return all(self.near.get(node, unknown) < self.gone.get(uid, 0) for uid, node in former.items())


@contextmanager
def going(namespace: Namespace, uri: str) -> Iterator[Told]:
    """Note when nodes have the weights of `uri` in memory, and when runners are told to end."""
    told = Told()

    def take_caches(nodes: Iterable[Object]) -> None:
        for node in nodes:
            keys = {each["key"] for each in node["spec"].get("entries", []) if each["uri"] == uri}
            for each in node.get("status", {}).get("entries", []):
                if each["key"] in keys and (each["tier"], each["state"]) == ("Memory", "Present"):
                    told.near.setdefault(node["metadata"]["name"], int(node["metadata"]["resourceVersion"]))

    def take_pods(pods: Iterable[Object]) -> None:
        for pod in pods:
            if "deletionTimestamp" in pod["metadata"]:
                told.gone.setdefault(pod["metadata"]["uid"], int(pod["metadata"]["resourceVersion"]))

    api, pods = namespace.api, f"{namespace.core_path}/pods"
    with following(api, f"{MDL}/{names.NODE_CACHE_PLURAL}", take_caches), following(api, pods, take_pods):
        yield told


def main() -> int:
    """Bring a cluster up, measure, write and print the figures."""
    arguments = argparse.ArgumentParser(prog="bench.rollout", description=__doc__.splitlines()[0])
    arguments.add_argument("--requests", type=int, default=10_000, help="while specs are changed, at least")
    arguments.add_argument("--rate", type=float, default=100.0, help="requests a second")
    arguments.add_argument("--vllm-rate", type=float, default=2.0, help="of those to real vLLM; 0: leave that out")
    chosen = arguments.parse_args()
    with model_folder("bench-rollout") as models, real_cluster("bench-rollout", models) as cluster:
        namespace = Namespace(cluster, new_name("rollout"), lambda: operator_log(cluster))
        namespace.create()
        try:
            found, phases = run_simulated(cluster, namespace, chosen.rate, chosen.requests)
            summaries = phases.summaries()
            namespace.remove(MODEL)
            namespace.wait("the first model is gone", lambda: not namespace.runners(), WAIT_SECONDS)
            if chosen.vllm_rate:
                summaries |= run_vllm(cluster, namespace, models, chosen.vllm_rate, found).summaries()
        finally:
            namespace.delete()
    broken = broken_promises(found, summaries, chosen.requests)
    tell(found, summaries, broken, {"rate_per_second": chosen.rate, "vllm_rate_per_second": chosen.vllm_rate})
    return 1 if broken else 0


def broken_promises(found: Findings, summaries: dict[str, Summary], requests: int) -> list[str]:
    """Return what does not hold of what is promised, in words."""
    lossless = [name for name in LOSSLESS if name in summaries]
    broken = [f"{name}: {summaries[name].lost} lost" for name in lossless if summaries[name].lost]
    if summaries[CHANGED].requests < requests:
        broken.append(f"{CHANGED}: only {summaries[CHANGED].requests} of {requests} requests were sent")
    broken += [
        f"{each.phase}: {each.least_serving} of {each.promised} promised served, Ready {each.ready_all_the_time}"
        for each in found.served
        if each.phase in LOSSLESS and (each.least_serving < each.promised or not each.ready_all_the_time)
    ]
    if abs(found.canary_percent - WEIGHT) > WEIGHT_MARGIN:
        broken.append(f"{TRIED}: {found.canary_percent} % of the requests instead of {WEIGHT} %")
    if not found.kept_runners:
        broken.append(f"{ROLLED_BACK}: runners that served were replaced")
    if REVISION in summaries and not found.weights_first:
        broken.append(f"{REVISION}: a former engine went before the new weights were on its node")
    if not summaries[CONTROL].lost:
        broken.append(f"{CONTROL}: none lost, so the others say nothing")
    return broken


def tell(found: Findings, summaries: dict[str, Summary], broken: list[str], settings: dict[str, Any]) -> None:
    """Write and print the figures."""
    figures.show(console, "Ready while a model is changed", found.served)
    for name, said in found.said.items():
        console.print(f"{name}: Stalled, {said}", soft_wrap=True)
    console.print(f"the canary got {found.canary_percent:g} % of the requests, {WEIGHT} % were wanted")
    for each in broken:
        console.print(f"does not hold: {each}")
    settings |= {
        "replicas": REPLICAS,
        "canary_percent": found.canary_percent,
        "stalled": found.said,
        "runners_kept_by_rollback": found.kept_runners,
        "weights_near_before_former_went": found.weights_first,
        "served": {
            each.phase: {
                "promised": each.promised,
                "least_serving": each.least_serving,
                "least_ready_replicas": each.least_ready_replicas,
                "ready_all_the_time": each.ready_all_the_time,
            }
            for each in found.served
        },
        **found.seconds,
    }
    title = f"{settings['rate_per_second']:g} requests a second, three of four streams"
    report(console, RESULT, title, summaries, settings)


if __name__ == "__main__":
    sys.exit(main())
