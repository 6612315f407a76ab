"""Replicas and demand over time as SVG: one panel per policy, and one for a real cluster."""

from collections.abc import Sequence
from typing import Final

_WIDTH: Final = 1100
_LEFT: Final = 60
_RIGHT: Final = 50
_PANEL: Final = 150
_HEAD: Final = 26
_DEMAND, _REPLICAS, _READY = "#4e79a7", "#e15759", "#59a14f"
_TICKS: Final = 8

Moment = Sequence[float]
"""Seconds, demand, replicas, ready."""


def picture(panels: Sequence[tuple[str, Sequence[Moment]]]) -> str:
    """Return the panels, each with its title; each has its own scale of time, and requests on the left."""
    height = len(panels) * (_PANEL + _HEAD + 20) + 30
    style = "text{font:11px sans-serif;fill:#222}.t{font-weight:bold;font-size:13px}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">',
        f"<style>{style}</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, (title, moments) in enumerate(panels):
        parts += _panel(title, moments, number * (_PANEL + _HEAD + 20) + _HEAD)
    parts += _legend(height - 12)
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, moments: Sequence[Moment], top: float) -> list[str]:
    end = max(each[0] for each in moments) or 1.0
    demand = max(1.0, *(each[1] for each in moments))
    replicas = max(1.0, *(max(each[2], each[3]) for each in moments)) + 1
    bottom, width = top + _PANEL, _WIDTH - _LEFT - _RIGHT

    def x(seconds: float) -> float:
        return _LEFT + width * seconds / end

    def steps(column: int, most: float) -> str:
        points = []
        for before, after in zip(moments, [*moments[1:], moments[-1]], strict=True):
            level = bottom - _PANEL * before[column] / most
            points += [f"{x(before[0]):.1f},{level:.1f}", f"{x(after[0]):.1f},{level:.1f}"]
        return " ".join(points)

    parts = [
        f'<text class="t" x="{_LEFT}" y="{top - 8}">{title}</text>',
        f'<rect x="{_LEFT}" y="{top}" width="{width}" height="{_PANEL}" fill="none" stroke="#ccc"/>',
        f'<polygon points="{_LEFT},{bottom} {steps(1, demand)} {_LEFT + width},{bottom}" fill="{_DEMAND}" '
        'fill-opacity="0.35"/>',
        f'<polyline points="{steps(3, replicas)}" fill="none" stroke="{_READY}" stroke-dasharray="4 2"/>',
        f'<polyline points="{steps(2, replicas)}" fill="none" stroke="{_REPLICAS}" stroke-width="1.8"/>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end" fill="{_DEMAND}">{demand:.0f}</text>',
    ]
    for count in range(1, int(replicas) + 1):
        level = bottom - _PANEL * count / replicas
        parts.append(f'<text x="{_LEFT + width + 6}" y="{level + 4:.1f}">{count}</text>')
    for tick in range(_TICKS + 1):
        seconds = end * tick / _TICKS
        parts.append(f'<text x="{x(seconds):.1f}" y="{bottom + 13}" text-anchor="middle">{seconds:.0f} s</text>')
    return parts


def _legend(y: float) -> list[str]:
    words = ((_DEMAND, "requests that wait or run (left)"), (_REPLICAS, "replicas (right)"), (_READY, "ready"))
    parts = []
    for number, (colour, text) in enumerate(words):
        x = _LEFT + 230 * number
        parts.append(f'<rect x="{x}" y="{y - 9}" width="12" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{text}</text>')
    return parts
