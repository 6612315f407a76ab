"""A picture of simulations: who was where when, as SVG. One panel per policy, one lane per runner and engine in it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from warmfleet_api.vocabulary import Stage
from warmfleet_emulator.outcome import Outcome, Span

_WIDTH: Final = 1100
_LEFT: Final = 150
_RIGHT: Final = 20
_LANE: Final = 16
_HEAD: Final = 34
_GAP: Final = 22
_TICKS: Final = 10
_MOST_SPANS: Final = 20_000
READY: Final = "Ready"
COLOURS: Final[Mapping[str, tuple[str, str]]] = {
    Stage.ENGINE_FORKED.value: ("#4e79a7", "processor: imports, configuration"),
    Stage.WEIGHTS_LOADED.value: ("#f28e2b", "link: weights into the GPU"),
    Stage.CACHE_ALLOCATED.value: ("#9c755f", "graphs, caches"),
    Stage.WARMED_UP.value: ("#edc948", "warm-up"),
    "wake": ("#b07aa1", "wake"),
    "sleep": ("#76b7b2", "falls asleep"),
    READY: ("#8cd17d", "Ready"),
}
"""What a span shows: its colour and its words."""


def picture(panels: Sequence[tuple[str, Outcome]]) -> str:
    """Return an SVG of outcomes, each with its title; all have one scale of time, so that they can be compared."""
    end = max((span.end for _, outcome in panels for span in outcome.spans), default=1.0) or 1.0
    parts: list[str] = []
    top: float = _HEAD
    for title, outcome in panels:
        drawn, height = _panel(title, outcome, end, top)
        parts += drawn
        top += height + _GAP
    legend = _legend(top)
    height = top + 24
    style = "text{font:11px sans-serif;fill:#222}.t{font-weight:bold;font-size:13px}.g{stroke:#ddd}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
            f'viewBox="0 0 {_WIDTH} {height:.0f}">',
            f"<style>{style}</style>",
            f'<rect width="{_WIDTH}" height="{height:.0f}" fill="white"/>',
            *parts,
            *legend,
            "</svg>",
            "",
        ]
    )


def _panel(title: str, outcome: Outcome, end: float, top: float) -> tuple[list[str], float]:
    lanes = _lanes(outcome.spans)
    height = _HEAD + len(lanes) * _LANE
    parts = [f'<text class="t" x="8" y="{top}">{escape(title)}</text>']
    for tick in range(_TICKS + 1):
        x = _x(end * tick / _TICKS, end)
        parts.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 22}" y2="{top + height}"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + 18}" text-anchor="middle">{end * tick / _TICKS:.0f} s</text>')
    last = ""
    for number, (runner, spans) in enumerate(lanes):
        y = top + _HEAD - 8 + number * _LANE
        if runner != last:
            parts.append(f'<text x="8" y="{y + 11:.1f}">{escape(runner[:24])}</text>')
            last = runner
        parts += [_bar(span, end, y) for span in spans]
    return parts, height


def _lanes(spans: Iterable[Span]) -> list[tuple[str, list[Span]]]:
    """Deal the spans of each runner out to lanes in which nothing overlaps; a model keeps its lane if it can."""
    by_runner: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda each: (each.begin, each.end))[:_MOST_SPANS]:
        by_runner[span.node, span.runner].append(span)
    lanes: list[tuple[str, list[Span]]] = []
    for (_, runner), group in sorted(by_runner.items()):
        rows: list[list[Span]] = []
        for span in group:
            fitting = [row for row in rows if row[-1].end <= span.begin + 1e-6]
            row = next((each for each in fitting if each[-1].model == span.model), fitting[0] if fitting else None)
            if row is None:
                row = []
                rows.append(row)
            row.append(span)
        lanes += [(runner, row) for row in rows]
    return lanes


def _bar(span: Span, end: float, y: float) -> str:
    x, width = _x(span.begin, end), max(0.4, _x(span.end, end) - _x(span.begin, end))
    colour, words = COLOURS.get(span.what, ("#bab0ac", span.what))
    said = f"{span.model}: {words}, {span.begin:.1f} to {span.end:.1f} s"
    bar = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_LANE - 3}" fill={quoteattr(colour)}>'
        f"<title>{escape(said)}</title></rect>"
    )
    if span.what != READY or width < len(span.model) * 6 + 6:
        return bar
    return f'{bar}<text x="{x + 3:.1f}" y="{y + 10:.1f}">{escape(span.model)}</text>'


def _legend(top: float) -> list[str]:
    parts = []
    x = 8.0
    for colour, words in COLOURS.values():
        parts.append(f'<rect x="{x:.0f}" y="{top:.0f}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16:.0f}" y="{top + 10:.0f}">{escape(words)}</text>')
        x += 16 + 7 * len(words) + 14
    return parts


def _x(seconds: float, end: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / end
