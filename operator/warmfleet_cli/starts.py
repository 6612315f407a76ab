"""`warmfleet starts`: where the last start of each model spent its time, as a waterfall."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmfleet_cli.errors import CommandError
from warmfleet_cli.show import View, add_view_arguments, namespace_of, show
from warmfleet_cli.words import bar, seconds

if TYPE_CHECKING:
    from warmfleet_cli.access import Access, ModelObject

NAME = "starts"
HELP = "the last start of each model, or of one, stage by stage as a waterfall"

BAR_WIDTH = 40
STYLES = {
    "Queued": "bright_black",
    "NodeProvisioned": "bright_black",
    "RunnerScheduled": "bright_black",
    "ImagePulled": "magenta",
    "RunnerReady": "magenta",
    "WeightsInMemory": "blue",
    "EngineForked": "cyan",
    "WeightsLoaded": "blue",
    "Compiled": "yellow",
    "CacheAllocated": "cyan",
    "WarmedUp": "green",
    "Routable": "green",
}
"""Colour of each stage: what is waited for, what is carried, what the engine does."""


class StageLine(msgspec.Struct, frozen=True, rename="camel"):
    """One stage of a start."""

    name: str
    milliseconds: int
    start_milliseconds: int
    """Since the start was wanted."""


class StartLine(msgspec.Struct, frozen=True, rename="camel"):
    """One start that ended."""

    namespace: str
    model: str
    start_type: str
    result: str
    time: str
    node: str
    milliseconds: int
    """From the wish to the first engine that can be reached."""
    stages: tuple[StageLine, ...]
    error: str = ""


class Starts(msgspec.Struct, frozen=True):
    """What `--output json` writes."""

    starts: tuple[StartLine, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", nargs="?", default="", help="this model alone")
    add_view_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the starts."""

    async def look(access: "Access") -> View:
        if arguments.model:
            if arguments.all_namespaces:
                raise CommandError("a model is of one namespace: name it with --namespace, or leave the model out")
            models: Sequence[ModelObject] = [await access.model(arguments.namespace, arguments.model)]
        else:
            models = await access.models(namespace_of(arguments))
        starts = Starts(tuple(line for model in models if (line := line_of(model)) is not None))
        return View(starts, picture(starts.starts, in_full=bool(arguments.model)))

    return show(arguments, look)


def line_of(model: "ModelObject") -> StartLine | None:
    """Return a model's last start, None where it had none."""
    last: Mapping[str, Any] | None = model.status.get("lastStart")
    if last is None:
        return None
    stages: list[StageLine] = []
    passed = 0
    for stage in last.get("stages", ()):
        milliseconds = int(stage["milliseconds"])
        stages.append(StageLine(str(stage["name"]), milliseconds, passed))
        passed += milliseconds
    return StartLine(
        namespace=model.metadata.namespace,
        model=model.metadata.name,
        start_type=str(last["startType"]),
        result=str(last["result"]),
        time=str(last["time"]),
        node=str(last["node"]),
        milliseconds=passed or int(last["durationMilliseconds"]),
        stages=tuple(stages),
        error=str(last.get("error", "")),
    )


def picture(starts: Sequence[StartLine], *, in_full: bool) -> RenderableType:
    """Return the starts, the latest first: each as one bar of coloured stages, in full with a line per stage."""
    if not starts:
        return Text("no start has ended yet; what waits or is under way shows: warmfleet queue")
    ordered = sorted(starts, key=lambda each: each.time, reverse=True)
    if in_full:
        return Group(*(_waterfall(each) for each in ordered))
    longest = max(each.milliseconds for each in ordered)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("MODEL", "TYPE", "RESULT", "NODE", "ENDED", "TOTAL", "STAGES"):
        table.add_column(header, justify="right" if header == "TOTAL" else "left", no_wrap=header == "STAGES")
    for each in ordered:
        result = Text(each.result, style="red" if each.result == "Failed" else "")
        table.add_row(
            f"{each.namespace}/{each.model}",
            each.start_type,
            result,
            each.node,
            each.time,
            seconds(each.milliseconds / 1000),
            _strip(each, longest),
        )
    shown = [name for name in STYLES if any(stage.name == name for each in ordered for stage in each.stages)]
    legend = Text.assemble(*((f"█ {name}  ", STYLES[name]) for name in shown))
    return Group(table, legend)


def _strip(start: StartLine, longest: int) -> Text:
    """Return all stages in one line; what takes less than a character is left out."""
    strip = Text()
    for stage in start.stages:
        first = round(stage.start_milliseconds / longest * BAR_WIDTH) if longest else 0
        last = round((stage.start_milliseconds + stage.milliseconds) / longest * BAR_WIDTH) if longest else 0
        strip.append("█" * (last - first), STYLES.get(stage.name, ""))
    return strip


def _waterfall(start: StartLine) -> RenderableType:
    title = Text.assemble(
        (f"{start.namespace}/{start.model}", "bold"),
        f"  {start.start_type} on {start.node}, {start.result} {start.time}, {seconds(start.milliseconds / 1000)}",
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    for stage in start.stages:
        end = stage.start_milliseconds + stage.milliseconds
        text = bar(stage.start_milliseconds, end, start.milliseconds, BAR_WIDTH)
        table.add_row(stage.name, seconds(stage.milliseconds / 1000), Text(text, STYLES.get(stage.name, "")))
    parts: list[RenderableType] = [title, table]
    if start.error:
        parts.append(Text(start.error, style="red"))
    return Group(*parts)
