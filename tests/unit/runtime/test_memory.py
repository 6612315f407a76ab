"""Memory: which engine has to end, what is measured, and where the limit is read."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.waiting import wait_for
from warmfleet_runtime import processes
from warmfleet_runtime.memory import ControlGroup, MemoryMeter, control_group
from warmfleet_runtime.memory_guard import MemoryGuard, Share, choose

MIB = 1 << 20
LIMIT = 1000


@pytest.mark.parametrize(
    ("used", "shares", "victim"),
    [
        (919, [Share("a", 900, 100)], None),
        (920, [Share("a", 500, 400), Share("b", 420, 300)], "b"),
        (990, [Share("a", 300, 0), Share("b", 600, 500)], "a"),
        (950, [Share("a", 400, 450), Share("b", 300, 310)], "b"),
        (1000, [], None),
        (1000, [Share("a", 0, 0)], None),
    ],
    ids=["below", "most over its budget", "no budget", "all within", "no engine", "holds nothing"],
)
def test_the_engine_most_over_its_budget_ends(used: int, shares: list[Share], victim: str | None) -> None:
    chosen = choose(LIMIT, used, shares)
    assert (chosen.id if chosen else None) == victim


def test_the_reason_says_by_how_much_and_what_to_do() -> None:
    over = choose(LIMIT, 950, [Share("a", 500, 400)])
    within = choose(LIMIT, 950, [Share("a", 300, 400)])
    assert over and over.message == (
        "it outgrew its memory budget of 400 bytes: it held 500 bytes with the runner's memory at 95 % of its limit of "
        "1000 bytes; raise resources.memory"
    )
    assert within and "outgrew" not in within.message and "raise resources.memory" in within.message


def test_nothing_is_measured_while_there_is_room() -> None:
    def measure() -> list[Share]:
        raise AssertionError("measuring costs")

    assert MemoryGuard(LIMIT, None).look([Share("a", 919, 0)], measure) is None
    assert MemoryGuard(0, None).look([Share("a", 10**12, 0)], measure) is None, "no limit is known"


def test_what_was_measured_before_kills_nobody() -> None:
    assert MemoryGuard(LIMIT, None).look([Share("a", 990, 0)], lambda: [Share("a", 500, 0)]) is None


def write_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_version_two_is_read_as_the_container_sees_it(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/\n")
    stat = "anon 500\nfile 450\ninactive_file 200\nactive_file 100\nslab_reclaimable 50\n"
    write_group(tmp_path / "fs", memory__max="1000\n", memory__current="950\n", memory__stat=stat)
    group = control_group(tmp_path / "fs", membership)
    assert group and (group.limit_bytes, group.used_bytes(), group.held_bytes()) == (1000, 950, 600)


def test_version_one_is_found_below_its_mount_or_as_the_mount(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("9:name=systemd:/\n4:memory:/kubepods/pod1\n0::/\n")
    files = {
        "memory__limit_in_bytes": "1000\n",
        "memory__usage_in_bytes": "900\n",
        "memory__stat": "total_inactive_file 100\ntotal_active_file 50\n",
    }
    write_group(tmp_path / "container/memory", **files)
    write_group(tmp_path / "host/memory/kubepods/pod1", **files)
    for mount in (tmp_path / "container", tmp_path / "host"):
        group = control_group(mount, membership)
        assert group and (group.limit_bytes, group.held_bytes()) == (1000, 750)


@pytest.mark.parametrize("limit", ["max", str(1 << 62)])
def test_a_group_without_a_limit_is_none(tmp_path: Path, limit: str) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/\n")
    write_group(tmp_path / "fs", memory__max=limit, memory__current="0", memory__stat="")
    assert control_group(tmp_path / "fs", membership) is None


def test_page_cache_alone_kills_nobody_and_a_strangers_limit_counts_for_nothing(tmp_path: Path) -> None:
    write_group(tmp_path, memory__current="990", memory__stat="inactive_file 300\n")
    own = ControlGroup(tmp_path, LIMIT, "memory.current", ("inactive_file",))
    shares = [Share("a", 600, 0)]
    assert MemoryGuard(LIMIT, own).look(shares, lambda: shares) is None
    write_group(tmp_path, memory__stat="inactive_file 0\n")
    assert MemoryGuard(LIMIT, own).look(shares, lambda: shares)
    assert MemoryGuard(LIMIT - 1, own).look(shares, lambda: shares) is None, "the runner is only a part of that group"


async def polled(meter: MemoryMeter, groups: list[int], seconds: float = 5.0) -> bool:
    """Poll as the supervisor does, until there is something new."""
    try:
        async with asyncio.timeout(seconds):
            while not meter.poll(groups):  # noqa: ASYNC110 - it is polled
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    return True


async def test_what_changed_while_it_was_measured_is_measured_again() -> None:
    meter = MemoryMeter()
    group = os.getpgid(0)
    assert not meter.poll([group])
    meter.hasten()
    await meter.close()
    assert not meter.poll([group]), "what it saw is outdated"
    assert await polled(meter, [group])


BUSY = """
import os, time
os.setsid()
print(os.getpid(), flush=True)
until = time.monotonic() + 20
while time.monotonic() < until:
    if time.thread_time() > 0.5 * (time.monotonic() - until + 20):
        time.sleep(0.005)
"""


@pytest.fixture
def busy() -> Iterator[int]:
    """A process group that uses half a CPU, where there is one."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


async def test_the_cpu_of_a_group_is_that_between_two_measures(busy: int) -> None:
    meter = MemoryMeter()
    assert await polled(meter, [busy])
    assert meter.millicores_by_group == {}, "one measure tells no pace"
    before, since = processes.cpu_milliseconds([busy]), time.monotonic()
    meter.hasten()
    await asyncio.sleep(1.2)
    assert await polled(meter, [busy])
    used = (processes.cpu_milliseconds([busy]) - before) / (time.monotonic() - since)
    assert meter.millicores_by_group[busy] == pytest.approx(used, rel=0.5, abs=100)
    assert meter.gpu_percents == (), "there is none to ask for"


HOLD = """
import mmap, os, signal
size = 32 << 20
held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held[:: mmap.PAGESIZE] = b"x" * (size // mmap.PAGESIZE)
if os.fork() == 0:
    os.setsid()
print(os.getpid(), flush=True)
signal.pause()
"""


async def test_pages_that_two_groups_share_are_counted_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = processes.spawn((sys.executable, "-c", HOLD), os.environ, log=log)
    try:
        wait_for("both processes", lambda: log.exists() and len(log.read_text().split()) == 2, 10)
        groups = [int(pid) for pid in log.read_text().split()]
        meter = MemoryMeter()
        assert await polled(meter, groups)
        total = sum(meter.bytes_by_group.values())
        assert 32 * MIB < total < 64 * MIB, "32 MiB are there, however many look at them"
        assert all(held < 32 * MIB for held in meter.bytes_by_group.values())
        assert not await polled(meter, groups, seconds=0.3), "measured just now"
        meter.hasten()
        assert await polled(meter, groups)
    finally:
        for pid in {parent, *map(int, log.read_text().split())}:
            processes.signal_group(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, parent, 0)
