"""Settings of the agent: environment variables with the prefix `WARMFLEET_`. What to keep is not among them: that
stands in the node's NodeCache, and changes while the agent runs."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from warmfleet_api import names
from warmfleet_kube.command import read_settings

VERSION = version("warmfleet")
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """What the agent's DaemonSet sets; every field is `WARMFLEET_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="WARMFLEET_", frozen=True, use_attribute_docstrings=True)

    node_name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the node; that of its NodeCache too."""
    cache: str = ""
    """Name of the WeightCache this agent was made for, for logs."""
    memory_path: Path = Path("/dev/shm/model_cache")
    """Where the tmpfs is, on the node and in the agent alike."""
    memory_mount: Literal["Own", "Present"] = "Own"
    """Own: the agent mounts the tmpfs, or adopts and resizes it. Present: an administrator keeps that folder."""
    disk_path: Path | None = None
    """Where the folder on disk is; empty: none."""
    kubelet_path: Path | None = Path("/var/lib/kubelet")
    """Kubelet's folder; empty: the runners of this node get no views."""
    memory_limit_bytes: Annotated[int, Field(ge=0)] = 0
    """Memory limit of the container, which the tmpfs counts against; 0: none."""
    kubeconfig: str = Field(default_factory=lambda: os.environ.get("KUBECONFIG", ""))
    """Path of a kubeconfig. Default: KUBECONFIG, else the pod's service account."""
    port: Annotated[int, Field(ge=0, le=65_535)] = names.AGENT_PORT
    """Port of health, metrics and the status stream; 0 takes a free one and logs it."""
    private_sources: bool = False
    """Whether sources may lie at private addresses, for mirrors inside the company."""
    request_seconds: Seconds = 10
    """Time limit of one request to the Kubernetes API."""
    watch_seconds: Annotated[float, Field(ge=2, le=600)] = 50
    """The server is asked to end each watch after this long; one that is silent for 10 s more is cut."""
    blind_seconds: Seconds = 120
    """/livez goes red when the watch has not been heard of for this long."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    @field_validator("disk_path", "kubelet_path", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("memory_path", "disk_path", "kubelet_path")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        if path is not None and (not path.is_absolute() or ".." in path.parts or path == Path("/")):
            raise ValueError(f"{str(path)!r} is not an absolute folder; write for instance /var/lib/warmfleet/cache")
        return path

    @model_validator(mode="after")
    def _apart(self) -> "Settings":
        disk, memory = self.disk_path, self.memory_path
        if disk is not None and (disk == memory or disk in memory.parents or memory in disk.parents):
            raise ValueError(f"{names.ENV_DISK_PATH}={disk} and {names.ENV_MEMORY_PATH}={memory} lie in each other")
        return self


def load() -> Settings:
    """Read the environment.

    Raises:
        BadSetting: names each variable that can't be used, and why.
    """
    return read_settings(Settings)
