"""What this runner's engines compiled, packed for the node's agent by a process of its own.

An engine that is Ready, compiled something and was not given it by the weight store leaves a pack in the outbox; the
runner's status offers it. Once the node's agent shows the entry to this runner, the pack has done its work and goes.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from warmfleet_api import artifacts, names
from warmfleet_api.runner_status import CompileCacheOffer
from warmfleet_api.vocabulary import Stage
from warmfleet_runtime import processes
from warmfleet_runtime.machine.state import Engine, Phase

PACK_SECONDS = 300.0
"""A packing that takes longer is given up."""
LOOK_SECONDS = 1.0
"""Between two looks whether an offer was taken."""
MAX_OFFERS = 64
_log = logging.getLogger("supervisor.outbox")


@dataclass(frozen=True, slots=True)
class _Packing:
    """A packing under way."""

    pid: int
    offer: CompileCacheOffer
    deadline: float


class Outbox:
    """The packs of one runner."""

    def __init__(self, cache: Path, weights: Path) -> None:
        """`cache`: the runner's cache volume; `weights`: its view of the weight store."""
        self._cache = cache
        self._weights = weights
        self._packing: _Packing | None = None
        self._offers: dict[str, CompileCacheOffer] = {}
        self._seen: set[str] = set()
        """Names that were packed, or found to need no packing."""
        self._look_at = 0.0
        self._has_news = False

    @property
    def offers(self) -> tuple[CompileCacheOffer, ...]:
        """What lies in the outbox and was not taken yet."""
        return tuple(self._offers.values())

    def keep(self, engines: Iterable[Engine]) -> bool:
        """Begin what is to be packed, and withdraw what was taken; return whether the offers changed."""
        now = time.monotonic()
        if self._packing is not None:
            if now >= self._packing.deadline:
                processes.signal_group(self._packing.pid, signal.SIGKILL)
        elif len(self._offers) < MAX_OFFERS:
            self._pack_next(engines, now)
        self._withdraw(now)
        has_news, self._has_news = self._has_news, False
        return has_news

    def exited(self, ended: processes.Exit) -> bool:
        """Take note of a reaped child; return whether it was a packing."""
        if self._packing is None or self._packing.pid != ended.pid:
            return False
        offer, self._packing = self._packing.offer, None
        if ended.exit_code == 0:
            self._offers[offer.name] = offer
            self._has_news = True
            _log.info("offering the compile cache %s, which took %d ms to compile", offer.name, offer.milliseconds)
        return True

    def stop(self) -> None:
        """End the packing under way."""
        if self._packing is not None:
            processes.signal_group(self._packing.pid, signal.SIGKILL)

    def _pack_next(self, engines: Iterable[Engine], now: float) -> None:
        for engine in engines:
            compiled = next((each for each in engine.stages if each.name is Stage.COMPILED), None)
            if engine.phase is not Phase.READY or compiled is None or not engine.entries:
                continue
            name = artifacts.cache_name(engine.content.engine)
            if name in self._seen:
                continue
            self._seen.add(name)
            if not self._is_shown(name):
                offer = CompileCacheOffer(name=name, milliseconds=compiled.milliseconds)
                target = str(self._pack_of(name))
                command = (sys.executable, "-m", "warmfleet_runtime.compile_cache", str(self._cache / name), target)
                self._packing = _Packing(processes.spawn(command, os.environ), offer, now + PACK_SECONDS)
                return

    def _withdraw(self, now: float) -> None:
        if not self._offers or now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        taken = [name for name in self._offers if self._is_shown(name)]
        for name in taken:
            del self._offers[name]
            self._pack_of(name).unlink(missing_ok=True)
            self._has_news = True

    def _is_shown(self, name: str) -> bool:
        """Whether the weight store has it and shows it to this runner."""
        return any(self._weights.glob(f"{name}-*/{names.MANIFEST_FILE}"))

    def _pack_of(self, name: str) -> Path:
        return self._cache / artifacts.OUTBOX / f"{name}.pack"
