"""Checks the model's folder, then becomes vLLM: `… -m warmfleet_runtime.engines.launch_vllm FOLDER URI -- COMMAND`.

It runs as the engine's own process, so that a storage that hangs costs the engine its start budget and nobody else.
"""

import os
import sys
from pathlib import Path

import msgspec

from warmfleet_runtime.engines.vllm import REFUSED_LINE, WEIGHT_BYTES_LINE
from warmfleet_runtime.preflight import RefusedError, weigh
from warmfleet_runtime.processes import die_with_parent


def main(arguments: list[str]) -> None:
    """Never returns: ends with a refusal on the log, or as vLLM."""
    die_with_parent()
    command = check(arguments)
    os.execv(command[0], command)


def check(arguments: list[str]) -> list[str]:
    """Check the model's folder and return the command that follows `--`.

    Raises:
        SystemExit: the folder is refused; the log says why.
    """
    folder, uri, _, *command = arguments
    try:
        weight_bytes = weigh(Path(folder), uri)
    except RefusedError as refused:
        _say(REFUSED_LINE + msgspec.json.encode(refused.error).decode())
        sys.exit(os.EX_CONFIG)
    _say(f"{WEIGHT_BYTES_LINE}{weight_bytes}")
    return command


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
