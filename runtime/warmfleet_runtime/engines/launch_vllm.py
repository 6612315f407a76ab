"""Checks the folders an engine reads, then becomes vLLM.

    … -m warmfleet_runtime.engines.launch_vllm FOLDER URI [draft FOLDER URI] [adapter FOLDER URI]... -- COMMAND

It runs as the engine's own process, so that a storage that hangs costs the engine its start budget and nobody else.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from warmfleet_runtime.engines.vllm_serve import DRAFT, RANK, rank_option
from warmfleet_runtime.preflight import RefusedError, weigh, weigh_adapter
from warmfleet_runtime.processes import die_with_parent

REFUSED_LINE = "warmfleet refused: "
"""Starts the log line by which a folder is refused; an `EngineError` follows."""
WEIGHT_BYTES_LINE = "warmfleet weight bytes: "
"""Starts the log line that tells how many bytes the engine reads."""


def main(arguments: list[str]) -> None:
    """Never returns: ends with a refusal on the log, or as vLLM."""
    die_with_parent()
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
    return [rank_option(rank) if text == RANK else text for text in command]


def _weigh(folders: Sequence[str]) -> tuple[int, int]:
    """Return the bytes of all that is read, and the highest rank of an adapter."""
    weight_bytes, highest = weigh(Path(folders[0]), folders[1]), 1
    for index in range(2, len(folders), 3):
        kind, folder, uri = folders[index : index + 3]
        if kind == DRAFT:
            weight_bytes += weigh(Path(folder), uri, "engine.speculative.uri")
        else:
            size, rank = weigh_adapter(Path(folder), uri)
            weight_bytes, highest = weight_bytes + size, max(highest, rank)
    return weight_bytes, highest


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
