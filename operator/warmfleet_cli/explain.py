"""`warmfleet explain MODEL`: why a model is as it is, what it waits for, behind whom, and what a person can do."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmfleet_api import names, quantity
from warmfleet_api.operator_api import EngineEntry, FleetAnswer, NodeEntry, PendingEntry, QueueAnswer, RunnerEntry
from warmfleet_api.vocabulary import ConditionType, Reason
from warmfleet_cli.show import View, add_cluster_arguments, add_output_argument, add_watch_argument, show
from warmfleet_cli.words import seconds

if TYPE_CHECKING:
    from warmfleet_cli.access import Access, ModelObject

NAME = "explain"
HELP = "why a model is as it is: its state, its place in the queue and who is before it, its engines, what to do"

_SHOWN_BEFORE = 5
_ASK_A_PERSON = (ConditionType.STALLED, ConditionType.DEGRADED)


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """What `--output json` writes."""

    namespace: str
    model: str
    ready: str
    """Status of the condition Ready: True, False or Unknown."""
    status: str
    """Its reason."""
    summary: str
    """Its message."""
    facts: tuple[tuple[str, str], ...]
    """What there is to know, each with its heading."""
    before: tuple[str, ...]
    """Starts whose turn comes before this model's, next one first."""
    advice: tuple[str, ...]
    """What a person can do; empty: nothing has to be done."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", help="name of the ModelDeployment")
    add_cluster_arguments(parser)
    add_output_argument(parser)
    add_watch_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Explain the model."""

    async def look(access: "Access") -> View:
        model = await access.model(arguments.namespace, arguments.model)
        queue = await access.ask(names.PATH_QUEUE, QueueAnswer)
        fleet = await access.ask(names.PATH_FLEET, FleetAnswer, arguments.namespace)
        explanation = explain(model, queue, fleet)
        return View(explanation, picture(explanation))

    return show(arguments, look)


def explain(model: "ModelObject", queue: QueueAnswer, fleet: FleetAnswer) -> Explanation:
    """Put together what objects and operator say of a model."""
    whose = model.metadata.namespace, model.metadata.name
    conditions = {each["type"]: each for each in model.status.get("conditions", ())}
    ready = conditions.get(ConditionType.READY, {})
    pending = next((each for each in queue.starts if (each.namespace, each.model) == whose), None)
    facts = [("wanted", _wish(model.spec))]
    dormant = model.status.get("dormant")
    if dormant is not None:
        facts.append(("asleep", f"since {dormant['time']}: {dormant['reason']}; a request wakes it"))
    standby = model.status.get("standby")
    if standby is not None:
        facts.append(("standby", _standby(standby)))
    facts += [("scaling", line) for line in _scaling(model.spec, model.status.get("scaling"))]
    if pending is not None:
        facts += _start(pending)
    facts += [("engine", line) for line in _engines(fleet, *whose)]
    facts += [("weights", line) for line in _weights(model.status.get("weights", ()))]
    last = model.status.get("lastStart")
    if last is not None:
        facts.append(("last start", f"{last['summary']}, {last['time']}"))
    return Explanation(
        namespace=whose[0],
        model=whose[1],
        ready=str(ready.get("status", "Unknown")),
        status=str(ready.get("reason", "")),
        summary=str(ready.get("message", "the operator has not looked at it yet; is it running?")),
        facts=tuple(facts),
        before=tuple(_before(pending, queue)) if pending is not None else (),
        advice=tuple(_advice(conditions, pending)),
    )


