"""What is done to a cluster while requests come, what becomes of those of each phase, and how that is told."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import figures
from bench.traffic import Summary, Traffic

CALM_SECONDS = 5
"""After what is done, so that what it does to requests falls into its phase."""
ENDING_SECONDS = 3
"""Before the next thing is done: what was sent until now has ended by then, the longest streams too."""
SHOWN_SECONDS = 5.0


@dataclass
class Phases:
    """What was done while requests came, and when."""

    seen: Traffic
    console: Console
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    _open_from: float | None = None
    """Since when requests wait for the phase that they count to."""

    @contextmanager
    def phase(self, name: str, *, calm_seconds: float = CALM_SECONDS) -> Iterator[None]:
        """Requests that are due while the context is open count to this phase.

        Without calm the next phase follows at once. Else what is still under way ends before it, and what comes
        meanwhile counts to it: that may meet what is done next.
        """
        begun, self._open_from = self._open_from or time.monotonic(), None
        yield
        time.sleep(calm_seconds)
        self.spans[name] = begun, time.monotonic()
        if calm_seconds:
            self._open_from = self.spans[name][1]
            time.sleep(ENDING_SECONDS)
        found = self.seen.since(*self.spans[name])
        self.console.print(f"  {name}: {found.requests} requests until now, {found.lost} lost {found.troubles or ''}")

    def summaries(self) -> dict[str, Summary]:
        """Return the figures of each, once all requests have ended."""
        return {name: self.seen.since(*span) for name, span in self.spans.items()}


@dataclass
class Progress:
    """Shows how far traffic is, every few seconds, on one line where somebody looks."""

    console: Console
    what: str
    _shown_at: float = 0.0

    def __call__(self, seen: Traffic) -> None:
        """Show it, unless it was shown just now."""
        now = time.monotonic()
        if now - self._shown_at >= SHOWN_SECONDS:
            self._shown_at = now
            lost = sum(bool(each.trouble) for each in list(seen.ended))
            line = f"  {self.what}: {seen.sent} sent, {len(seen.ended)} ended, {lost} lost"
            self.console.print(line, end="\r" if self.console.is_terminal else "\n", highlight=False)


def report(console: Console, path: Path, title: str, found: Mapping[str, Summary], settings: Mapping[str, Any]) -> None:
    """Print and write the figures of phases; `settings` and other figures stand before them."""
    table = Table(title=title, title_justify="left")
    for header in ("what was done", "requests", "lost", "answered %", "first byte p50 ms", "p99 ms", "sent late"):
        table.add_column(header, justify="left" if header == "what was done" else "right")
    for name, each in found.items():
        p50, p99 = (f"{value * 1000:.1f}" for value in (each.first_byte_p50_seconds, each.first_byte_p99_seconds))
        table.add_row(name, f"{each.requests}", f"{each.lost}", f"{each.success:.3%}", p50, p99, f"{each.sent_late}")
    console.print(table)
    for name, each in found.items():
        if each.lost:
            console.print(f"{name}: {each.troubles}", soft_wrap=True)
    figures.write(path, {**settings, "phases": {name: each.figures() for name, each in found.items()}})
