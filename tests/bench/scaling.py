"""`make bench-scaling`: replicas that follow demand, by each policy on one trace, and on a real cluster.

The first part is simulated and takes seconds: the three policies, and one and five replicas beside them. The second
brings a cluster up and lets a HorizontalPodAutoscaler follow a stepped load through the routers (`scaling_cluster.py`).
"""

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import scaling_cluster, scaling_trace
from bench.scaling_picture import picture
from support.cluster import REPOSITORY

RESULT = REPOSITORY / "build" / "bench" / "scaling.json"
PICTURE = RESULT.with_suffix(".svg")
PARTS = ("trace", "cluster")


def table_of(figures: dict[str, Any]) -> Table:
    """Return the cases beside one another."""
    table = Table(title=f"{figures['requests']} requests of {figures['trace']}", title_justify="left", box=None)
    for column in ("policy", "overload s", "replica s", "wait mean s", "wait p99 s", "most", "scalings"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    for name, case in figures["policies"].items():
        cells = ("overload_seconds", "replica_seconds", "wait_seconds_mean", "wait_seconds_p99", "replicas_most")
        table.add_row(name, *(f"{case[each]:g}" for each in cells), str(len(case["scalings"])))
    return table


def panels_of(result: dict[str, Any]) -> list[tuple[str, list[list[float]]]]:
    """Return what the picture shows."""
    panels = [
        (f"Policy {name}, on a trace, simulated", case["moments"])
        for name, case in result.get("trace", {}).get("policies", {}).items()
        if not name.startswith("always")
    ]
    series = result.get("cluster", {}).get("series", ())
    if series:
        moments = [[each["seconds"], each["demand"] or 0, each["replicas"], each["ready"]] for each in series]
        panels.append(("A real HorizontalPodAutoscaler on a real cluster", moments))
    return panels


def main() -> None:
    """Measure, print, and write figures and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; the other's figures stay")
    parts = parser.parse_args().part or PARTS
    console = Console()
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if "trace" in parts:
        with console.status("three policies on one trace"):
            result["trace"] = scaling_trace.measure()
        console.print(table_of(result["trace"]), "")
    if "cluster" in parts:
        result["cluster"] = scaling_cluster.measure(lambda said: console.print(f"[dim]{said}[/dim]"))
        console.print({name: value for name, value in result["cluster"].items() if name != "series"})
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PICTURE.write_text(picture(panels_of(result)))
    console.print(f"{PICTURE.relative_to(REPOSITORY)}\n{RESULT.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
