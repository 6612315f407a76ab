"""The zygote with something light in the place of vLLM: `python -P fake_zygote.py FAULT`.

Everything else is the real thing: link, forks, sessions, environment. An engine says what it was given, and sleeps.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from warmfleet_runtime.engines.vllm_zygote import private
from warmfleet_runtime.engines.vllm_zygote.__main__ import run

READ_AT_IMPORT = "READ_AT_IMPORT"
AT_IMPORT = ModuleType("at_import")
"""A library with a constant."""


class FakeVllm:
    """Serves nothing."""

    def serve(self, arguments: Sequence[str], *, forks: bool) -> None:
        """Say everything a test wants to see of an engine, start a process, and stay."""
        if "fail" in arguments:
            raise RuntimeError("as told")
        helper = os.fork()
        if helper == 0:
            time.sleep(600)
        descriptors = sorted(path.name for path in Path("/proc/self/fd").iterdir() if path.exists())
        told = {
            "arguments": " ".join(arguments),
            "forks": forks,
            "cache": AT_IMPORT.cache,
            "variable": os.environ.get("VARIABLE"),
            "descriptors": " ".join(descriptors),
            "helper": helper,
        }
        sys.stdout.write("".join(f"{name} {value}\n" for name, value in told.items()))
        sys.stdout.flush()
        time.sleep(600)


def load() -> private.Vllm:
    """Read an environment variable and a path from the environment, as libraries do at import; fail as asked."""
    os.environ.get(READ_AT_IMPORT)
    AT_IMPORT.cache = os.environ["XDG_CACHE_HOME"] + "/library"  # type: ignore[attr-defined]
    sys.modules[AT_IMPORT.__name__] = AT_IMPORT
    match sys.argv[1]:
        case "hang":
            time.sleep(600)
        case "crash":
            sys.exit("no such module")
        case "mismatch":
            raise private.MismatchError("vLLM 9.9 is installed")
        case "thread":
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return cast(private.Vllm, cast(Any, FakeVllm()))


if __name__ == "__main__":
    run(load)