def picture(explanation: Explanation) -> RenderableType:
    """Return the explanation for people."""
    style = {"True": "green", "False": "red"}.get(explanation.ready, "yellow")
    title = Text.assemble(
        (f"{explanation.namespace}/{explanation.model}", "bold"),
        "  Ready ",
        (explanation.ready, style),
        f"  {explanation.status}",
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("", explanation.summary)
    former = ""
    for heading, text in explanation.facts:
        table.add_row("" if heading == former else heading, text)
        former = heading
    if explanation.before:
        table.add_row("before it", "\n".join(explanation.before))
    table.add_row("what to do", "\n".join(explanation.advice) or "nothing")
    return Group(title, table)


def _wish(spec: Mapping[str, Any]) -> str:
    resources = spec.get("resources", {})
    gpus = resources.get("gpus")
    idle = spec.get("idle", {})
    parts = [
        f"{spec.get('replicas', 1)} of {spec.get('model', {}).get('uri', '')}",
        f"class {spec.get('priority', 'Normal')}",
        f"{gpus} {resources.get('gpuResource', names.DEFAULT_GPU_RESOURCE)}" if gpus else "",
        f"{resources.get('memory')} memory" if "memory" in resources else "",
        f"in pool {', '.join(spec['pools'])}" if spec.get("pools") else "",
        f"sleeps after {seconds(idle['afterSeconds'])} without a request" if "afterSeconds" in idle else "",
        "never gives way" if idle.get("policy") == "Keep" else "",
    ]
    return ", ".join(part for part in parts if part)


def _standby(told: Mapping[str, Any]) -> str:
    where = f" on {', '.join(told['nodes'])}" if told.get("nodes") else ""
    message = f": {told['message']}" if told.get("message") else ""
    return f"{told['mode']}, {told.get('readyReplicas', 0)} of {told['replicas']} could take over{where}{message}"


def _scaling(spec: Mapping[str, Any], told: Mapping[str, Any] | None) -> Iterator[str]:
    block = spec.get("autoscaling")
    if block is None:
        return
    bounds = f"{block.get('minReplicas', 1)} to {block.get('maxReplicas', 5)} replicas"
    yield f"{bounds} by policy {block.get('policy', 'Demand')}"
    if told is None:
        return
    wish = "not known" if "wish" not in told else str(told["wish"])
    yield f"wish {wish}: {told['reason']}" if told.get("reason") else f"wish {wish}"
    for step in reversed(told.get("steps", ())):
        yield f"{step['time']} from {step['fromReplicas']} to {step['toReplicas']}: {step['reason']}"


def _start(pending: PendingEntry) -> Iterator[tuple[str, str]]:
    place = f" {pending.position} of {pending.of}" if pending.position else ""
    where = f" for {pending.place}" if pending.place and pending.reason is not None else ""
    kind = f"{pending.start_type} start" if pending.start_type is not None else "start"
    if pending.reason is not None:
        yield "waits", f"{kind}{place}{where} for {seconds(pending.waited_seconds)}: {pending.reason}"
        if pending.blocker:
            yield "waits", pending.blocker
    else:
        yield "starts", f"{kind} on {pending.place}, in stage {pending.stage}"
    if pending.total_bytes:
        done = quantity.format_bytes(pending.fetched_bytes)
        yield "fetched", f"{done} of {quantity.format_bytes(pending.total_bytes)}"
    if pending.ready_seconds is not None:
        forecast = f": {pending.forecast}" if pending.forecast else ""
        yield "ready in", f"{seconds(pending.ready_seconds)}{forecast}"
    else:
        yield "ready in", pending.forecast or "nobody can tell"
    if pending.deadline_seconds is not None:
        late = pending.misses_deadline_seconds
        due = seconds(pending.deadline_seconds) if pending.deadline_seconds >= 0 else "passed"
        yield "deadline", due + (f", expected {seconds(late)} late" if late is not None else ", expected to be met")


def _engines(fleet: FleetAnswer, namespace: str, name: str) -> Iterator[str]:
    for node, runner, engine in _all_engines(fleet):
        if (runner.namespace, engine.model) != (namespace, name):
            continue
        idle = f", idle for {seconds(engine.idle_seconds)}" if engine.idle_seconds is not None else ""
        load = f", {engine.running} running and {engine.waiting} waiting requests"
        gpus = f" on GPU {', '.join(map(str, engine.gpus))}" if engine.gpus else ""
        lost = f" ({runner.lost})" if runner.lost else ""
        where = f"{runner.name} on {node.name}{gpus}{lost}"
        reserved = quantity.format_bytes(engine.reserved_bytes)
        yield f"{engine.id}: {engine.state} in {where}, {reserved} reserved{load}{idle}"


def _all_engines(fleet: FleetAnswer) -> Iterator[tuple[NodeEntry, RunnerEntry, EngineEntry]]:
    for node in fleet.nodes:
        for runner in node.runners:
            for engine in runner.engines:
                yield node, runner, engine


def _weights(weights: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for entry in weights:
        memory, disk = entry.get("memoryNodes", ()), entry.get("diskNodes", ())
        where = [f"in memory of {', '.join(memory)}"] if memory else []
        where += [f"on disk of {', '.join(disk)}"] if disk else []
        size = quantity.format_bytes(int(entry["bytes"]))
        yield f"{entry['uri']} at {entry['revision'][:12]}, {size}: {' and '.join(where) or 'on no node yet'}"


def _before(pending: PendingEntry, queue: QueueAnswer) -> Iterator[str]:
    before = [each for each in queue.starts if each.position and each.position < pending.position]
    for each in before[:_SHOWN_BEFORE]:
        due = f", ready in {seconds(each.ready_seconds)}" if each.ready_seconds is not None else ""
        yield f"{each.position}. {each.namespace}/{each.model} ({each.priority}){due}"
    if len(before) > _SHOWN_BEFORE:
        yield f"and {len(before) - _SHOWN_BEFORE} more: warmfleet queue -A"


def _advice(conditions: Mapping[str, Mapping[str, Any]], pending: PendingEntry | None) -> Iterator[str]:
    """Yield what conditions ask of a person; each message names the thing to change or the command to type."""
    for kind in _ASK_A_PERSON:
        condition = conditions.get(kind)
        if condition is not None and condition["status"] == "True":
            yield f"{kind}/{condition['reason']}: {condition['message']}"
    if pending is not None and pending.reason is Reason.FLOORS_HELD:
        yield pending.blocker
