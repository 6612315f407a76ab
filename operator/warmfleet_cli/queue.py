"""`warmfleet queue`: the starts that wait, in the order of their turns, and those under way."""

import argparse
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmfleet_api import names
from warmfleet_api.operator_api import PendingEntry, QueueAnswer
from warmfleet_cli.show import View, add_view_arguments, namespace_of, show
from warmfleet_cli.words import seconds

if TYPE_CHECKING:
    from warmfleet_cli.access import Access

NAME = "queue"
HELP = "starts that wait, in the order of their turns, and those under way: position, time to Ready, blocker"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_view_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the queue."""
    namespace = namespace_of(arguments)

    async def look(access: "Access") -> View:
        answer = await access.ask(names.PATH_QUEUE, QueueAnswer, namespace)
        return View(answer, picture(answer))

    return show(arguments, look)


def picture(answer: QueueAnswer) -> RenderableType:
    """Return the queue as a table."""
    if not answer.starts:
        return Text("nothing waits and nothing starts")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("#", "MODEL", "CLASS", "TYPE", "STAGE", "WAITED", "READY IN", "DEADLINE", "WHERE"):
        table.add_column(header, justify="right" if header in {"#", "WAITED", "READY IN", "DEADLINE"} else "left")
    table.add_column("WHY", overflow="fold", ratio=1)
    for start in answer.starts:
        table.add_row(
            str(start.position) if start.position else "",
            f"{start.namespace}/{start.model}",
            start.priority,
            start.start_type or "-",
            start.stage,
            seconds(start.waited_seconds),
            seconds(start.ready_seconds),
            _deadline(start),
            start.place or "-",
            why(start),
        )
    waiting = sum(start.reason is not None for start in answer.starts)
    return Group(table, Text(f"{waiting} wait, {len(answer.starts) - waiting} under way", style="dim"))


def why(start: PendingEntry) -> str:
    """Return why a start waits, or where its time goes while it is under way."""
    if start.reason is not None:
        return f"{start.reason}: {start.blocker}" if start.blocker else str(start.reason)
    return start.blocker or start.forecast


def _deadline(start: PendingEntry) -> Text:
    if start.deadline_seconds is None:
        return Text("-")
    late = start.misses_deadline_seconds
    text = f"in {seconds(start.deadline_seconds)}" if start.deadline_seconds >= 0 else "passed"
    return Text(f"{text}, {seconds(late)} late", style="red") if late is not None else Text(text)
