"""Keeps built layers by the hash of their inputs; a layer that is there never changes again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from imagebuild.tree import Digest, digest, seal
from localcluster.progress import Say

_UNUSED_SECONDS = 3600.0
"""A layer that no image uses is kept this long, for a command that reads it just now."""


@dataclass(frozen=True)
class Layer:
    """A layer on this machine."""

    directory: Path
    """The tree itself, owners and modes as in a container."""
    digest: Digest


class LayerStore:
    """The layers below one directory: `NAME-KEY/tree` is the content, `NAME-KEY/layer.json` its digest."""

    def __init__(self, directory: Path, say: Say) -> None:
        self._directory = directory
        self._say = say

    def obtain(self, name: str, key: str, fill: Callable[[Path], None]) -> Layer:
        """The layer of this name and key; `fill` writes its tree into an empty directory when it is not there yet."""
        place = self._directory / f"{name}-{key[:16]}"
        if not place.exists():
            self._build(name, place, fill)
        recorded = json.loads((place / "layer.json").read_text())
        return Layer(place / "tree", Digest(**recorded))

    def prune(self, used: Collection[Path]) -> None:
        """Remove layers whose tree is not among `used` and that were built over an hour ago."""
        for place in sorted(self._directory.iterdir()):
            if place / "tree" not in used and time.time() - place.stat().st_mtime > _UNUSED_SECONDS:
                self._say(f"removing {place.name}, which no image uses any more")
                shutil.rmtree(place)

    def _build(self, name: str, place: Path, fill: Callable[[Path], None]) -> None:
        started = time.monotonic()
        self._say(f"building layer {name}")
        self._directory.mkdir(parents=True, exist_ok=True)
        # A build that was killed leaves its directory; it is in nobody's way, and `prune` removes it.
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self._directory))
        try:
            tree = unfinished / "tree"
            tree.mkdir(mode=0o755)
            fill(tree)
            seal(tree)
            self._say(f"hashing layer {name}")
            content = digest(tree)
            (unfinished / "layer.json").write_text(json.dumps(asdict(content)))
            unfinished.chmod(0o755)
            os.utime(unfinished)
            unfinished.rename(place)
        except BaseException:
            shutil.rmtree(unfinished)
            raise
        size = content.size_bytes / 1e6
        self._say(f"built layer {name}: {size:,.0f} MB in {time.monotonic() - started:.1f} s")
