"""Settings of the server of external metrics: environment variables with the prefix `WARMFLEET_`."""

import os
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from warmfleet_api import names
from warmfleet_kube.command import read_settings
from warmfleet_kube.credentials import own_namespace

VERSION = version("warmfleet")
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """What an administrator may set; every field is `WARMFLEET_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="WARMFLEET_", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1, max_length=253)] = Field(default_factory=socket.gethostname)
    """Tells replicas apart in their certificates. Default: the host's name, which is the pod's."""
    namespace: Annotated[str, Field(min_length=1, max_length=63)] = Field(default_factory=own_namespace)
    """Namespace of the Service warmfleet-external-metrics, by which the API server comes. Default: the pod's own."""
    kubeconfig: str = Field(default_factory=lambda: os.environ.get("KUBECONFIG", ""))
    """Path of a kubeconfig. Default: KUBECONFIG, else the pod's service account."""
    port: Annotated[int, Field(ge=0, le=65_535)] = names.OPERATOR_PORT
    """Port of /livez, /readyz and /metrics; 0 takes a free one and logs it."""
    api_port: Annotated[int, Field(ge=0, le=65_535)] = names.EXTERNAL_METRICS_PORT
    """Port of the API, over TLS; 0 takes a free one and logs it."""
    operator_url: str = f"http://{names.OPERATOR_SERVICE}.{names.SYSTEM_NAMESPACE}:{names.OPERATOR_API_PORT}"
    """The operator's API, which has the values."""
    operator_token_file: Path = Path("/var/run/warmfleet/operator/token")
    """File with a Kubernetes token for the audience warmfleet-operator."""
    request_seconds: Seconds = 10
    """Time limit of one request to the Kubernetes API."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""


def load() -> Settings:
    """Read the environment.

    Raises:
        BadSetting: names each variable that can't be used, and why.
    """
    return read_settings(Settings)
