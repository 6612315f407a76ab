"""The table of vLLM's options, as the runtime image of this machine has them.

Only there can vLLM be imported, so where no runtime image of the pinned version was built nothing is generated.
"""

import json
import os
import re
import subprocess
from pathlib import Path

from localcluster.paths import images_directory

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = Path("operator/warmfleet_api/vllm_arguments.json")
_LOCK = REPOSITORY / "hack" / "images" / "warmfleet-runtime" / "requirements.lock"
_GENERATOR = REPOSITORY / "hack" / "images" / "engine_arguments.py"
_INTERPRETER = "opt/warmfleet/bin/python"
_GENERATE_SECONDS = 300


class EngineTableError(Exception):
    """The runtime image's environment could not tell its options; the message carries what it printed."""


def pinned_version() -> str:
    """Return the version of vLLM that the runtime image is locked to."""
    found = re.search(r"^vllm(?:-cpu)?==([^\s\\+]+)", _LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise EngineTableError(f"{_LOCK} names no version of vLLM; run hack/images/lock")
    return found[1]


def table_version(text: str) -> str:
    """Return the version of vLLM that a table is of."""
    return str(json.loads(text)["version"])


def engine_table() -> str | None:
    """Return the table of the runtime image built here; None where there is none of the pinned version.

    Raises:
        EngineTableError: it is there and does not answer.
    """
    interpreter = _interpreter()
    if interpreter is None:
        return None
    try:
        done = subprocess.run(
            [str(interpreter), str(_GENERATOR)],
            check=True,
            capture_output=True,
            text=True,
            timeout=_GENERATE_SECONDS,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        output = str(error.stderr or "")[-1000:]
        raise EngineTableError(f"{interpreter} {_GENERATOR}: {error}\n{output}") from error
    return done.stdout if table_version(done.stdout) == pinned_version() else None


def _interpreter() -> Path | None:
    description = images_directory() / "warmfleet-runtime" / "image.json"
    if not description.exists():
        return None
    layers = json.loads(description.read_text()).get("layers", [])  # none where Docker keeps them
    candidates = [description.parent / layer["directory"] / _INTERPRETER for layer in layers]
    return next((each for each in candidates if each.exists()), None)
