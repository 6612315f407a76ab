"""`make bench-contention`: four models of real vLLM, one runner with room for two, beside the emulator's prediction.

All four are wanted before the runner is there, the most urgent one last. Whoever serves and is not asked for gives way
after a while, so each has its turn; afterwards each is woken once more and answers. The same fleet, with the times of
a start that was measured on this cluster, goes through the emulator.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from openai import APIConnectionError
from rich.console import Console
from rich.table import Table

from support.cluster import REPOSITORY, Cluster
from support.endpoint import client
from support.kubeapi import Object
from support.models import vllm
from support.namespace import Namespace, new_name, settled
from support.pools import warm_pool
from support.real_cluster import model_folder, operator_log, real_cluster
from warmfleet_api.vocabulary import Priority, Stage
from warmfleet_emulator.scenario import Scenario
from warmfleet_emulator.world import World
from warmfleet_operator.decide.schedule import schedule

RESULT = REPOSITORY / "build" / "bench" / "contention.json"
POOL_SECONDS = 400
TURN_SECONDS = 300
AWAKE_BYTES = 2 * 1024**3
POOL_MEMORY = "6500Mi"
"""1 Gi for the runner itself, two engines awake with 2 Gi each, and what sleeping ones hold; never three awake."""
COMMAND = Path(sys.executable).with_name("warmfleet")


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the models."""

    name: str
    priority: Priority
    deadline_seconds: int | None = None


CONTENDERS = (
    Contender("low", Priority.LOW),
    Contender("normal", Priority.NORMAL),
    Contender("late", Priority.HIGH, 600),
    Contender("soon", Priority.HIGH, 60),
)
"""In the order in which they are applied: the wrong one."""
RIGHT_ORDER = ("soon", "late", "normal", "low")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one model got, and what the emulator foretold."""

    model: str
    ready_seconds: float
    """From the moment the runner could start engines."""
    predicted_seconds: float


def measure(namespace: Namespace, models: Path) -> tuple[dict[str, float], dict[Stage, float]]:
    """Let the models contend; return when each was Ready, and the stages of a start alone."""
    alone = start_alone(namespace, models)
    namespace.api.merge(f"{namespace.pools_path}/default", {"spec": {"replicas": 0}})
    namespace.wait("the pool is empty", lambda: not namespace.runners("default"), POOL_SECONDS)
    for contender in CONTENDERS:
        namespace.apply(deployment(contender, models))
    names = [contender.name for contender in CONTENDERS]
    namespace.wait("all wait", lambda: all("pendingStart" in status(namespace, each) for each in names), POOL_SECONDS)
    namespace.api.merge(f"{namespace.pools_path}/default", {"spec": {"replicas": 1}})
    namespace.wait_pool("default", within=POOL_SECONDS)
    begun = time.monotonic()
    ready: dict[str, float] = {}

    def all_had_their_turn() -> bool:
        for name, model in namespace.models().items():
            if name not in ready and settled(model):
                ready[name] = time.monotonic() - begun
        return len(ready) == len(CONTENDERS)

    namespace.wait("each was Ready", all_had_their_turn, TURN_SECONDS)
    for name in names:
        ask(namespace, name)
    return ready, alone


def start_alone(namespace: Namespace, models: Path) -> dict[Stage, float]:
    """Start a model while nobody else does, and return the seconds of its stages."""
    namespace.apply(warm_pool("default", cpu="100m", memory=POOL_MEMORY))
    namespace.wait_pool("default", within=POOL_SECONDS)
    namespace.apply(deployment(Contender("alone", Priority.NORMAL), models))
    namespace.wait_ready("alone", within=TURN_SECONDS)
    stages = status(namespace, "alone")["lastStart"]["stages"]
    namespace.remove("alone")
    return {Stage(stage["name"]): stage["milliseconds"] / 1000 for stage in stages}


def deployment(contender: Contender, models: Path) -> Object:
    """Return the object of a contender."""
    deadline = {} if contender.deadline_seconds is None else {"deadlineSeconds": contender.deadline_seconds}
    model = vllm(contender.name, f"{models}/tiny-llama", priority=contender.priority.value, coldStart=deadline)
    model["spec"]["resources"]["memory"] = AWAKE_BYTES
    return model


def status(namespace: Namespace, model: str) -> Object:
    """Return a model's status."""
    found: Object = namespace.model(model).get("status", {})
    return found


