"""Access to an API server as a kubeconfig gives it: client certificate or token."""

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach and convince the API server."""

    server: str
    """Its URL."""
    tls: ssl.SSLContext | None
    """None for plain http."""
    headers: Mapping[str, str]


def load(path: Path) -> Access:
    """Read the current context of a kubeconfig.

    Raises:
        OSError, KeyError, StopIteration: no file, or no such context, cluster or user in it.
    """
    config = yaml.safe_load(path.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    headers = {"authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return Access(cluster["server"].rstrip("/"), _tls(cluster, user, path.parent), headers)


def _tls(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext | None:
    if not cluster["server"].startswith("https"):
        return None
    authority = _bytes(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    certificate, key = _bytes(user, "client-certificate", folder), _bytes(user, "client-key", folder)
    if certificate and key:
        # The ssl module reads certificates from files only.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(item for item in items if item["name"] == name)


def _bytes(fields: dict[str, Any], name: str, folder: Path) -> bytes | None:
    if data := fields.get(f"{name}-data"):
        return base64.b64decode(data)
    return folder.joinpath(fields[name]).read_bytes() if name in fields else None
