"""Processes that fill a store and are killed on their way: `python -m support.store_kills MODE ROOT SOURCE`.

stepwise   fills entry `a`; after each part it prints how many of `PARTS` are done, and waits for a line
naive      the same as `stepwise` by a loader without the store's protocol: the manifest first
everywhere runs one process after another that goes through all calls of a store, each killed one step later than
           the one before; prints what each left, as JSON lines
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from support.store_folders import MIB, allocated_bytes
from warmfleet_agent.store import Store, copying
from warmfleet_api import names
from warmfleet_api.weights import Manifest, Piece, decode_manifest

PARTS = 20
CAPACITY_BYTES = 64 * MIB
URI = "hf://org/model"
KEY = "a"
MAX_STEPS = 2000
_CHANGES = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.chmod", "os.truncate"}
"""Python's audit events of calls that change names or modes; kills between them are those of `stepwise`."""
_MODEL = "m/model.safetensors"


def sizes(source: Path) -> dict[str, int]:
    """Return the files of the entry: the source, and a small one."""
    return {_MODEL: source.stat().st_size, "config.json": 10}


def partial_entries(root: Path) -> list[str]:
    """Return the keys that a reader takes for whole, in the store or in a view, although they are not."""
    found = []
    for manifest in [*root.glob(f"entries/*/{names.MANIFEST_FILE}"), *root.glob(f"views/*/*/{names.MANIFEST_FILE}")]:
        entry = decode_manifest(manifest.read_bytes())
        for piece in entry.files:
            file = manifest.parent / piece.path
            if not file.is_file() or blake3(file.read_bytes()).hexdigest() != piece.blake3:
                found.append(entry.key)
    return found


def finish(store: Store, source: Path) -> int:
    """Fill and commit the entry, or what is missing of it, and return how many bytes that took."""
    written = 0
    with source.open("rb") as file, store.begin(KEY, sizes(source), URI) as draft:
        for path in sizes(source):
            for start, end in draft.missing(path):
                draft.write(path, start, os.pread(file.fileno(), end - start, start))
                written += end - start
            draft.seal(path)
        draft.commit(URI)
    return written


def _stepwise(root: Path, source: Path, *, is_durable: bool) -> None:
    size = source.stat().st_size
    store = Store(root, CAPACITY_BYTES, is_durable=is_durable)
    done = 0
    _pause(0)

    def progress(moved: int) -> None:
        nonlocal done
        before, done = done, done + moved
        if done * PARTS // size > before * PARTS // size:
            _pause(min(PARTS, done * PARTS // size))

    with source.open("rb") as file, store.begin(KEY, sizes(source), URI) as draft:
        if is_durable:
            step = -(-size // (2 * PARTS))
            for start in range(0, size, step):
                content = os.pread(file.fileno(), step, start)
                draft.write(_MODEL, start, content)
                draft.checkpoint()
                progress(len(content))
            draft.seal(_MODEL)
        else:
            copying.BLOCK_BYTES = size // (2 * PARTS)
            draft.fill(_MODEL, file.fileno(), progress)
        draft.fill("config.json", file.fileno())
        draft.commit(URI)
    _pause(PARTS + 1)


def _naive(root: Path, source: Path) -> None:
    content = source.read_bytes()
    folder = root / "entries" / KEY
    (folder / "m").mkdir(parents=True)
    piece = Piece(path=_MODEL, bytes=len(content), blake3=blake3(content).hexdigest())
    entry = Manifest(key=KEY, uri=URI, files=(piece,))
    (folder / names.MANIFEST_FILE).write_text(
        json.dumps(
            {
                "key": entry.key,
                "uri": URI,
                "files": [{"path": piece.path, "bytes": piece.bytes, "blake3": piece.blake3}],
            }
        )
    )
    step = len(content) // PARTS
    with (folder / _MODEL).open("wb") as file:
        for part in range(PARTS):
            _pause(part)
            file.write(content[part * step : (part + 1) * step])
            file.flush()


def _pause(done: int) -> None:
    _say(str(done))
    sys.stdin.readline()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _everything(root: Path, source: Path, *, is_durable: bool) -> None:
    """All that an agent does with a store, twice."""
    store = Store(root, CAPACITY_BYTES, is_durable=is_durable)
    for _ in range(2):
        for view in ("pod-1", "pod-2"):
            store.make_view(view)
        if KEY not in store.entries:
            finish(store, source)
        store.link("pod-1", KEY)
        store.link("pod-2", KEY)
        store.unlink("pod-2", KEY)
        store.remove_view("pod-2")
        store.evict(KEY)
    store.close()


def _killed_after(steps: int, action: Callable[[], None]) -> bool:
    """Run something in a process that is killed at its n-th step; return whether it was."""
    child = os.fork()
    if child == 0:
        left = steps

        def step(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in _CHANGES or (event == "open" and arguments[2] & os.O_CREAT):
                left -= 1
                if left < 0:
                    signal.raise_signal(signal.SIGKILL)

        sys.addaudithook(step)
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("the process failed before it was killed")
    return os.WIFSIGNALED(status)


def _everywhere(root: Path, source: Path, *, is_durable: bool) -> None:
    for steps in range(MAX_STEPS):
        was_killed = _killed_after(steps, lambda: _everything(root, source, is_durable=is_durable))
        partial = partial_entries(root)
        store = Store(root, CAPACITY_BYTES, is_durable=is_durable)
        usage = store.usage()
        found = {
            "partial": partial,
            "partial_after": partial_entries(root),
            "entries": sorted(store.entries),
            "drafts": sorted(store.idle_drafts),
            "accounted": usage.entry_bytes + usage.draft_bytes,
            "allocated": allocated_bytes(root),
        }
        store.close()
        _say(json.dumps(found))
        if not was_killed:
            return


def main() -> None:
    """Do as the module says."""
    mode, root, source = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    is_durable = mode.endswith("-disk")
    if mode == "naive":
        _naive(root, source)
    elif mode.startswith("stepwise"):
        _stepwise(root, source, is_durable=is_durable)
    else:
        _everywhere(root, source, is_durable=is_durable)


if __name__ == "__main__":
    main()
