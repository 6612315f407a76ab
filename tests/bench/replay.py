"""`make bench-replay [TRACE=PATH]`: a trace of real requests, sped up, through the routers of a real cluster.

The trace is Azure's of 2023 (AzureLLMInferenceTrace_conv.csv of https://github.com/Azure/AzurePublicDataset, CC-BY 4.0)
or any other that `warmfleet simulate` reads; of the whole ones none ships with Warmfleet. All times are divided by one
number, which gives the wanted rate on average. Prompts have the trace's lengths, answers an event for so many of its
tokens. The engines are simulated and answer at once: what is measured is the way through the routers. Client, routers,
runners and the cluster share the machine; what the client sent late counts as late. A few slow requests come first,
whose figures don't count: routers and runners have only just started.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import figures
from bench.load import percentile, request
from bench.peers import CACHE
from bench.phases import Progress
from bench.traffic import Arrival, Seen, summary, traffic
from support.cluster import REPOSITORY, Cluster
from support.front_door import router_cpu_seconds, service_address
from support.models import simulated
from support.namespace import Namespace, new_name
from support.real_cluster import model_folder, operator_log, real_cluster
from support.waiting import wait_for
from warmfleet_api import names
from warmfleet_emulator.reading import ScenarioError
from warmfleet_emulator.traces import Traced, find_trace, read_trace

RESULT = REPOSITORY / "build" / "bench" / "replay.json"
TRACE = CACHE / "traces" / "AzureLLMInferenceTrace_conv.csv"
SOURCE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/master/data/AzureLLMInferenceTrace_conv.csv"
PICTURE = RESULT.with_suffix(".svg")
MODEL = "replayed"
REPLICAS = 2
"""On two cores more of them only take turns more often."""
FIRST_REQUESTS = 1000
FIRST_SLOWER = 4
"""The first ones come so many times more slowly."""
BYTES_PER_TOKEN = 4
MOST_PROMPT_BYTES = 32_000
TOKENS_PER_EVENT = 128
"""A stream of 200 tokens has two events and its end: at 1,000 requests a second all tokens would be 200,000 events."""
SUCCESS = 0.999
SHARES = (0.5, 0.9, 0.95, 0.99, 0.999)
WAIT_SECONDS = 300
console = Console(width=120)


def arrivals(trace: Sequence[Traced], model: str, rate: float) -> Iterator[Arrival]:
    """Yield the requests of a trace at so many a second on average."""
    speed = rate / (len(trace) / trace[-1].time)
    text = "word " * (MOST_PROMPT_BYTES // 5)
    for each in trace:
        prompt = text[: min(MOST_PROMPT_BYTES, each.prompt_tokens * BYTES_PER_TOKEN)] or "word"
        tokens = max(1, math.ceil(each.answer_tokens / TOKENS_PER_EVENT))
        fields = {"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True}
        yield Arrival(each.time / speed, request(fields), stream=True)


def replay(cluster: Cluster, trace: Sequence[Traced], rate: float) -> tuple[list[Seen], float]:
    """Send the trace; return what became of it, and the processor time of the routers in seconds."""
    namespace = Namespace(cluster, new_name("replay"), lambda: operator_log(cluster))
    namespace.create()
    try:
        model = simulated(MODEL, replicas=REPLICAS)
        model["spec"]["engine"]["simulated"] |= {"firstTokenMilliseconds": 0, "tokensPerSecond": 1000}
        # The routers ask for 50m: a runner shall get no less of a full machine.
        model["spec"]["resources"]["cpu"] = "100m"
        namespace.apply(model)
        namespace.wait_ready(MODEL, within=WAIT_SECONDS)
        target = f"{namespace.name}/{MODEL}"
        first = trace[:FIRST_REQUESTS]
        send(cluster, first, arrivals(first, target, rate / FIRST_SLOWER), "before")
        before = router_cpu_seconds(cluster)
        ended = send(cluster, trace, arrivals(trace, target, rate), "replay")
        return ended, router_cpu_seconds(cluster) - before
    finally:
        namespace.delete()


def send(cluster: Cluster, trace: Sequence[Traced], requests: Iterator[Arrival], what: str) -> list[Seen]:
    """Send the requests of a trace, and wait until all of them ended."""
    with traffic(service_address(cluster), names.SERVICE_PORT, requests, Progress(console, what)) as seen:
        wait_for("all requests ended", lambda: len(seen.ended) >= len(trace), WAIT_SECONDS)
    return seen.ended


def picture(outcomes: Sequence[Seen], title: str) -> str:
    """Return the percentiles of each second as SVG: median and 95th over time, and how many requests came."""
    width, height, left, top = 900, 300, 60, 40
    begun = min(each.due_at for each in outcomes)
    seconds: dict[int, list[float]] = {}
    for each in outcomes:
        if not each.trouble:
            seconds.setdefault(int(each.due_at - begun), []).append((each.first_at - each.due_at) * 1000)
    last = max(seconds, default=0) + 1
    most = max((percentile(values, 0.95) for values in seconds.values()), default=1.0)
    busiest = max((len(values) for values in seconds.values()), default=1)

    def line(colour: str, points: dict[int, float], top_value: float) -> str:
        steps = (
            f"{left + (width - left) * second / last:.1f},{top + height * (1 - value / top_value):.1f}"
            for second, value in sorted(points.items())
        )
        return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(steps)}"/>'

    medians = {second: percentile(values, 0.5) for second, values in seconds.items()}
    late = {second: percentile(values, 0.95) for second, values in seconds.items()}
    rates = {second: float(len(values)) for second, values in seconds.items()}
    words = (
        (left, 20, "#111", title),
        (left, 36, "#999", f"grey: requests a second, to {busiest}"),
        (left + 220, 36, "#1f77b4", "first byte, median"),
        (left + 360, 36, "#d62728", f"first byte, 95th percentile, to {most:.0f} ms"),
    )
    labels = "".join(f'<text x="{x}" y="{y}" fill="{colour}">{text}</text>' for x, y, colour, text in words)
    lines = line("#bbb", rates, busiest) + line("#1f77b4", medians, most) + line("#d62728", late, most)
    axis = f'<path d="M{left} {top}V{top + height}H{width}" stroke="#444" fill="none"/>'
    below = top + height + 18
    foot = f'<text x="{left}" y="{below}">0 s</text><text x="{width - 40}" y="{below}">{last} s</text>'
    size = f'viewBox="0 0 {width + 10} {below + 12}" width="{width + 10}" font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{labels}{axis}{lines}{foot}</svg>\n'


def main() -> int:
    """Bring a cluster up, replay, write and print the figures."""
    arguments = argparse.ArgumentParser(prog="bench.replay", description=__doc__.splitlines()[0])
    arguments.add_argument(
        "trace", nargs="?", default=str(TRACE), help=f"a .csv of Azure's format or a .jsonl of Mooncake's; else {TRACE}"
    )
    arguments.add_argument("--rate", type=float, default=1000.0, help="requests a second, on average")
    arguments.add_argument("--requests", type=int, default=0, help="so many from the beginning; 0: all")
    chosen = arguments.parse_args()
    try:
        trace = read_trace(find_trace(chosen.trace, Path.cwd()))[: chosen.requests or None]
    except (OSError, ScenarioError) as error:
        fetch = f"curl --fail --location --create-dirs --output {TRACE} {SOURCE}"
        arguments.error(f"{error}; give the path of another: make bench-replay TRACE=PATH, or fetch Azure's: {fetch}")
    with model_folder("bench-replay") as models, real_cluster("bench-replay", models) as cluster:
        outcomes, cpu_seconds = replay(cluster, trace, chosen.rate)
    return 0 if report(Path(chosen.trace).name, outcomes, cpu_seconds, chosen.rate) >= SUCCESS else 1


def report(name: str, outcomes: Sequence[Seen], cpu_seconds: float, rate: float) -> float:
    """Write and print the figures; return the share of the requests that was answered."""
    found = summary(outcomes)
    good = [(each.first_at - each.due_at) * 1000 for each in outcomes if not each.trouble] or [0.0]
    span = max(each.due_at for each in outcomes) - min(each.due_at for each in outcomes)
    percentiles = {f"first_byte_p{share * 100:g}_ms": round(percentile(good, share), 1) for share in SHARES}
    result = {
        "trace": name,
        "wanted_rate_per_second": rate,
        "rate_per_second": round(len(outcomes) / max(span, 0.001), 1),
        **found.figures(),
        **percentiles,
        "router_cpu_us_per_request": round(cpu_seconds / len(outcomes) * 1e6, 1),
        "tokens_per_event": TOKENS_PER_EVENT,
    }
    title = f"{name}: {len(outcomes)} requests at {rate:g} a second, {found.success:.3%} answered"
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(picture(outcomes, title))
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("", justify="right")
    for key, value in result.items():
        if not isinstance(value, dict):
            table.add_row(key, str(value))
    console.print(table)
    if found.lost:
        console.print(f"lost: {found.troubles}", soft_wrap=True)
    console.print(str(PICTURE.relative_to(REPOSITORY)))
    figures.write(RESULT, result)
    return found.success


if __name__ == "__main__":
    sys.exit(main())
