"""Who asks: the API server's aggregation layer, on behalf of a user whom it names in headers. Pure.

Headers count only from a client whose certificate is of the authority, and has one of the names, that the API server
wrote into the ConfigMap kube-system/extension-apiserver-authentication. Everybody else could write headers too.
https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from warmfleet_kube.reviews import User

CONFIG_NAMESPACE: Final = "kube-system"
CONFIG_NAME: Final = "extension-apiserver-authentication"
_PREFIX: Final = "requestheader-"
Headers = Sequence[tuple[str, str]]
"""Names and values, in any case and order."""


class UnknownCaller(Exception):  # noqa: N818 - as the operator's API calls it
    """Nobody vouches for whoever asks."""


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """How the aggregation layer is known, and where it says for whom it asks."""

    authority: str
    """Certificates (PEM) that its own is signed by."""
    names: frozenset[str]
    """Common names that it may have; empty: any that the authority signed."""
    username_headers: tuple[str, ...]
    group_headers: tuple[str, ...]
    uid_headers: tuple[str, ...]
    extra_prefixes: tuple[str, ...]


def front_proxy(data: Mapping[str, str]) -> FrontProxy:
    """Read the ConfigMap.

    Raises:
        ValueError: it does not say how the aggregation layer is known.
    """
    authority = data.get(f"{_PREFIX}client-ca-file", "")
    users = _strings(data, "username-headers")
    if not authority.strip() or not users:
        raise ValueError(
            f"ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME} names no front proxy; start the API server with "
            "--requestheader-client-ca-file and --requestheader-username-headers"
        )
    return FrontProxy(
        authority=authority,
        names=frozenset(_strings(data, "allowed-names")),
        username_headers=users,
        group_headers=_strings(data, "group-headers"),
        uid_headers=_strings(data, "uid-headers"),
        extra_prefixes=tuple(each.lower() for each in _strings(data, "extra-headers-prefix")),
    )


def caller(proxy: FrontProxy, certificate: Mapping[str, Any] | None, headers: Headers) -> User:
    """Return for whom is asked.

    Args:
        proxy: how the aggregation layer is known.
        certificate: the client's, checked against the authority, as `ssl.SSLSocket.getpeercert` gives it.
        headers: of the request.

    Raises:
        UnknownCaller: the client is not the aggregation layer, or names nobody.
    """
    if not certificate:
        raise UnknownCaller(
            "no client certificate of the API server's front proxy; ask through it: kubectl get --raw PATH"
        )
    common = common_names(certificate)
    if proxy.names and not proxy.names & common:
        who = ", ".join(sorted(common)) or "nobody"
        raise UnknownCaller(
            f"the client certificate is that of {who}, which is no name of the API server's front proxy"
        )
    username = _first(headers, proxy.username_headers)
    if not username:
        raise UnknownCaller(f"the front proxy names no user in {' or '.join(proxy.username_headers)}")
    return User(
        username=username,
        uid=_first(headers, proxy.uid_headers),
        groups=tuple(group for name in proxy.group_headers for group in _all(headers, name)),
        extra=_extra(proxy.extra_prefixes, headers),
    )


def common_names(certificate: Mapping[str, Any]) -> frozenset[str]:
    """Return the common names of a certificate's subject."""
    parts: Iterable[tuple[tuple[str, str], ...]] = certificate.get("subject", ())
    return frozenset(value for part in parts for name, value in part if name == "commonName")


def _extra(prefixes: tuple[str, ...], headers: Headers) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in headers:
        for prefix in prefixes:
            if name.lower().startswith(prefix):
                key = unquote(name[len(prefix) :].lower())
                found[key] = (*found.get(key, ()), value)
    return found


def _first(headers: Headers, names: tuple[str, ...]) -> str:
    return next((value for name in names for value in _all(headers, name) if value), "")


def _all(headers: Headers, name: str) -> list[str]:
    return [value for each, value in headers if each.lower() == name.lower()]


def _strings(data: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return an entry that holds a JSON list of strings; () where there is none.

    Raises:
        ValueError: it holds something else.
    """
    found = json.loads(data.get(_PREFIX + name) or "[]")
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME}: {_PREFIX}{name} is no list of strings")
    return tuple(found)
