"""Reads a scenario from YAML; what is wrong is said with its line, its field and what to write."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from warmfleet_emulator.scenario import Scenario

SHIPPED = Path(__file__).parent / "scenarios"
_MOST_PROBLEMS = 10
_PATH = re.compile(r"([a-z]\w*(?:\.\w+)+): ")


class ScenarioError(ValueError):
    """A scenario can't be read. The message has a line for each problem."""


def shipped_scenarios() -> list[str]:
    """Names of the scenarios that ship with Warmfleet."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name: str) -> Path:
    """Return the file of a path, or of a scenario that ships with Warmfleet.

    Raises:
        ScenarioError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name}.yaml"
    if "/" not in name and shipped.is_file():
        return shipped
    raise ScenarioError(
        f"{name}: there is no such file; give the path of a fleet in YAML, or one of those that ship with Warmfleet: "
        f"{', '.join(shipped_scenarios())}"
    )


def read(path: Path) -> list[Scenario]:
    """Read the scenarios of a file, one per YAML document.

    Raises:
        ScenarioError: it is no YAML, or no scenario.
        OSError: it can't be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        values = list(yaml.safe_load_all(text))
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: it is no text in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ScenarioError(f"{where}: this is no YAML: {getattr(error, 'problem', None) or error}") from error
    found = []
    for document, value in zip(documents, values, strict=True):
        if document is None:
            continue
        try:
            found.append(Scenario.model_validate(value))
        except ValidationError as error:
            raise ScenarioError("\n".join(_problems(path, document, error))) from error
    if not found:
        raise ScenarioError(f"{path}: it is empty; write nodes: and models:, see docs/guide/simulate.md")
    return found


def _problems(path: Path, document: yaml.Node, error: ValidationError) -> list[str]:
    problems = []
    for each in error.errors()[:_MOST_PROBLEMS]:
        location = tuple(part for part in each["loc"] if part != "function-after")
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            message = "there is no such field; correct it, or remove it (docs/guide/simulate.md lists all)"
        elif each["type"] == "missing":
            message = "it is missing; write it"
        elif "ctx" not in each and each["type"] not in {"value_error"}:
            message = f"{message} (it says {str(each['input'])[:60]!r})"
        field = ".".join(str(part) for part in location)
        named = _PATH.match(message)
        if named is not None:
            # What concerns several fields together is said of the one that is to be changed.
            location = (*location, *(int(part) if part.isdigit() else part for part in named[1].split(".")))
        problems.append(f"{path}:{_line(document, location)}: {field + ': ' if field else ''}{message}")
    more = error.error_count() - len(problems)
    return [*problems, *([f"{path}: and {more} more"] if more > 0 else [])]


def _line(node: yaml.Node, location: tuple[Any, ...]) -> int:
    """Return the line of a field, or of what it should stand in."""
    line = node.start_mark.line + 1
    for part in location:
        child = None
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is not None:
                line, child = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
            line = child.start_mark.line + 1
        if child is None:
            break
        node = child
    return line
