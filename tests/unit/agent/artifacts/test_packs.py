"""Compile caches: what their key is made of, and packs that come whole and clean out of a runner or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from warmfleet_agent.device import device
from warmfleet_agent.store import Store
from warmfleet_agent.threads import Threads
from warmfleet_agent.transfers import Outcome, Transfers, moving
from warmfleet_api import artifacts, weights
from warmfleet_api.artifacts import Index, PackedFile, PackError, cache_name, device_of, entry_key, name_in
from warmfleet_api.assignment import EngineSpec, EnvVar, Parallelism
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.vocabulary import EngineType, Tier, WeightsProblem
from warmfleet_kube.client import KubeClient
from warmfleet_runtime.compile_cache import pack, unpack

NAME = "compile--0123456789abcdef0123"
KEY = f"{NAME}-0123456789abcdef0123"
UID = "00000000-1111-2222-3333-444444444444"
GRAPH = "vllm/torch_compile_cache/a1/rank_0_0/backbone/computation_graph.py"
KERNEL = "inductor/fb/cfb.main.so"
ENGINE = EngineSpec(type=EngineType.VLLM, uri="hf://a/b", folder="/weights/b-1", served_names=("b",))
CPU = "processor: 0\nvendor_id: GenuineIntel\nmodel: 143\nflags: fpu avx2 amx_tile\n\nprocessor: 1\nflags: other\n"


def key_of(engine: EngineSpec = ENGINE, **changes: str) -> str:
    return entry_key(cache_name(engine), **{"namespace": "ml", "image": "runtime:1", "device": "cpu 1", **changes})


def cache_of(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outbox_of(kubelet: Path) -> Path:
    volume = kubelet / "pods" / UID / "volumes" / "kubernetes.io~empty-dir" / "cache"
    (volume / artifacts.OUTBOX).mkdir(parents=True)
    return volume / artifacts.OUTBOX


async def taken(store: Store, kubelet: Path, uid: str = UID) -> Outcome:
    """What the agent does once the operator tells it of an offer."""
    wanted = WantedEntry(key=KEY, uri=f"runner://ml/{uid}/{NAME}", tier=Tier.MEMORY)
    threads = Threads()
    try:
        # Nothing here asks Kubernetes for anything.
        transfers = Transfers(cast(KubeClient, None), threads, allow_private=False, kubelet=kubelet)
        return await transfers.fetch(wanted, store, moving(KEY, Tier.REMOTE, Tier.MEMORY, 0, 0))
    finally:
        threads.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store", 64 * 1024**2)


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        key_of(namespace="other"),
        key_of(image="runtime:2"),
        key_of(device="cpu 2"),
        key_of(replace(ENGINE, folder="/weights/b-2")),
        key_of(replace(ENGINE, parallelism=Parallelism(tensor=2))),
        key_of(replace(ENGINE, quantization="fp8")),
        key_of(replace(ENGINE, max_model_len=512)),
        key_of(replace(ENGINE, args=("--dtype", "bfloat16"))),
        key_of(replace(ENGINE, env=(EnvVar(name="VLLM_USE_TRITON_AWQ", value="1"),))),
    ],
)
def test_everything_that_compiled_code_depends_on_makes_another_key(other: str) -> None:
    assert other != key_of()


def test_what_reaches_no_compiled_code_keeps_the_key() -> None:
    arguments = ("--served-model-name", "x", "y", "--dtype=half", "--port=1")
    assert key_of(replace(ENGINE, args=arguments, served_names=("z",))) == key_of(
        replace(ENGINE, args=("--dtype=half",))
    )


@given(st.text(max_size=60), st.text(max_size=20))
def test_a_key_is_a_label_value_that_says_its_name_and_no_weights_have(uri: str, revision: str) -> None:
    assert len(key_of()) <= 63
    assert name_in(key_of()) == cache_name(ENGINE)
    assert name_in(weights.entry_key(f"hf://{uri}", revision)) == ""
    assert name_in(weights.entry_key(key_of(), revision)) == ""


def test_a_device_is_its_accelerator_and_the_instructions_of_its_cpu() -> None:
    same = CPU.replace("fpu avx2 amx_tile", "amx_tile fpu avx2").replace("other", "more")
    assert device_of("", CPU) == device_of("", same)
    assert device_of("", CPU) != device_of("", CPU.replace("amx_tile", ""))
    assert device_of("NVIDIA H100 9.0", CPU) != device_of("", CPU)
    assert device_of("", Path("/proc/cpuinfo").read_text()).startswith("cpu ")


def test_an_agent_tells_the_gpus_that_the_driver_tells(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPU)
    assert device(tmp_path) == device_of("", CPU)
    for number in range(2):
        told = tmp_path / f"driver/nvidia/gpus/0000:0{number}:00.0/information"
        told.parent.mkdir(parents=True)
        told.write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 24\n")
    assert device(tmp_path) == device_of("NVIDIA H200", CPU)


# There and back -------------------------------------------------------------------------------------------------------

parts = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.+=,@-]{0,8}\Z").filter(
    lambda part: not part.endswith((".lock", ".tmp"))
)
paths = st.builds(lambda root, inner, name: f"{root}/d{inner}/f{name}", st.sampled_from(artifacts.ROOTS), parts, parts)


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(paths, st.binary(max_size=200), min_size=1, max_size=6))
def test_what_is_packed_comes_back(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("packs")
    (folder / "cache").mkdir()
    cache_of(folder / "cache", files)
    size = pack(folder / "cache", folder / "out.pack", NAME)
    assert (folder / "out.pack").stat().st_size == size
    assert unpack(folder / "out.pack", folder / "other", NAME) == len(files)
    assert files_of(folder / "other") == files
    pack(folder / "other", folder / "again.pack", NAME)
    assert (folder / "again.pack").read_bytes() == (folder / "out.pack").read_bytes()


def test_only_plain_files_of_compile_caches_are_packed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    cache = cache_of(
        tmp_path / "cache",
        {GRAPH: b"graph", "config/other": b"x", "inductor/a.lock": b"", "inductor/.hidden": b"", "inductor/a b": b""},
    )
    (cache / "inductor" / "link").symlink_to(secret)
    (cache / "triton").symlink_to(tmp_path)
    os.mkfifo(cache / "inductor" / "fifo")
    pack(cache, tmp_path / "out.pack", NAME)
    unpack(tmp_path / "out.pack", tmp_path / "new", NAME)
    assert files_of(tmp_path / "new") == {GRAPH: b"graph"}


def test_a_cache_without_anything_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with pytest.raises(PackError, match="no compile cache"):
        pack(tmp_path / "cache", tmp_path / "out" / "a.pack", NAME)
    assert not list(tmp_path.glob("out/*"))


# Hostile packs --------------------------------------------------------------------------------------------------------


def raw(files: tuple[PackedFile, ...], content: bytes, name: str = NAME) -> bytes:
    """A pack as nobody checks it."""
    index = msgspec.json.encode(Index(name, files))
    return artifacts.MAGIC + len(index).to_bytes(8, "little") + index + content


HOSTILE = {
    "empty": b"",
    "no pack": b"x" * 100,
    "endless index": artifacts.MAGIC + (2**63).to_bytes(8, "little"),
    "no JSON": artifacts.MAGIC + (4).to_bytes(8, "little") + b"[[[[",
    "nested": artifacts.MAGIC + (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "other name": raw((PackedFile(GRAPH, 1),), b"x", "compile--other"),
    "short": raw((PackedFile(GRAPH, 2),), b"x"),
    "long": raw((PackedFile(GRAPH, 1),), b"xx"),
    "negative": raw((PackedFile(GRAPH, 2), PackedFile(KERNEL, -1)), b"x"),
    "huge": raw((PackedFile(GRAPH, 2**62), PackedFile(KERNEL, 2**62)), b"x"),
    "twice": raw((PackedFile(GRAPH, 1), PackedFile(GRAPH, 1)), b"xx"),
    "file and folder": raw((PackedFile("inductor/a", 1), PackedFile("inductor/a/b", 1)), b"xx"),
    "many files": raw((PackedFile(GRAPH, 0),) * (artifacts.MAX_FILES + 1), b""),
    **{
        f"path {path[:30]!r}": raw((PackedFile(path, 1),), b"x")
        for path in (
            "../x",
            "/tmp/warmfleet-nobodys-file",
            "inductor/../../x",
            "inductor/./x",
            "inductor//x",
            "inductor/a\nb",
            "inductor/a\0b",
            "inductor/.bashrc",
            "inductor/-rf",
            "vllm/config.yaml",
            "inductor",
            "inductor/" + "a" * 4096,
            "inductor" + "/a" * 20,
        )
    },
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pack_writes_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pack").write_bytes(content)
    with pytest.raises(PackError):
        unpack(tmp_path / "bad.pack", tmp_path / "cache", NAME)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pack"]


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_pack_is_not_taken_from_a_runner(tmp_path: Path, store: Store, content: bytes) -> None:
    (outbox_of(tmp_path / "kubelet") / f"{NAME}.pack").write_bytes(content)
    outcome = await taken(store, tmp_path / "kubelet")
    assert outcome.trouble is not None
    assert outcome.trouble.reason in {WeightsProblem.UNSAFE_FORMAT, WeightsProblem.FORBIDDEN_SOURCE}
    assert not store.entries
    assert store.usage().draft_bytes == 0


# Out of a runner ------------------------------------------------------------------------------------------------------


async def test_a_pack_becomes_an_entry_and_another_runner_unpacks_it_from_its_view(
    tmp_path: Path, store: Store
) -> None:
    cache = cache_of(tmp_path / "first", {GRAPH: b"graph", KERNEL: b"\x7fELF"})
    pack(cache, outbox_of(tmp_path / "kubelet") / f"{NAME}.pack", NAME)
    assert (await taken(store, tmp_path / "kubelet")).done
    store.link("pod", KEY)
    shown = tmp_path / "store" / "views" / "pod" / KEY / artifacts.PACK_FILE
    unpack(shown, tmp_path / "second", NAME)
    assert files_of(tmp_path / "second") == {GRAPH: b"graph", KERNEL: b"\x7fELF"}


@pytest.mark.parametrize("what", ["link", "fifo", "folder", "second name", "linked outbox", "nothing", "no uid"])
async def test_a_runner_can_not_make_the_agent_read_anything_else(tmp_path: Path, store: Store, what: str) -> None:
    outbox = outbox_of(tmp_path / "kubelet")
    cache = cache_of(tmp_path / "elsewhere", {GRAPH: b"other's"})
    pack(cache, tmp_path / "elsewhere" / "other.pack", NAME)
    target = outbox / f"{NAME}.pack"
    if what == "link":
        target.symlink_to(tmp_path / "elsewhere" / "other.pack")
    elif what == "fifo":
        os.mkfifo(target)
    elif what == "folder":
        target.mkdir()
    elif what == "second name":
        target.hardlink_to(tmp_path / "elsewhere" / "other.pack")
    elif what == "linked outbox":
        outbox.rmdir()
        (tmp_path / "elsewhere" / "other.pack").rename(tmp_path / "elsewhere" / f"{NAME}.pack")
        outbox.symlink_to(tmp_path / "elsewhere")
    outcome = await taken(store, tmp_path / "kubelet", "../" + UID if what == "no uid" else UID)
    assert outcome.trouble is not None
    assert not store.entries


async def test_a_pack_that_shrinks_while_it_is_taken_is_refused(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = outbox_of(tmp_path / "kubelet") / f"{NAME}.pack"
    pack(cache_of(tmp_path / "first", {GRAPH: b"x" * 10_000}), target, NAME)
    begin = store.begin

    def shrink(*arguments: object, **named: object) -> object:
        target.chmod(0o644)
        os.truncate(target, 50)
        return begin(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "begin", shrink)
    outcome = await taken(store, tmp_path / "kubelet")
    assert outcome.trouble is not None
    assert "changed while it was taken" in outcome.trouble.message
    assert not store.entries


def test_an_unpacked_cache_is_not_written_over(tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "cache", {GRAPH: b"graph"})
    pack(cache, tmp_path / "a.pack", NAME)
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "a.pack", cache, NAME)
