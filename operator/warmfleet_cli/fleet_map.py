"""`warmfleet map`: nodes, their runners and what lies in them, as bars."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from warmfleet_api import names, quantity
from warmfleet_api.operator_api import EngineEntry, FleetAnswer, NodeEntry, RunnerEntry
from warmfleet_api.vocabulary import EngineState, EntryState, Tier
from warmfleet_cli.show import View, add_view_arguments, namespace_of, show
from warmfleet_cli.words import portions, seconds, share

if TYPE_CHECKING:
    from warmfleet_cli.access import Access

NAME = "map"
HELP = "nodes and GPUs as bars: which engine is where, awake or asleep, what is free, how full the weight stores are"

BAR_WIDTH = 48
CELL_WIDTH = 14
STYLES = {
    EngineState.READY: "black on green",
    EngineState.STARTING: "black on yellow",
    EngineState.ASLEEP: "white on blue",
    EngineState.DRAINING: "black on magenta",
    EngineState.FAILED: "white on red",
}
_FREE = "bright_black on default"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--node", default="", help="this node alone")
    parser.add_argument("--all", action="store_true", help="nodes without runners and weights too")
    add_view_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the map."""
    namespace = namespace_of(arguments)

    async def look(access: "Access") -> View:
        whole = await access.ask(names.PATH_FLEET, FleetAnswer, namespace)
        answer = narrowed(whole, node=arguments.node, everything=arguments.all or bool(arguments.node))
        return View(answer, picture(answer, hidden=len(whole.nodes) - len(answer.nodes)))

    return show(arguments, look)


def narrowed(answer: FleetAnswer, *, node: str, everything: bool) -> FleetAnswer:
    """Return the nodes that were asked for."""
    nodes = tuple(
        each for each in answer.nodes if (not node or each.name == node) and (everything or each.runners or each.cached)
    )
    return FleetAnswer(time=answer.time, fragmentation=answer.fragmentation, nodes=nodes)


def picture(answer: FleetAnswer, *, hidden: int = 0) -> RenderableType:
    """Return the map; `hidden` nodes were left out."""
    parts: list[RenderableType] = [line for node in answer.nodes for line in _node(node)]
    if not answer.nodes:
        parts.append(Text("no node has runners or weights" if hidden else "no node has GPUs, runners or weights"))
    legend = Text()
    for state, style in STYLES.items():
        legend.append(f" {state} ", style)
        legend.append(" ")
    legend.append(f"fragmentation {answer.fragmentation:.2f}")
    if hidden:
        legend.append(f", {hidden} nodes without runners and weights left out (--all)")
    parts.append(legend)
    return Group(*parts)


def _node(node: NodeEntry) -> Iterator[Text]:
    marks = [] if node.ready else ["not Ready"]
    marks += ["cordoned"] if node.cordoned else []
    facts = [f"{node.gpus_used} of {node.gpus} GPUs"] if node.gpus else []
    facts.append(f"memory {share(node.memory_used_bytes, node.memory_bytes)}")
    facts += [f"weights {tier.tier} {share(tier.used_bytes, tier.capacity_bytes)}" for tier in node.tiers]
    line = Text.assemble((node.name, "bold"), "  ")
    line.append(", ".join(marks) + "  " if marks else "", "red")
    line.append(" · ".join(facts))
    yield line
    for runner in node.runners:
        yield _runner(node, runner)
    in_memory = [each.key for each in node.cached if each.tier is Tier.MEMORY and each.state is EntryState.PRESENT]
    coming = [each for each in node.cached if each.state in {EntryState.FETCHING, EntryState.PROMOTING}]
    if in_memory:
        yield Text(f"  weights in memory: {', '.join(in_memory)}", style="dim")
    for entry in coming:
        yield Text(f"  {entry.state} {entry.key}: {share(entry.fetched_bytes, entry.bytes)}", style="dim")


def _runner(node: NodeEntry, runner: RunnerEntry) -> Text:
    owner = f"pool {runner.pool}" if runner.pool else "own"
    line = Text(f"  {runner.namespace}/{runner.name} ({owner})  ")
    if runner.lost or runner.terminating:
        line.append(f"{runner.lost or 'terminating'}  ", "red")
    if runner.gpus:
        for gpu in range(runner.gpus):
            line.append_text(_gpu(node, runner, gpu))
    else:
        line.append_text(_memory(runner))
    return line


def _gpu(node: NodeEntry, runner: RunnerEntry, gpu: int) -> Text:
    """Return the cell of one GPU: the engine that is awake on it, and how many sleep there."""
    there = [engine for engine in runner.engines if gpu in engine.gpus]
    awake = next((engine for engine in there if engine.state is not EngineState.ASLEEP), None)
    sleeping = len(there) - (awake is not None)
    name = awake.model if awake is not None else "free" if not there else there[0].model
    beside = f"+{sleeping}z" if awake is not None and sleeping else ""
    style = STYLES[awake.state] if awake is not None else STYLES[EngineState.ASLEEP] if there else _FREE
    text = f"{gpu}:{name}"[: CELL_WIDTH - len(beside)] + beside
    return Text.assemble("│", (text.ljust(CELL_WIDTH), style))


def _memory(runner: RunnerEntry) -> Text:
    """Return the bar of a runner without GPUs: its memory limit, divided among its engines."""
    engines = list(runner.engines)
    reserved = [float(engine.reserved_bytes) for engine in engines]
    free = max(0.0, runner.memory_bytes - sum(reserved))
    line = Text("│")
    for engine, width in zip([*engines, None], portions([*reserved, free], BAR_WIDTH), strict=True):
        if engine is None:
            text = f" {quantity.format_bytes(int(free))} not reserved"
            line.append(text[:width].ljust(width, "·"), _FREE)
        else:
            line.append(_label(engine)[:width].ljust(width), STYLES[engine.state])
    line.append("│")
    return line


def _label(engine: EngineEntry) -> str:
    idle = f" idle {seconds(engine.idle_seconds)}" if engine.idle_seconds is not None else ""
    busy = f" {engine.running}+{engine.waiting}" if engine.running or engine.waiting else ""
    return f" {engine.model} {quantity.format_bytes(engine.reserved_bytes)}{busy}{idle}"
