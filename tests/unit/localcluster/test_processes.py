import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.processes import Processes, wait_gone

SLEEP = ["sleep", "300"]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path / "processes", tmp_path / "logs")
    yield processes
    for name in processes.names():
        processes.stop(name)


def test_a_daemon_is_known_by_pid_and_start_time_to_whoever_looks_later(processes: Processes, tmp_path: Path) -> None:
    assert processes.ensure("daemon", SLEEP)
    later = Processes(tmp_path / "processes", tmp_path / "logs")
    identity = later.running("daemon")
    assert identity is not None
    assert identity.alive
    assert Path(f"/proc/{identity.pid}/cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", b"300"]


def test_a_running_daemon_is_left_alone(processes: Processes) -> None:
    processes.ensure("daemon", SLEEP)
    before = processes.running("daemon")
    assert not processes.ensure("daemon", SLEEP)
    assert processes.running("daemon") == before


def test_another_command_environment_or_input_replaces_the_daemon(processes: Processes, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("a")
    processes.ensure("daemon", SLEEP, inputs=[config])
    config.write_text("b")
    assert processes.ensure("daemon", SLEEP, inputs=[config])
    assert processes.ensure("daemon", SLEEP, {"LEVEL": "1"}, inputs=[config])
    assert processes.ensure("daemon", ["sleep", "301"], {"LEVEL": "1"}, inputs=[config])
    assert not processes.ensure("daemon", ["sleep", "301"], {"LEVEL": "1"}, inputs=[config])


def test_a_daemon_that_died_is_started_again(processes: Processes) -> None:
    processes.ensure("daemon", ["true"])
    deadline = time.monotonic() + 10
    while processes.running("daemon") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert processes.ensure("daemon", SLEEP)


def test_stop_ends_the_daemon_and_forgets_it(processes: Processes) -> None:
    processes.ensure("daemon", SLEEP)
    identity = processes.running("daemon")
    assert identity is not None
    processes.stop("daemon")
    assert not identity.alive
    assert processes.names() == []


@pytest.mark.parametrize("foreign", ["start_ticks", "boot"])
def test_a_recycled_pid_is_never_taken_for_ours(processes: Processes, tmp_path: Path, foreign: str) -> None:
    processes.ensure("daemon", SLEEP)
    identity = processes.running("daemon")
    assert identity is not None
    stat = tmp_path / "processes" / "daemon.stat"
    if foreign == "start_ticks":
        stat.write_text(stat.read_text().replace(str(identity.start_ticks), str(identity.start_ticks - 1)))
    else:
        record = tmp_path / "processes" / "daemon.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"boot": "an earlier one"}))
    assert processes.running("daemon") is None
    processes.stop("daemon")
    assert identity.alive, "stop must not end a process that is not ours"
    os.kill(identity.pid, 9)
    wait_gone(identity)


def test_a_record_cut_short_belongs_to_no_process(processes: Processes, tmp_path: Path) -> None:
    processes.ensure("daemon", SLEEP)
    stat = tmp_path / "processes" / "daemon.stat"
    whole = stat.read_text()
    stat.write_text(whole[:10])
    assert processes.identity("daemon") is None
    stat.write_text(whole)


def test_the_output_is_kept_for_the_error_message(processes: Processes) -> None:
    processes.ensure("daemon", ["sh", "-c", "echo first; echo last >&2"])
    deadline = time.monotonic() + 10
    while "last" not in processes.log_tail("daemon"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert processes.log_tail("daemon", lines=1) == "last"
    assert processes.log_tail("nobody") == "(no output)"


def test_a_command_that_does_not_exist_leaves_a_dead_daemon_and_a_reason(processes: Processes) -> None:
    processes.ensure("daemon", ["/nowhere/daemon"])
    deadline = time.monotonic() + 10
    while processes.running("daemon") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "/nowhere/daemon" in processes.log_tail("daemon")
