"""Tokens as runners check them."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.tokens import public_key
from warmfleet_kube.errors import BadSetting
from warmfleet_router.tokens import LIFE_SECONDS, RENEWED_SECONDS, Tokens, load_key
from warmfleet_runtime.front.trust import TokenError, Trust


def test_a_runner_takes_the_token_that_was_made_for_it_and_no_other() -> None:
    key = Ed25519PrivateKey.generate()
    token = Tokens(key).for_pod("uid", 1000.0)
    assert token is not None
    trust = Trust(now=lambda: 1000.0)
    trust.follow("uid", (public_key(key),))
    trust.check(token)
    other = Trust(now=lambda: 1000.0)
    other.follow("other", (public_key(key),))
    with pytest.raises(TokenError, match="another runner"):
        other.check(token)


def test_a_token_is_kept_until_it_is_about_to_end() -> None:
    tokens = Tokens(Ed25519PrivateKey.generate())
    first = tokens.for_pod("uid", 1000.0)
    assert tokens.for_pod("uid", 1000.0 + LIFE_SECONDS - RENEWED_SECONDS - 1) == first
    assert tokens.for_pod("uid", 1000.0 + LIFE_SECONDS - RENEWED_SECONDS) != first


def test_without_a_key_there_is_no_token(tmp_path: Path) -> None:
    assert Tokens(None).for_pod("uid", 0.0) is None
    assert load_key(None) is None and load_key(tmp_path / "missing") is None


def test_a_key_of_openssl_is_read_and_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "router.pem"
    key = Ed25519PrivateKey.generate()
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    loaded = load_key(file)
    assert loaded is not None and public_key(loaded) == public_key(key)
    file.write_bytes(generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(BadSetting, match="no Ed25519 key"):
        load_key(file)
    file.write_text("not a key")
    with pytest.raises(BadSetting, match="openssl genpkey"):
        load_key(file)
