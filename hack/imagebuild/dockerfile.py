"""Reads the settings of an image from the last stage of its Dockerfile, so that they are said once."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from imagebuild.errors import BuildError

Settings = dict[str, object]


def settings(dockerfile: Path) -> Settings:
    """The `config` of the OCI image that the last stage of a Dockerfile describes: Env, User, WorkingDir, Entrypoint.

    Raises:
        BuildError: An instruction after the last FROM is none of COPY, ENV, USER, WORKDIR and an ENTRYPOINT in JSON.
    """
    environment: list[str] = []
    found: Settings = {"Env": environment}
    for instruction, argument in _last_stage(dockerfile):
        match instruction:
            case "ENV":
                environment.extend(shlex.split(argument))
            case "USER":
                found["User"] = argument
            case "WORKDIR":
                found["WorkingDir"] = argument
            case "ENTRYPOINT" if argument.startswith("["):
                found["Entrypoint"] = json.loads(argument)
            case "COPY":  # the layers themselves
                continue
            case _:
                raise BuildError(
                    f"{dockerfile}: the last stage says {instruction} {argument}, which imagebuild cannot read"
                )
    return found


def _last_stage(dockerfile: Path) -> list[tuple[str, str]]:
    """Instruction and argument of each line after the last FROM, comments dropped and continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stage: list[tuple[str, str]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, argument = line.strip().partition(" ")
        if instruction == "FROM":
            stage = []
        else:
            stage.append((instruction, argument.strip()))
    return stage
