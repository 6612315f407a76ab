"""Settings of the operator: environment variables with the prefix `WARMFLEET_`."""

import base64
import binascii
import json
import os
from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from warmfleet_api import names
from warmfleet_kube.command import read_settings
from warmfleet_kube.credentials import own_namespace
from warmfleet_operator.decide.fleet import Limits

MAKE_A_KEY = (
    "make a private key with: openssl genpkey -algorithm ed25519 -out router.pem; then its public key with: "
    "openssl pkey -in router.pem -pubout -outform DER | tail -c 32 | base64"
)
_ED25519_KEY_BYTES = 32
VERSION = version("warmfleet")
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """What an administrator may set; every field is `WARMFLEET_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="WARMFLEET_", frozen=True, use_attribute_docstrings=True)

    runtime_image: Annotated[str, Field(min_length=1)] = f"ghcr.io/warmfleet/warmfleet-runtime:{VERSION}"
    """Image of the runners."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of that image, and of the agents'."""
    agent_image: Annotated[str, Field(min_length=1)] = f"ghcr.io/warmfleet/warmfleet:{VERSION}"
    """Image of the node agents: the operator's own."""
    kubelet_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_.-]+)+$")] = "/var/lib/kubelet"
    """Folder of the nodes' kubelets, where the agents serve their CSI driver."""
    namespace: Annotated[str, Field(min_length=1, max_length=63)] = Field(default_factory=own_namespace)
    """Namespace of the leader's Lease. Default: the pod's own."""
    kubeconfig: str = Field(default_factory=lambda: os.environ.get("KUBECONFIG", ""))
    """Path of a kubeconfig. Default: KUBECONFIG, else the pod's service account."""
    port: Annotated[int, Field(ge=0, le=65_535)] = names.OPERATOR_PORT
    """Port of /livez, /readyz and /metrics; 0 takes a free one and logs it."""
    api_port: Annotated[int, Field(ge=0, le=65_535)] = names.OPERATOR_API_PORT
    """Port of /v1/wake, /v1/demand, /v1/queue and /v1/fleet; 0 takes a free one and logs it."""
    pod_ip: Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+$", max_length=45)] = "127.0.0.1"
    """Address at which the other replicas reach this one's API."""
    lease_seconds: Annotated[int, Field(ge=3, le=3600)] = 5
    """How long a leader that is not heard of keeps the lead. A leader that can't renew it pauses, and ends after three
    times as long; its renewals are one write to the API per third of it."""
    workers: Annotated[int, Field(ge=1, le=64)] = 8
    """How many keys are reconciled at once."""
    request_seconds: Seconds = 10
    """Time limit of one request to the Kubernetes API."""
    watch_seconds: Annotated[float, Field(ge=2, le=600)] = 50
    """The server is asked to end each watch after this long; one that is silent for 10 s more is cut."""
    blind_seconds: Seconds = 120
    """/livez goes red when a watch has not been heard of for this long."""
    unscheduled_seconds: Seconds = 10
    """A runner that Kubernetes has not bound to its node for this long is deleted and planned anew."""
    drain_deadline_seconds: Seconds = 600
    """How long a cordoned node's last Ready engine stays protected while no place is found elsewhere."""
    autoscaler: Literal["On", "Off"] = "Off"
    """Whether a cluster autoscaler makes nodes for pods that fit on none."""
    autoscaler_claims: Annotated[int, Field(ge=1, le=100)] = 4
    """For how many runners at once it is asked for a node."""
    router_public_keys: Annotated[tuple[str, ...], NoDecode, Field(max_length=2)] = ()
    """Ed25519 public keys (base64, at most two: the present and the next) whose holders may name class and tenant of
    requests: a JSON list, or separated by commas. Empty: that of the Secret warmfleet-router-key, which is made where
    there is none."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    @field_validator("router_public_keys", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("router_public_keys")
    @classmethod
    def _ed25519(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            try:
                raw = base64.b64decode(key, validate=True)
            except binascii.Error:
                raw = b""
            if len(raw) != _ED25519_KEY_BYTES:
                raise ValueError(f"{key!r} is not the base64 of the 32 bytes of an Ed25519 public key; {MAKE_A_KEY}")
        return keys

    def limits(self) -> Limits:
        """Return what decisions depend on."""
        return Limits(
            default_image=self.runtime_image,
            image_pull_policy=self.image_pull_policy,
            agent_image=self.agent_image,
            kubelet_path=self.kubelet_path,
            unscheduled_seconds=self.unscheduled_seconds,
            drain_deadline_seconds=self.drain_deadline_seconds,
            claims=self.autoscaler_claims if self.autoscaler == "On" else 0,
            trusted_keys=self.router_public_keys or None,
        )


def load() -> Settings:
    """Read the environment.

    Raises:
        BadSetting: names each variable that can't be used, and why.
    """
    return read_settings(Settings)
