"""Tokens: who may name a request's class and tenant."""

import base64
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.tokens import public_key, signed_token
from warmfleet_runtime.front import trust
from warmfleet_runtime.front.trust import TokenError, Trust

OLD, NEW, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(3))


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trusting(clock: Clock) -> Trust:
    trusting = Trust(clock)
    trusting.follow("pod", (public_key(OLD), public_key(NEW)))
    return trusting


def token(key: Ed25519PrivateKey = OLD, audience: str = "pod", expires: float = 1060) -> bytes:
    return signed_token(key, audience, expires).encode()


@pytest.mark.parametrize("key", [OLD, NEW])
def test_a_token_of_either_trusted_key_is_valid_until_it_expires_by_the_senders_clock(
    trusting: Trust, clock: Clock, key: Ed25519PrivateKey
) -> None:
    trusting.check(token(key))
    clock.now = 1060 + trust.SKEW_SECONDS - 0.1
    trusting.check(token(key))
    clock.now += 0.2
    for _ in range(2):
        with pytest.raises(TokenError, match="expired"):
            trusting.check(token(key))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (token(STRANGER), "no trusted key"),
        (token(audience="other"), "another runner"),
        (token(expires=1), "expired"),
        (b"", "read"),
        (b".", "read"),
        (b"a.b.c", "read"),
        (b"\xff.\xff", "read"),
        (token()[:-4], "no trusted key"),
        (token() + b"AAAA", "no trusted key"),
        (b"x" + token(), "read"),
        (token().replace(b".", b"=.", 1), "no trusted key"),
        (b"x" * 2000, "over 1024 bytes"),
        (base64.urlsafe_b64encode(b'{"aud": 1}') + b"." + token().partition(b".")[2], "read"),
    ],
)
def test_anything_else_is_none(trusting: Trust, bad: bytes, why: str) -> None:
    with pytest.raises(TokenError, match=why):
        trusting.check(bad)
    trusting.check(token())


def test_a_withdrawn_key_takes_the_tokens_it_signed_with_it(trusting: Trust) -> None:
    trusting.check(token(OLD))
    trusting.follow("pod", (public_key(NEW),))
    with pytest.raises(TokenError, match="no trusted key"):
        trusting.check(token(OLD))
    trusting.check(token(NEW))


def test_without_keys_nobody_is_trusted(trusting: Trust) -> None:
    trusting.follow("pod", ())
    assert not trusting.has_keys
    with pytest.raises(TokenError, match="no trusted key"):
        trusting.check(token())


def test_what_is_no_key_trusts_nobody_and_harms_no_other(trusting: Trust) -> None:
    trusting.follow("pod", ("not base64!", base64.b64encode(b"short").decode()))
    assert not trusting.has_keys
    trusting.follow("pod", ("not base64!", public_key(NEW)))
    trusting.check(token(NEW))


def test_each_token_is_verified_once_and_only_so_many_are_remembered(
    trusting: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[bytes] = []
    original = trust._is_signed

    def counting(key: Any, proof: bytes, signed: bytes) -> bool:
        verified.append(signed)
        return original(key, proof, signed)

    monkeypatch.setattr(trust, "_is_signed", counting)
    monkeypatch.setattr(trust, "MAX_REMEMBERED", 2)
    tokens = [token(expires=1060 + number) for number in range(3)]
    for _ in range(5):
        trusting.check(tokens[0])
    assert len(verified) == 1
    for each in tokens:
        trusting.check(each)
    assert len(trusting._expiries) == 2
