"""`make demo`: a local cluster, Warmfleet in it, weights in every node's memory, and two tiny models on real vLLM that
start from there in one running runner. At last an agent is killed while it fetches.

Each step is a command that a person could type; it is printed, and may be repeated: a second run starts from what is
there. The cluster stays up afterwards, to look around in.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("WARMFLEET_CACHE") or Path.home() / ".cache" / "warmfleet")
MODELS_ON_NODES = Path("/var/lib/warmfleet/models")
"""Below this folder the local overlay's WeightCache allows `file://` models."""
OPERATOR_NAMESPACE = "warmfleet-system"
AGENT_NAMESPACE = "warmfleet-agents"
AGENTS = (f"--namespace={AGENT_NAMESPACE}", "--selector=app.kubernetes.io/component=agent")
AGENT_PORT = 8002
WEIGHT_CACHE = "weightcache/default"
LARGE_MODEL = "large-llama"
FETCH_BYTES_PER_SECOND = "64Mi"
"""Slow enough to kill an agent in the middle of a fetch of the large model."""
POOL = "default"
POOL_SAMPLE = "manifests/samples/default-pool.yaml"
MODELS = ("tiny-llama", "tiny-llama-two")
STEP_SECONDS = 600
READY_SECONDS = 300
CACHED_SECONDS = 120
LOOK_SECONDS = 0.2

console = Console(highlight=False)


class DemoError(Exception):
    """A step failed; the message says what to look at."""


def run(*command: str, environment: dict[str, str] | None = None, quiet: bool = False) -> str:
    """Print a command, run it in the repository, and return what it wrote; its progress goes to the terminal.

    Raises:
        DemoError: it failed or took longer than `STEP_SECONDS`.
    """
    line = " ".join(command)
    if not quiet:
        console.print(f"[bold cyan]$ {line}", soft_wrap=True)
    try:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=os.environ | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            check=True,
            timeout=STEP_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        raise DemoError(f"`{line}` ended with {error.returncode}. {error.stderr or ''}".strip()) from error
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"`{line}` took longer than {STEP_SECONDS} s") from error
    if not quiet and done.stdout.strip():
        console.print(Text(done.stdout.rstrip()), soft_wrap=True)
    return done.stdout


class Kubectl:
    """kubectl of the local cluster."""

    def __init__(self, kubeconfig: str) -> None:
        self._environment = {"KUBECONFIG": kubeconfig, "PATH": f"{Path(kubeconfig).parent}:{os.environ['PATH']}"}

    def __call__(self, *arguments: str, quiet: bool = False) -> str:
        """Run one kubectl command."""
        return run("kubectl", *arguments, environment=self._environment, quiet=quiet)

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return one object."""
        found: dict[str, Any] = json.loads(self("get", *arguments, "--output=json", quiet=True))
        return found


def provide_models() -> None:
    """Make the models, and show the nodes this machine's models under the folder the WeightCache allows."""
    run("hack/model/tiny")
    run("hack/model/tiny", "--large")
    MODELS_ON_NODES.parent.mkdir(parents=True, exist_ok=True)
    if MODELS_ON_NODES.is_symlink():
        MODELS_ON_NODES.unlink()  # of an earlier run, perhaps with another cache
    if not MODELS_ON_NODES.exists():
        MODELS_ON_NODES.symlink_to(CACHE / "models", target_is_directory=True)


def unseen_large_model() -> str:
    """Return the uri of a large model that no node has yet: a second run finds the first one's in its memory."""
    models = CACHE / "models"
    for former in models.glob(f"{LARGE_MODEL}-*"):
        shutil.rmtree(former)
    copy = models / f"{LARGE_MODEL}-{int(time.time())}"
    shutil.copytree(models / LARGE_MODEL, copy, copy_function=os.link)
    return f"file://{MODELS_ON_NODES}/{copy.name}"


def install(kubectl: Kubectl) -> None:
    """Install Warmfleet, or bring what is installed to the images that were just loaded: their tag stays the same."""
    operator = ("deployment/warmfleet-operator", f"--namespace={OPERATOR_NAMESPACE}")
    installed = kubectl("get", *operator, "--ignore-not-found", quiet=True)
    kubectl("apply", "--server-side", "--kustomize", "crds")
    kubectl("wait", "--for=condition=Established", "crd/weightcaches.warmfleet.dev", "--timeout=30s", quiet=True)
    kubectl("apply", "--server-side", "--kustomize", "manifests/overlays/local")
    if installed:
        kubectl("rollout", "restart", *operator)
        kubectl("delete", "pods", *AGENTS)
    kubectl("rollout", "status", *operator, "--timeout=180s")
    kubectl("wait", "--for=condition=Ready", WEIGHT_CACHE, "--timeout=180s")