def ask(namespace: Namespace, model: str) -> None:
    """Wake a model as people do, and have it answer."""
    kubectl, *flags = namespace.cluster.kubectl_command()
    cluster = [f"--kubectl={kubectl}", f"--kubeconfig={flags[flags.index('--kubeconfig') + 1]}"]
    command = [str(COMMAND), "wake", model, "--wait", f"--timeout={TURN_SECONDS}", f"--namespace={namespace.name}"]
    subprocess.run([*command, *cluster], check=True, timeout=TURN_SECONDS + 60, stdout=subprocess.DEVNULL)
    namespace.wait(f"{model} answers", lambda: _answers(namespace, model), TURN_SECONDS)


def _answers(namespace: Namespace, model: str) -> bool:
    with client(namespace, model) as openai:
        try:
            return bool(openai.completions.create(model=model, prompt="hello", max_tokens=2).choices)
        except APIConnectionError:  # kube-proxy hears of a Service's new endpoint a moment after everybody else
            return False


def foretold(alone: dict[Stage, float]) -> dict[str, float]:
    """Return when the emulator has each model Ready."""
    before = (Stage.ENGINE_FORKED, Stage.WEIGHTS_LOADED)
    after = (Stage.COMPILED, Stage.CACHE_ALLOCATED)
    start = {
        "cpuSeconds": sum(alone.get(stage, 0.0) for stage in before),
        "initializeSeconds": sum(alone.get(stage, 0.0) for stage in after),
        "asleepMemory": "768Mi",
    }
    models = []
    for contender in CONTENDERS:
        deadline = {} if contender.deadline_seconds is None else {"deadlineSeconds": contender.deadline_seconds}
        spec = {
            "priority": contender.priority.value,
            "resources": {"memory": AWAKE_BYTES},
            "coldStart": deadline,
        }
        models.append({"name": contender.name, "spec": spec, "start": start})
    pool = {"name": "default", "spec": {"replicas": 1, "cpu": "100m", "memory": POOL_MEMORY}}
    scenario = Scenario.model_validate(
        {
            "name": "contention",
            "untilSeconds": TURN_SECONDS,
            "nodes": [{"name": "node", "cpu": "2", "memory": "24Gi"}],
            "pools": [pool],
            "models": models,
        }
    )
    outcome = World(scenario, schedule, "ours").run()
    return {each.model: each.ready for each in sorted(outcome.starts, key=lambda start: start.ready, reverse=True)}


def run(cluster: Cluster, models: Path) -> list[Turn]:
    """Measure in a namespace of its own."""
    namespace = Namespace(cluster, new_name("contention"), lambda: operator_log(cluster))
    namespace.create()
    ready, alone = measure(namespace, models)
    predicted = foretold(alone)
    order = sorted(ready, key=lambda name: ready[name])
    return [Turn(name, round(ready[name], 2), round(predicted.get(name, float("nan")), 2)) for name in order]


def main() -> int:
    """Bring a cluster up, measure, write and print the figures."""
    with model_folder("bench-contention") as models, real_cluster("bench-contention", models) as cluster:
        turns = run(cluster, models)
    errors = [abs(turn.predicted_seconds - turn.ready_seconds) for turn in turns]
    in_order = tuple(turn.model for turn in turns) == RIGHT_ORDER
    result = {
        "turns": [asdict(turn) for turn in turns],
        "in_order_of_class_and_deadline": in_order,
        "answered": len(turns),
        "prediction_error_seconds_max": round(max(errors), 2),
        "makespan_predicted_over_measured": round(
            max(turn.predicted_seconds for turn in turns) / max(turn.ready_seconds for turn in turns), 3
        ),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    table = Table(title="Four models, one runner with room for two", title_justify="left")
    for header in ("model", "Ready after s", "foretold s", "error s"):
        table.add_column(header, justify="left" if header == "model" else "right")
    for turn, error in zip(turns, errors, strict=True):
        table.add_row(turn.model, f"{turn.ready_seconds:.2f}", f"{turn.predicted_seconds:.2f}", f"{error:.2f}")
    console = Console()
    console.print(table)
    console.print(f"order of class and deadline: {'yes' if in_order else 'NO'}; all {len(turns)} answered in the end")
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
