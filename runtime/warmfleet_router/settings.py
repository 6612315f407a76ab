"""Settings of the router: environment variables with the prefix `WARMFLEET_`."""

import os
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from warmfleet_api import names
from warmfleet_kube.command import read_settings

VERSION = version("warmfleet")
MEBIBYTE = 1024 * 1024
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Mebibytes = Annotated[int, Field(ge=1, le=1024 * 1024)]


class Settings(BaseSettings):
    """What an administrator may set; every field is `WARMFLEET_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="WARMFLEET_", frozen=True, use_attribute_docstrings=True)

    host: str = "::"
    """Address to listen on; `::` takes IPv4 as well."""
    port: Annotated[int, Field(ge=0, le=65_535)] = names.API_PORT
    """Port of the API; 0 takes a free one and logs it."""
    status_port: Annotated[int, Field(ge=0, le=65_535)] = names.STATUS_PORT
    """Port of /livez, /readyz and /metrics; 0 takes a free one and logs it."""
    name: Annotated[str, Field(min_length=1, max_length=253)] = Field(default_factory=socket.gethostname)
    """Tells routers apart in what they report to the operator. Default: the host's name, which is the pod's."""
    kubeconfig: str = Field(default_factory=lambda: os.environ.get("KUBECONFIG", ""))
    """Path of a kubeconfig. Default: KUBECONFIG, else the pod's service account."""
    only_namespace: str = ""
    """Namespace whose models are served; empty: those of all."""
    operator_url: str = f"http://warmfleet-operator.warmfleet-system:{names.OPERATOR_API_PORT}"
    """The operator's API, which wakes models; empty: this router wakes none."""
    operator_token_file: Path | None = None
    """File with a Kubernetes token for the audience warmfleet-operator."""
    peers: str = ""
    """Headless Service of all routers, who share the limits of Tenants; empty: this one is alone."""
    key_file: Path | None = None
    """Ed25519 private key (PEM) that proves to runners who sends a request; a missing file: none."""
    table_file: Path | None = None
    """File in which the routing table is kept, for a restart while the API server is away; empty: it is not."""
    hold_mebibytes: Mebibytes = 256
    """Bodies of all requests that are held together."""
    hold_mebibytes_per_model: Mebibytes = 64
    """Bodies of the requests that are held for one model."""
    cache_mebibytes: Mebibytes = 64
    """Answers that are kept in memory, of all models with a response cache."""
    cache_answer_mebibytes: Annotated[int, Field(ge=1, le=64)] = 1
    """The largest answer that is kept."""
    cache_redis_url: str = ""
    """Redis where answers are kept for all routers, e.g. redis://redis.cache:6379/0; empty: none."""
    cache_path: Path | None = None
    """Folder of this router alone where answers are kept; empty: none."""
    cache_disk_mebibytes: Mebibytes = 1024
    """Answers that are kept in that folder."""
    body_mebibytes: Mebibytes = 32
    """The largest body that is taken."""
    stop_seconds: Seconds = 600
    """After a signal, how long requests may take to end."""
    access_log: Literal["On", "Off"] = "On"
    """One line of JSON per request on standard output."""
    request_seconds: Seconds = 10
    """Time limit of one request to the Kubernetes API."""
    watch_seconds: Annotated[float, Field(ge=2, le=600)] = 50
    """The server is asked to end each watch after this long; one that is silent for 10 s more is cut."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""


def load() -> Settings:
    """Read the environment.

    Raises:
        BadSetting: names each variable that can't be used, and why.
    """
    return read_settings(Settings)
