"""Whom the server believes: the API server's front proxy, and the user it names."""

import json
from typing import Any

import pytest

from warmfleet_external_metrics.callers import UnknownCaller, caller, front_proxy

CONFIG = {
    "client-ca-file": "of the cluster's own users",
    "requestheader-client-ca-file": "PEM",
    "requestheader-allowed-names": json.dumps(["front-proxy-client"]),
    "requestheader-username-headers": json.dumps(["X-Remote-User"]),
    "requestheader-group-headers": json.dumps(["X-Remote-Group"]),
    "requestheader-extra-headers-prefix": json.dumps(["X-Remote-Extra-"]),
    "requestheader-uid-headers": json.dumps(["X-Remote-Uid"]),
}
FRONT_PROXY = {"subject": ((("organizationName", "any"),), (("commonName", "front-proxy-client"),))}


def test_the_user_is_the_one_whom_the_front_proxy_names() -> None:
    headers = [
        ("x-remote-user", "alice"),
        ("X-Remote-Uid", "4711"),
        ("X-Remote-Group", "team"),
        ("X-Remote-Group", "system:authenticated"),
        ("X-Remote-Extra-Scopes", "a"),
        ("X-Remote-Extra-Scopes", "b"),
        ("X-Remote-Extra-Authentication.kubernetes.io%2fnode-Name", "n1"),
        ("X-Other", "not theirs"),
    ]
    user = caller(front_proxy(CONFIG), FRONT_PROXY, headers)
    assert (user.username, user.uid, user.groups) == ("alice", "4711", ("team", "system:authenticated"))
    assert user.extra == {"scopes": ("a", "b"), "authentication.kubernetes.io/node-name": ("n1",)}


@pytest.mark.parametrize(
    ("certificate", "headers", "said"),
    [
        (None, [("X-Remote-User", "system:admin")], "no client certificate"),
        ({}, [("X-Remote-User", "system:admin")], "no client certificate"),
        ({"subject": ((("commonName", "kubelet"),),)}, [("X-Remote-User", "system:admin")], "that of kubelet"),
        ({"subject": ((("organizationName", "front-proxy-client"),),)}, [("X-Remote-User", "root")], "that of nobody"),
        (FRONT_PROXY, [], "names no user"),
        (FRONT_PROXY, [("X-Remote-User", ""), ("X-Remote-Group", "system:masters")], "names no user"),
    ],
)
def test_whoever_else_writes_such_headers_is_nobody(
    certificate: Any, headers: list[tuple[str, str]], said: str
) -> None:
    with pytest.raises(UnknownCaller, match=said):
        caller(front_proxy(CONFIG), certificate, headers)


def test_without_names_any_certificate_of_the_authority_is_the_front_proxys() -> None:
    proxy = front_proxy(CONFIG | {"requestheader-allowed-names": "[]"})
    certificate = {"subject": ((("commonName", "aggregator"),),)}
    assert caller(proxy, certificate, [("X-Remote-User", "alice")]).username == "alice"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"requestheader-client-ca-file": ""}, "--requestheader-client-ca-file"),
        ({"requestheader-username-headers": "[]"}, "--requestheader-username-headers"),
        ({"requestheader-group-headers": '{"a": 1}'}, "no list of strings"),
        ({"requestheader-allowed-names": "front-proxy-client"}, "Expecting value"),
    ],
)
def test_a_cluster_without_an_aggregation_layer_says_what_it_lacks(changed: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        front_proxy(CONFIG | changed)
