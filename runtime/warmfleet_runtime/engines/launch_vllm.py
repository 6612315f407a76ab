"""Checks the folders an engine reads, unpacks what others compiled for it, then becomes vLLM.

    … -m warmfleet_runtime.engines.launch_vllm FOLDER URI [draft FOLDER URI] [adapter FOLDER URI]... \\
        compile-cache FOLDER SHOWN -- COMMAND

It runs as the engine's own process, so that a storage that hangs costs the engine its start budget and nobody else.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from warmfleet_api import names
from warmfleet_api.artifacts import PACK_FILE, PackError
from warmfleet_runtime.compile_cache import unpack
from warmfleet_runtime.engines.vllm_serve import ADAPTER, DRAFT, RANK, rank_option
from warmfleet_runtime.preflight import RefusedError, weigh, weigh_adapter
from warmfleet_runtime.processes import die_with_parent, let_front_go_first

REFUSED_LINE = "warmfleet refused: "
"""Starts the log line by which a folder is refused; an `EngineError` follows."""
WEIGHT_BYTES_LINE = "warmfleet weight bytes: "
"""Starts the log line that tells how many bytes the engine reads."""
COMPILE_CACHE = "compile-cache"
"""Before the folder with the engine's own caches, and where a view shows one, without the last part of its key."""
COMPILE_CACHE_LINE = "warmfleet compile cache files: "
"""Starts the log line that tells how many files of a compile cache were unpacked."""


def main(arguments: list[str]) -> None:
    """Never returns: ends with a refusal on the log, or as vLLM."""
    die_with_parent()
    let_front_go_first()
    command = check(arguments)
    os.execv(command[0], command)


def check(arguments: list[str]) -> list[str]:
    """Check the folders and return the command that follows `--`, with the rank of its adapters in it.

    Raises:
        SystemExit: a folder is refused; the log says why.
    """
    end = arguments.index("--")
    folders, command = arguments[:end], arguments[end + 1 :]
    try:
        weight_bytes, rank = _weigh(folders)
    except RefusedError as refused:
        _say(REFUSED_LINE + msgspec.json.encode(refused.error).decode())
        sys.exit(os.EX_CONFIG)
    _say(f"{WEIGHT_BYTES_LINE}{weight_bytes}")
    for kind, folder, shown in _further(folders):
        if kind == COMPILE_CACHE:
            take_compile_cache(Path(folder), shown)
    return [rank_option(rank) if text == RANK else text for text in command]


def take_compile_cache(cache: Path, shown: str) -> None:
    """Unpack the compile cache that the view shows, unless the engine has one of its own; never fails.

    Args:
        cache: folder of the engine's own.
        shown: path of the entry, without the last part of its key; empty: what is there goes, and nothing is taken.
    """
    if not shown:
        _say(f"compiling anew, without {cache}: the last starts failed")
        shutil.rmtree(cache, ignore_errors=True)
        return
    if cache.exists():
        return
    path = Path(shown)
    for entry in sorted(path.parent.glob(f"{path.name}-*/{names.MANIFEST_FILE}")):
        try:
            files = unpack(entry.with_name(PACK_FILE), cache, path.name)
        except (PackError, OSError) as error:
            _say(f"compiling anew: {entry.parent.name} can't be used: {error}")
        else:
            _say(f"{COMPILE_CACHE_LINE}{files}")
            return


def _weigh(folders: Sequence[str]) -> tuple[int, int]:
    """Return the bytes of all that is read, and the highest rank of an adapter."""
    weight_bytes, highest = weigh(Path(folders[0]), folders[1]), 1
    for kind, folder, uri in _further(folders):
        if kind == DRAFT:
            weight_bytes += weigh(Path(folder), uri, "engine.speculative.uri")
        elif kind == ADAPTER:
            size, rank = weigh_adapter(Path(folder), uri)
            weight_bytes, highest = weight_bytes + size, max(highest, rank)
    return weight_bytes, highest


def _further(folders: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield what stands after the model, three by three."""
    for index in range(2, len(folders), 3):
        yield folders[index : index + 3]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