def wish(kubectl: Kubectl, uris: Sequence[str], bytes_per_second: str | None = None) -> None:
    """Have the WeightCache keep these models in memory on every node, fetched no faster than that."""
    models = [{"name": uri.rpartition("/")[2], "uri": uri} for uri in uris]
    fetch = {"bytesPerSecond": bytes_per_second}
    patch = json.dumps({"spec": {"models": models, "fetch": fetch}})
    kubectl("patch", WEIGHT_CACHE, "--type=merge", f"--patch={patch}")


def follow_fetch(kubectl: Kubectl, uri: str) -> None:
    """Show the way of a model into the memory of every node, until it is there.

    Raises:
        DemoError: it is not within `CACHED_SECONDS`.
    """
    started = time.monotonic()
    with Live(console=console, refresh_per_second=4) as live:
        while (elapsed := time.monotonic() - started) < CACHED_SECONDS:
            nodes = kubectl.get("nodecaches")["items"]
            lines = [f"{node['metadata']['name']}: {node.get('status', {}).get('activity', '')}" for node in nodes]
            live.update(Text(f"  {elapsed:5.1f} s  " + "; ".join(lines)))
            if nodes and all(is_in_memory(node, uri) for node in nodes):
                break
            time.sleep(LOOK_SECONDS)
        else:
            raise DemoError(f"{uri} was not in memory within {CACHED_SECONDS} s; look at `kubectl describe nodecaches`")
    kubectl("get", "nodecaches")


def is_in_memory(node: dict[str, Any], uri: str) -> bool:
    """Whether a node's memory has all that its NodeCache wants of a uri."""
    wanted = {entry["key"] for entry in node["spec"].get("entries", []) if entry["uri"] == uri and "revision" in entry}
    seen = {entry["key"]: entry for entry in node.get("status", {}).get("entries", [])}
    return bool(wanted) and all(
        key in seen and (seen[key]["tier"], seen[key]["state"]) == ("Memory", "Present") for key in wanted
    )


def kill_an_agent_that_fetches(kubectl: Kubectl) -> None:
    """Kill one agent as soon as it has fetched a part of a model.

    Raises:
        DemoError: none is seen to fetch.
    """
    started = time.monotonic()
    while time.monotonic() - started < CACHED_SECONDS:
        for agent in kubectl.get("pods", *AGENTS)["items"]:
            name = agent["metadata"]["name"]
            path = f"/api/v1/namespaces/{AGENT_NAMESPACE}/pods/{name}:{AGENT_PORT}/proxy/v1/status"
            for transfer in json.loads(kubectl("get", "--raw", path, quiet=True)).get("transfers", []):
                if transfer.get("doneBytes", 0) > transfer.get("bytes", 0) / 4 > 0:
                    done, size = transfer["doneBytes"] / 1e6, transfer["bytes"] / 1e6
                    console.print(f"  {name} has fetched {done:.0f} of {size:.0f} MB of {transfer['key']}")
                    kubectl("delete", "pod", name, f"--namespace={AGENT_NAMESPACE}", "--force", "--grace-period=0")
                    return
        time.sleep(LOOK_SECONDS)
    raise DemoError("no agent fetches; look at `kubectl get nodecaches -o wide`")


def follow(kubectl: Kubectl, kind: str, name: str) -> dict[str, Any]:
    """Show the way of a model or pool until it is Ready, and return the object.

    Raises:
        DemoError: it is Stalled, or not Ready within `READY_SECONDS`.
    """
    started = time.monotonic()
    with Live(console=console, refresh_per_second=4) as live:
        while (elapsed := time.monotonic() - started) < READY_SECONDS:
            found = kubectl.get(kind, name)
            conditions = {each["type"]: each for each in found.get("status", {}).get("conditions", [])}
            if conditions.get("Stalled", {}).get("status") == "True":
                raise DemoError(f"{name} is Stalled: {conditions['Stalled']['message']}")
            ready = conditions.get("Ready", {})
            live.update(Text(f"  {elapsed:5.1f} s  {ready.get('reason', '')}: {ready.get('message', '')}"))
            if ready.get("status") == "True":
                return found
            time.sleep(LOOK_SECONDS)
    raise DemoError(f"{name} was not Ready within {READY_SECONDS} s; look at `kubectl describe {kind} {name}`")


