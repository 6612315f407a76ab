"""Weights in the memory of real nodes: fetched under fire, kept over restarts, shared, replaced, refused."""

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.caches import Caches
from support.cluster import Cluster
from support.endpoint import client, traffic
from support.kubeapi import Object
from support.models import vllm
from support.namespace import Namespace, settled
from support.waiting import wait_for
from warmfleet_api import names
from warmfleet_api.vocabulary import Stage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

START_SECONDS = 300
NODES = 3
POINTS = (0.1, 0.4, 0.7)
"""Of a fetch at which its agent is killed."""
_READ = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(data[offset] for offset in range(0, len(data), 4096))
print("mapped", flush=True)
sys.stdin.readline()
pss = 0
for block in open("/proc/self/smaps").read().split("VmFlags"):
    if sys.argv[1] in block:
        pss += sum(int(line.split()[1]) for line in block.splitlines() if line.startswith("Pss:"))
print(pss * 1024, len(data), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def copies(models: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Make copies of a model that no node has yet; each call returns the uri of another one."""
    made: list[Path] = []

    def copy(model: str) -> str:
        folder = models / f"{request.node.name.partition('[')[0]}-{len(made)}"
        shutil.copytree(models / model, folder, copy_function=os.link)
        made.append(folder)
        return f"file://{folder}"

    yield copy
    for folder in made:
        shutil.rmtree(folder)


def folder_of(uri: str) -> str:
    return uri.removeprefix("file://")


# Runners -----------------------------------------------------------------------------------------------------------


def test_a_runner_under_the_strictest_pod_security_serves_from_the_store(
    namespace: Namespace, caches: Caches, copies: Callable[[str], str]
) -> None:
    """The namespace enforces `restricted`: a control shows that it does."""
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        namespace.kubectl("run", "control", "--image=none", "--privileged")
    uri = copies("tiny-llama")
    with caches.preloaded({"tiny": uri}):
        caches.wait_in_memory(uri, NODES)
        namespace.apply(vllm("tiny", folder_of(uri)))
        namespace.wait_ready("tiny", within=START_SECONDS)
    start = {stage["name"]: stage["milliseconds"] for stage in namespace.model("tiny")["status"]["lastStart"]["stages"]}
    assert start[Stage.WEIGHTS_IN_MEMORY] < 1000, "they were there before it"
    with client(namespace, "tiny") as openai:
        done = openai.completions.create(model="tiny", prompt="Once upon a time", max_tokens=8)
        assert done.choices[0].text
    runner = namespace.runners("tiny")[0]
    (entry,) = (entry for node, entry in caches.entries(uri).items() if node == runner["spec"]["nodeName"])
    shown = in_runner(namespace, runner, "ls", f"{names.WEIGHTS_DIRECTORY}/{entry['key']}")
    assert {"config.json", "model.safetensors", names.MANIFEST_FILE} <= set(shown.split())


def test_runners_of_one_model_share_one_copy(
    namespace: Namespace, cluster: Cluster, caches: Caches, copies: Callable[[str], str]
) -> None:
    uri = copies("large-llama")
    node = sorted(caches.nodes())[0]
    model = vllm("shared", folder_of(uri), replicas=2)
    model["spec"]["podTemplate"] = {"nodeSelector": {"kubernetes.io/hostname": node}}
    namespace.apply(model)
    caches.wait_in_memory(uri, 1)
    key = caches.entries(uri)[node]["key"]

    def both() -> list[Object] | None:
        runners = [each for each in namespace.runners("shared") if each["status"].get("phase") == "Running"]
        return runners if len(runners) == 2 else None

    file = f"{names.WEIGHTS_DIRECTORY}/{key}/model.safetensors"
    runners = namespace.wait("both runners run", both, START_SECONDS)
    namespace.wait("both see the model", lambda: all(shows(namespace, each, file) for each in runners), 60)
    with ExitStack() as stack:
        readers = [stack.enter_context(reading(namespace, runner, file)) for runner in runners]
        measured = [read_numbers(reader) for reader in readers]
    for pss, size in measured:
        assert 0.45 * size <= pss <= 0.55 * size, f"two readers of {size} bytes have {measured}"


@contextmanager
def reading(namespace: Namespace, runner: Object, file: str) -> Iterator[subprocess.Popen[str]]:
    """Have a process in a runner map a file and touch all of it, as long as the context is open."""
    command = runner_command(namespace, runner, "python3", "-c", _READ, file)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped\n"
        yield process


def read_numbers(reader: subprocess.Popen[str]) -> tuple[int, int]:
    """Return the proportional bytes of the file in a reader, and the file's size."""
    assert reader.stdin is not None and reader.stdout is not None
    reader.stdin.write("\n")
    reader.stdin.flush()
    pss, size = reader.stdout.readline().split()
    return int(pss), int(size)


# Agents ------------------------------------------------------------------------------------------------------------


def test_an_agent_killed_at_several_points_of_a_fetch_leaves_no_part_of_a_model(
    namespace: Namespace, caches: Caches, copies: Callable[[str], str]
) -> None:
    uri = copies("large-llama")
    with caches.preloaded({"large": uri}, bytes_per_second="48Mi"):
        node = sorted(caches.nodes())[0]
        for point in POINTS:
            wait_fetched(caches, node, uri, point)
            assert node not in caches.in_memory(uri)
            caches.kill_agent(node)
        caches.change(fetch={"bytesPerSecond": None})
        caches.wait_in_memory(uri, NODES)
        digests = {entry["digest"] for entry in caches.entries(uri).values()}
        assert len(digests) == 1, "the node whose agent was killed holds what the others hold"
        model = vllm("large", folder_of(uri))
        model["spec"]["podTemplate"] = {"nodeSelector": {"kubernetes.io/hostname": node}}
        namespace.apply(model)
        namespace.wait_ready("large", within=START_SECONDS)


def test_an_agent_that_restarts_reloads_nothing(caches: Caches, copies: Callable[[str], str]) -> None:
    uris = {f"tiny-{number}": copies("tiny-llama") for number in range(3)}
    with caches.preloaded(uris):
        for uri in uris.values():
            caches.wait_in_memory(uri, NODES)
        node = sorted(caches.nodes())[0]
        before = caches.files(node, "entries")
        assert before.count("model.safetensors") >= 3
        assert caches.metric(node, "warmfleet_weights_bytes_total", step="Fetch") > 0, "a control of the metric"
        caches.restart_agent(node)
        for uri in uris.values():
            caches.wait_in_memory(uri, NODES)
        assert caches.files(node, "entries") == before
        for step in ("Fetch", "Promote"):
            assert caches.metric(node, "warmfleet_weights_bytes_total", step=step) == 0


def test_a_node_that_loses_power_is_replaced_as_a_holder_of_weights(
    namespace: Namespace, cluster: Cluster, caches: Caches, copies: Callable[[str], str]
) -> None:
    uri = copies("tiny-llama")
    namespace.apply(vllm("held", folder_of(uri), replicas=0, coldStart={"preloadNodes": 2}))
    before = caches.wait_in_memory(uri, 2)
    assert len(before) == 2
    lost = sorted(before)[0]
    cluster.hack("kill-node", lost)
    try:
        wait_for("a third node has it", lambda: len(caches.in_memory(uri) - {lost}) == 2, 180, caches.explain)
    finally:
        cluster.hack("start-node", lost)
    caches.wait_ready()


# Sources -----------------------------------------------------------------------------------------------------------


def header(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(content)


def endless_header(folder: Path) -> None:
    header(folder, struct.pack("<Q", 2**63) + b"{}")


def overlapping_tensors(folder: Path) -> None:
    tensor = {"dtype": "U8", "shape": [8]}
    text = json.dumps({"a": {**tensor, "data_offsets": [0, 8]}, "b": {**tensor, "data_offsets": [4, 12]}}).encode()
    header(folder, struct.pack("<Q", len(text)) + text + bytes(12))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def a_link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/shadow")


def too_large(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (endless_header, ("UnsafeFormat", str(2**63))),
        (overlapping_tensors, ("UnsafeFormat", "overlaps")),
        (only_pickle, ("UnsafeFormat", "safetensors")),
        (a_link, ("ForbiddenSource", "link")),
        (too_large, ("NeverFits", "memory.size")),
    ],
)
def test_what_can_not_be_kept_is_refused_in_words_and_disturbs_no_other(
    namespace: Namespace,
    caches: Caches,
    copies: Callable[[str], str],
    spoil: Callable[[Path], None],
    said: tuple[str, str],
) -> None:
    reason, words = said
    sound, spoilt = copies("tiny-llama"), copies("tiny-llama")
    spoil(Path(folder_of(spoilt)))
    with caches.preloaded({"sound": sound}):
        holders = caches.wait_in_memory(sound, NODES)
        namespace.apply(vllm("spoilt", folder_of(spoilt)))
        found = namespace.wait_condition("spoilt", "Stalled", "True", reason)
        assert words in found["message"]
        assert caches.in_memory(sound) == holders
        assert not caches.in_memory(spoilt)


def test_a_source_that_changes_while_it_is_fetched_never_becomes_half_of_each(
    caches: Caches, copies: Callable[[str], str]
) -> None:
    uri = copies("large-llama")
    weights = Path(folder_of(uri)) / "model.safetensors"
    node = sorted(caches.nodes())[0]
    with caches.preloaded({"changing": uri}, bytes_per_second="96Mi"):
        wait_fetched(caches, node, uri, 0.2)
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.unlink()  # the other copies are links to it
        weights.write_bytes(content)
        assert "changed" in caches.wait_problem(uri, "Damaged")
        assert node not in caches.in_memory(uri)


def test_models_are_stopped_and_started_without_another_fetch(
    namespace: Namespace, caches: Caches, copies: Callable[[str], str]
) -> None:
    uri = copies("tiny-llama")
    namespace.apply(vllm("again", folder_of(uri)))
    namespace.wait_ready("again", within=START_SECONDS)
    node = namespace.runners("again")[0]["spec"]["nodeName"]
    before = caches.metric(node, "warmfleet_weights_bytes_total", step="Fetch")
    with traffic(namespace, "again") as seen:
        assert settled(namespace.model("again"))
    assert seen.failures == []
    namespace.kubectl("scale", "mdl/again", "--replicas=0")
    namespace.wait("it is stopped", lambda: not namespace.runners("again"), 120)
    assert node in caches.in_memory(uri), "what nobody needs stays as long as there is room"
    assert caches.metric(node, "warmfleet_weights_bytes_total", step="Fetch") == before


# What the tests look at --------------------------------------------------------------------------------------------


def fetched(caches: Caches, node: str, uri: str) -> float:
    """Return which part of a uri the agent of a node has fetched by now."""
    cache = caches.nodes()[node]
    keys = {entry["key"] for entry in cache["spec"].get("entries", []) if entry["uri"] == uri}
    for key, transfer in caches.transfers(node).items():
        if key in keys and transfer.get("bytes"):
            return float(transfer.get("doneBytes", 0) / transfer["bytes"])
    return 0.0


def wait_fetched(caches: Caches, node: str, uri: str, part: float) -> None:
    wait_for(f"{part:.0%} of {uri} fetched", lambda: fetched(caches, node, uri) >= part, 90, caches.explain)


def runner_command(namespace: Namespace, runner: Object, *command: str) -> list[str]:
    kubectl = namespace.cluster.kubectl_command("--namespace", namespace.name, "exec", "-i")
    return [*kubectl, runner["metadata"]["name"], "-c", names.RUNNER_CONTAINER, "--", *command]


def in_runner(namespace: Namespace, runner: Object, *command: str) -> str:
    pod = runner["metadata"]["name"]
    return namespace.kubectl("exec", pod, "-c", names.RUNNER_CONTAINER, "--", *command)


def shows(namespace: Namespace, runner: Object, file: str) -> bool:
    try:
        in_runner(namespace, runner, "test", "-f", file)
    except AssertionError:
        return False
    return True
