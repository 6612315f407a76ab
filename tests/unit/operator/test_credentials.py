"""Credentials: kubeconfigs as clusters write them, and what is said of the others."""

import base64
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from warmfleet_kube import credentials
from warmfleet_kube.errors import BadSetting


def kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any] | None = None) -> Path:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def certificate() -> tuple[bytes, bytes]:
    """Return a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return signed.public_bytes(serialization.Encoding.PEM), pem


def test_plain_http_needs_no_certificates(tmp_path: Path) -> None:
    loaded = credentials.from_kubeconfig(kubeconfig(tmp_path / "k", {"server": "http://127.0.0.1:8001/"}))
    assert loaded.server == "http://127.0.0.1:8001"
    assert loaded.tls is None
    assert loaded.headers() == {}


def test_certificates_are_taken_from_the_file_itself_and_from_files_beside_it(tmp_path: Path) -> None:
    public, private = certificate()
    (tmp_path / "key.pem").write_bytes(private)
    path = kubeconfig(
        tmp_path / "k",
        {"server": "https://127.0.0.1:6443", "certificate-authority-data": base64.b64encode(public).decode()},
        {"client-certificate-data": base64.b64encode(public).decode(), "client-key": "key.pem"},
    )
    loaded = credentials.from_kubeconfig(path)
    assert loaded.tls is not None
    assert loaded.tls.verify_mode is ssl.CERT_REQUIRED
    assert loaded.tls.cert_store_stats()["x509"] == 1


def test_a_token_file_is_read_again_after_it_was_renewed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    loaded = credentials.from_kubeconfig(kubeconfig(tmp_path / "k", {"server": "http://h"}, {"tokenFile": "token"}))
    assert loaded.headers() == {"Authorization": "Bearer one"}
    (tmp_path / "token").write_text("two\n")
    assert loaded.headers() == {"Authorization": "Bearer one"}
    assert loaded.expire_token()
    assert loaded.headers() == {"Authorization": "Bearer two"}


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({}, {}, "is incomplete: 'server'"),
        ({"server": "http://h"}, {"exec": {"command": "login"}}, "logs in with `exec`; use a client certificate"),
        ({"server": "https://h", "certificate-authority": "gone.pem"}, {}, "certificates can't be used: .*gone.pem"),
        ({"server": "https://h", "certificate-authority-data": "!"}, {}, "certificates can't be used"),
    ],
)
def test_a_kubeconfig_that_can_not_be_used_is_named_with_the_reason(
    cluster: dict[str, Any], user: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSetting, match=said):
        credentials.from_kubeconfig(kubeconfig(tmp_path / "k", cluster, user))


def test_a_missing_or_broken_kubeconfig_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="does not exist; set WARMFLEET_KUBECONFIG"):
        credentials.from_kubeconfig(tmp_path / "gone")
    (tmp_path / "broken").write_text("{")
    with pytest.raises(BadSetting, match="can't be read"):
        credentials.from_kubeconfig(tmp_path / "broken")
    (tmp_path / "empty").write_text("")
    with pytest.raises(BadSetting, match="is incomplete"):
        credentials.from_kubeconfig(tmp_path / "empty")


def test_outside_of_a_pod_and_without_a_kubeconfig_the_variables_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT_DIRECTORY", tmp_path)
    with pytest.raises(BadSetting, match="WARMFLEET_KUBECONFIG"):
        credentials.load("")
