"""What a cluster was asked to be, kept on disk so that every command continues where the last one stopped."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from localcluster.errors import ClusterError


@dataclass(frozen=True)
class Fleet:
    """The fake nodes of a cluster."""

    count: int = 0
    gpus: int = 8
    gpu_memory_bytes: int = 80 * 2**30
    zones: int = 3
    tainted: bool = True
    player_command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wish:
    """What `up` may be told; None leaves a thing as it is."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    gpu_memory_bytes: int | None = None
    fast_node_loss: bool | None = None


@dataclass(frozen=True)
class Record:
    """The wished state of one cluster."""

    provider: str
    index: int
    nodes: int = 3
    gpus_per_node: int = 0
    gpu_memory_bytes: int = 80 * 2**30
    fast_node_loss: bool = False
    fleet: Fleet = field(default_factory=Fleet)
    images: tuple[str, ...] = ()

    def wished(self, wish: Wish) -> Self:
        """This record with what `wish` says."""
        said = {key: value for key, value in asdict(wish).items() if value is not None}
        return replace(self, **said)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".new")
        scratch.write_text(json.dumps(asdict(self), indent=2))
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read it; None when there is none.

        Raises:
            ClusterError: another version of this program wrote it.
        """
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        try:
            fleet = content.pop("fleet")
            fleet["player_command"] = tuple(fleet["player_command"])
            content["images"] = tuple(content["images"])
            return cls(fleet=Fleet(**fleet), **content)
        except (KeyError, TypeError) as error:
            raise ClusterError(
                f"{path} was written by another version ({error}); end that cluster with its version"
            ) from None
