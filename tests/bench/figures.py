"""How benchmarks tell what they found: a table, and a file with the figures whose path is printed last."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.load import percentile
from support.cluster import REPOSITORY


def write(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, whose names have the units, and print the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(f"{path.relative_to(REPOSITORY)}\n")
    sys.stdout.flush()


def show(console: Console, title: str, rows: Sequence[Any]) -> None:
    """Print dataclasses of one kind, each as a line; what is None is left empty."""
    table = Table(title=title, title_justify="left")
    for column in asdict(rows[0]):
        table.add_column(column)
    for row in rows:
        table.add_row(*map(_cell, asdict(row).values()))
    console.print(table)


def show_sideways(console: Console, title: str, rows: Sequence[Any], head: str) -> None:
    """Print dataclasses of one kind, each as a column below its field `head`: for those of many figures."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    columns = [asdict(each) for each in rows]
    for column in columns:
        table.add_column(column.pop(head), justify="right")
    for name in columns[0]:
        table.add_row(name, *(_cell(column[name]) for column in columns))
    console.print(table)


def p(values: Sequence[float], share: float, digits: int = 4) -> float | None:
    """Return a percentile for a table, None if there is nothing to take it of."""
    return round(percentile(values, share), digits) if values else None


def _cell(value: object) -> str:
    return "" if value is None else str(value)