def answer(endpoint: str, model: str) -> Iterator[str]:
    """Ask the model through its Service and give the words as they arrive."""
    # Retries: nodes learn of a Service's new endpoint some tenths of a second after the model is Ready.
    with openai.OpenAI(base_url=endpoint, api_key="none", timeout=60, max_retries=4) as client:
        question: Sequence[Any] = [{"role": "user", "content": "Once upon a time"}]
        for chunk in client.chat.completions.create(model=model, messages=question, max_tokens=48, stream=True):
            yield (chunk.choices[0].delta.content or "") if chunk.choices else ""


def show_answer(service: dict[str, Any], model: str) -> None:
    """Print a model's streamed answer, with the time to its first token."""
    endpoint = f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}/v1"
    console.print(
        f"\n[bold cyan]POST {endpoint}/chat/completions", f"[dim]{model} (random weights: no sense)", soft_wrap=True
    )
    started = time.monotonic()
    first: float | None = None
    words = 0
    for text in answer(endpoint, model):
        first = first or time.monotonic() - started
        words += bool(text)
        console.print(text, end="", style="green", markup=False)
    if first is None:
        raise DemoError("the answer was empty")
    console.print(
        f"\n  [dim]{words} pieces, the first after {first:.3f} s, all after {time.monotonic() - started:.3f} s"
    )


def show_stages(models: Sequence[dict[str, Any]]) -> None:
    """Print the stages of the models' last starts side by side."""
    starts = {model["metadata"]["name"]: model["status"]["lastStart"] for model in models}
    took = [{stage["name"]: stage["milliseconds"] / 1000 for stage in start["stages"]} for start in starts.values()]
    table = Table(title="\nWhere the time of each start went, in seconds", title_justify="left")
    table.add_column("stage")
    for name, start in starts.items():
        table.add_column(f"{name}\n{start['startType']} on {start['node']}", justify="right")
    for stage in dict.fromkeys(name for stages in took for name in stages):
        table.add_row(stage, *(f"{stages[stage]:.2f}" if stage in stages else "-" for stages in took))
    table.add_section()
    whole = (f"{start['durationMilliseconds'] / 1000:.2f}" for start in starts.values())
    table.add_row("decision to Routable", *whole)
    console.print(table)


def demonstrate() -> None:
    """Go through the steps."""
    run("hack/cluster", "up", "--nodes", "3")
    run("hack/cluster", "load", "--all")
    provide_models()
    kubectl = Kubectl(run("hack/cluster", "kubeconfig", quiet=True).strip())
    install(kubectl)
    samples = [f"manifests/samples/{model}.yaml" for model in MODELS]
    former = [f"--filename={sample}" for sample in (*samples, POOL_SAMPLE)]
    kubectl("delete", "--ignore-not-found", "--cascade=foreground", *former)
    tiny = f"file://{MODELS_ON_NODES}/{MODELS[0]}"
    wish(kubectl, [tiny])
    follow_fetch(kubectl, tiny)
    kubectl("apply", "--filename", POOL_SAMPLE)
    follow(kubectl, "warmpool", POOL)
    models = []
    for model, sample in zip(MODELS, samples, strict=True):
        kubectl("apply", "--filename", sample)
        models.append(follow(kubectl, "modeldeployment", model))
        show_answer(kubectl.get("service", model), model)
    show_stages(models)
    large = unseen_large_model()
    wish(kubectl, [tiny, large], FETCH_BYTES_PER_SECOND)
    kill_an_agent_that_fetches(kubectl)
    wish(kubectl, [tiny, large])
    follow_fetch(kubectl, large)
    show_answer(kubectl.get("service", MODELS[0]), MODELS[0])
    kubectl("get", "wp,mdl,pods")
    console.print(
        "\nThe cluster stays up: `hack/cluster status` shows it, `hack/cluster down` removes it."
        '\nLook around with `export KUBECONFIG="$(hack/cluster kubeconfig)"`.',
        soft_wrap=True,
    )


def main() -> int:
    """Run the demo; 0 when every step succeeded."""
    started = time.monotonic()
    try:
        demonstrate()
    except (DemoError, openai.OpenAIError) as error:
        console.print(f"[bold red]demo failed:[/] {error}", markup=True)
        return 1
    console.print(f"[dim]demo took {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
