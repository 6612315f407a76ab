"""The command `hack/images/engine_arguments`: keeps the committed table of vLLM's options true to the built image."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile

from imagebuild.build import RECIPES, REPOSITORY, RUNTIME
from imagebuild.commands import docker_answers
from imagebuild.errors import BuildError
from localcluster.paths import images_directory

TABLE = REPOSITORY / "operator" / "warmfleet_api" / "vllm_arguments.json"
PROGRAM = RECIPES / "engine_arguments.py"


def built_python() -> list[str] | None:
    """The command that runs the Python of the built runtime image, or None where the image is not built."""
    description = images_directory() / RUNTIME.name / "image.json"
    if description.exists():
        for layer in json.loads(description.read_text()).get("layers", []):
            environment = description.parent / layer["directory"] / "opt" / "warmfleet"
            if (environment / "bin" / "vllm").exists():
                return [str(environment / "bin" / "python")]
    inspect = ["docker", "image", "inspect", RUNTIME.reference]
    if docker_answers() and subprocess.run(inspect, capture_output=True, check=False).returncode == 0:
        return ["docker", "run", "--rm", "--interactive", "--entrypoint", "python", RUNTIME.reference]
    return None


def generate(python: list[str]) -> str:
    """The table as the vLLM of this Python has it.

    Raises:
        BuildError: vLLM could not be asked.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # A layer never changes: neither bytecode nor anything that vLLM caches goes into it.
        environment = {**os.environ, "HOME": scratch, "VLLM_CACHE_ROOT": scratch, "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(
            [*python, "-"],
            input=PROGRAM.read_text(),
            env=environment,
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode != 0:
        raise BuildError(f"{PROGRAM.name} failed:\n{result.stderr[-2000:]}")
    return result.stdout


def main() -> None:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(
        prog="hack/images/engine_arguments",
        description="Writes the table of vLLM's options anew, from the built runtime image.",
    )
    parser.add_argument("--check", action="store_true", help="only compare; passes where the image is not built")
    check: bool = parser.parse_args().check
    shown = TABLE.relative_to(REPOSITORY)
    python = built_python()
    if python is None:
        message = f"{shown} is not compared: the runtime image is not built (hack/images/build)"
        sys.exit(message) if not check else print(message)
        return
    try:
        table = generate(python)
    except BuildError as error:
        sys.exit(f"hack/images/engine_arguments: {error}")
    if not check:
        TABLE.write_text(table)
    elif table != TABLE.read_text():
        sys.exit(f"{shown} is not what the pinned vLLM says; run hack/images/engine_arguments and commit the result")
    print(f"{shown} is what the pinned vLLM says")


if __name__ == "__main__":
    main()
