"""Traces of requests, as published: the formats of Azure's and Mooncake's, and how their requests get models.

* Azure (https://github.com/Azure/AzurePublicDataset, CC-BY 4.0): CSV with TIMESTAMP, ContextTokens, GeneratedTokens.
* Mooncake (https://github.com/kvcache-ai/Mooncake, Apache-2.0): JSON lines with timestamp (ms), input_length,
  output_length.
"""

import csv
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from warmfleet_emulator.demand import Request
from warmfleet_emulator.reading import SHIPPED, ScenarioError
from warmfleet_emulator.scenario import Scenario, TraceBlock

MOST_REQUESTS = 2_000_000


@dataclass(frozen=True, slots=True)
class Traced:
    """A request of a trace."""

    time: float
    """Seconds since the first one."""
    prompt_tokens: int
    answer_tokens: int


def find_trace(name: str, beside: Path) -> Path:
    """Return the file of a trace: a path, a path beside the scenario's, or the name of one that ships with Warmfleet.

    Raises:
        ScenarioError: there is none.
    """
    for path in (Path(name), beside.parent / name, SHIPPED / name):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.name for path in (*SHIPPED.glob("*.csv"), *SHIPPED.glob("*.jsonl"))))
    raise ScenarioError(f"{name}: there is no such trace; give a path, or one of those that ship: {shipped}")


def read_trace(path: Path) -> list[Traced]:
    """Read a trace, in the order of its times, which begin with 0.

    Raises:
        ScenarioError: it has another format.
        OSError: it can't be read.
    """
    found: list[Traced] = []
    line = 0
    try:
        with path.open(encoding="utf-8") as file:
            for line, each in _rows(file, path.suffix):  # noqa: B007 - the line is for the message
                found.append(each)
                if len(found) > MOST_REQUESTS:
                    raise ScenarioError(f"{path}: more than {MOST_REQUESTS} requests; cut it")
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, ScenarioError):
            raise
        raise ScenarioError(
            f"{path}:{line + 1}: this is no trace: it needs columns TIMESTAMP,ContextTokens,GeneratedTokens (.csv), or "
            f"lines with timestamp in ms, input_length and output_length (.jsonl): {error}"
        ) from error
    if not found:
        raise ScenarioError(f"{path}: it holds no request")
    first = min(each.time for each in found)
    moved = (Traced(each.time - first, each.prompt_tokens, each.answer_tokens) for each in found)
    return sorted(moved, key=lambda each: each.time)


def requests_of(scenario: Scenario, trace: Sequence[Traced]) -> list[Request]:
    """Return the requests of a trace that come before the simulation ends, each for a model."""
    block = scenario.trace or TraceBlock()
    names = scenario.model_names()
    windows: dict[int, list[str]] = {}
    requests = []
    chance = random.Random(block.seed)
    for each in trace:
        if each.time > scenario.until_seconds:
            break
        window = int(each.time // block.window_seconds)
        if window not in windows:
            windows[window] = _active(names, block, window)
        seconds = each.prompt_tokens / block.prompt_tokens_per_second
        seconds += each.answer_tokens / block.answer_tokens_per_second
        requests.append(Request(each.time, chance.choice(windows[window]), seconds))
    return requests


def _active(names: Sequence[str], block: TraceBlock, window: int) -> list[str]:
    """Return the models that have requests in a window, without one twice."""
    chance = random.Random(block.seed * 1_000_003 + window)
    left = list(names)
    chosen = []
    for _ in range(min(block.active_models, len(names))):
        weights = [1 / (names.index(name) + 1) ** block.popularity for name in left]
        name = chance.choices(left, weights)[0]
        left.remove(name)
        chosen.append(name)
    return chosen


def _rows(file: Iterator[str], suffix: str) -> Iterator[tuple[int, Traced]]:
    if suffix == ".jsonl":
        for number, text in enumerate(file, start=1):
            if text.strip():
                row = json.loads(text)
                yield number, _traced(float(row["timestamp"]) / 1000, row["input_length"], row["output_length"])
        return
    lines = (text for text in file if not text.startswith("#"))
    for number, row in enumerate(csv.DictReader(lines), start=2):
        time = datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC).timestamp()
        yield number, _traced(time, row["ContextTokens"], row["GeneratedTokens"])


def _traced(time: float, prompt: int | str, answer: int | str) -> Traced:
    traced = Traced(time, int(prompt), int(answer))
    if not (time >= 0 and traced.prompt_tokens >= 0 and traced.answer_tokens >= 0):
        raise ValueError("a number is below 0")
    return traced
