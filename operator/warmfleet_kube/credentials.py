"""Where the Kubernetes API is and who we are there: a kubeconfig or the pod's service account.

Covered is what a file alone can say: client certificates, tokens, token files, plain HTTP. Login programs
(`exec`) are refused with what to do instead.
"""

import base64
import binascii
import ssl
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from warmfleet_kube.errors import BadSetting

SERVICE_ACCOUNT_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
IN_CLUSTER_SERVER = "https://kubernetes.default.svc"
FALLBACK_NAMESPACE = "warmfleet-system"
TOKEN_REREAD_SECONDS = 60.0
"""Kubernetes renews a mounted token long before it ends; a minute is as often as its clients look."""


@dataclass(slots=True)
class Credentials:
    """The API server's address and what to show it."""

    server: str
    """Base URL without a slash at its end."""
    tls: ssl.SSLContext | None = None
    """None for plain HTTP."""
    token: str = ""
    token_file: Path | None = None
    """Read again every minute: kubelet replaces it."""
    _read_at: float = field(default=float("-inf"), init=False)

    def headers(self) -> dict[str, str]:
        """Return the headers that say who we are."""
        if self.token_file is not None and time.monotonic() - self._read_at >= TOKEN_REREAD_SECONDS:
            self.token = self.token_file.read_text().strip()
            self._read_at = time.monotonic()
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def expire_token(self) -> bool:
        """Read the token file anew at the next request; return False where there is none to read."""
        self._read_at = float("-inf")
        return self.token_file is not None


def own_namespace() -> str:
    """Return the service account's namespace, outside a pod `warmfleet-system`."""
    try:
        return (SERVICE_ACCOUNT_DIRECTORY / "namespace").read_text().strip() or FALLBACK_NAMESPACE
    except FileNotFoundError:
        return FALLBACK_NAMESPACE


def load(kubeconfig: str) -> Credentials:
    """Read the kubeconfig if one is named, else the service account.

    Raises:
        BadSetting: neither is there, or the kubeconfig can't be used.
    """
    if kubeconfig:
        return from_kubeconfig(Path(kubeconfig).expanduser())
    if (SERVICE_ACCOUNT_DIRECTORY / "token").exists():
        return from_service_account(SERVICE_ACCOUNT_DIRECTORY)
    raise BadSetting("no way to the Kubernetes API: set WARMFLEET_KUBECONFIG or KUBECONFIG, or run in a pod")


def from_service_account(directory: Path) -> Credentials:
    """Return the credentials that kubelet mounts into a pod."""
    return Credentials(
        server=IN_CLUSTER_SERVER,
        tls=ssl.create_default_context(cafile=str(directory / "ca.crt")),
        token_file=directory / "token",
    )


def from_kubeconfig(path: Path) -> Credentials:
    """Return the credentials of a kubeconfig's current context.

    Raises:
        BadSetting: the file is missing, unreadable, or uses what is not covered here.
    """
    try:
        config = yaml.safe_load(path.read_text())
        context = _named(config, "contexts", "context", config["current-context"])
        cluster = _named(config, "clusters", "cluster", context["cluster"])
        user = _named(config, "users", "user", context["user"]) if context.get("user") else {}
        server = str(cluster["server"]).rstrip("/")
    except FileNotFoundError as error:
        raise BadSetting(f"kubeconfig {path} does not exist; set WARMFLEET_KUBECONFIG to one that does") from error
    except (OSError, yaml.YAMLError) as error:
        raise BadSetting(f"kubeconfig {path} can't be read: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError) as error:
        raise BadSetting(f"kubeconfig {path} is incomplete: {error}; see `kubectl config view`") from error
    for unsupported in ("exec", "auth-provider", "username"):
        if unsupported in user:
            raise BadSetting(
                f"kubeconfig {path} logs in with `{unsupported}`; use a client certificate, a token or a tokenFile"
            )
    try:
        tls = _tls(cluster, user, path.parent) if server.startswith("https://") else None
    except (OSError, binascii.Error) as error:
        raise BadSetting(f"kubeconfig {path}: its certificates can't be used: {error}") from error
    token_file = user.get("tokenFile")
    return Credentials(
        server=server,
        tls=tls,
        token=str(user.get("token", "")),
        token_file=path.parent / token_file if token_file else None,
    )


def _named(config: Mapping[str, Any], plural: str, singular: str, name: str) -> Mapping[str, Any]:
    for each in config[plural]:
        if each["name"] == name:
            return each[singular] or {}
    raise KeyError(f"no {singular} {name!r}")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], directory: Path) -> ssl.SSLContext:
    authority = _bytes(cluster, "certificate-authority", directory)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = (_bytes(user, part, directory) for part in ("client-certificate", "client-key"))
    if certificate and key:
        # OpenSSL takes a client certificate only from a file; this one is readable by us alone and gone at once.
        with tempfile.NamedTemporaryFile() as chain:
            chain.write(certificate + b"\n" + key)
            chain.flush()
            context.load_cert_chain(chain.name)
    return context


def _bytes(block: Mapping[str, Any], name: str, directory: Path) -> bytes | None:
    """Return a PEM that stands in the file itself (`<name>-data`) or beside it."""
    if data := block.get(f"{name}-data"):
        return base64.b64decode("".join(str(data).split()), validate=True)
    if file := block.get(name):
        return (directory / str(file)).read_bytes()
    return None
