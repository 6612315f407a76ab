"""Who sends a request, and whom the front believes: class and tenant count only with a token of a trusted key.

A sender makes one token for many requests, so each is verified once and remembered until it expires.
"""

import base64
import binascii
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from warmfleet_api import names
from warmfleet_api.vocabulary import Priority

SKEW_SECONDS = 5.0
"""How far the sender's clock may be behind ours."""
MAX_TOKEN_BYTES = 1024
MAX_NAME_BYTES = 256
"""Of a tenant or session."""
MAX_REMEMBERED = 1024
"""Tokens remembered at once: senders are a few routers, each with a token for minutes."""


_TOKEN, _CLASS, _TENANT, _SESSION, _DEADLINE = (
    name.lower().encode()
    for name in (
        names.HEADER_TOKEN,
        names.HEADER_CLASS,
        names.HEADER_TENANT,
        names.HEADER_SESSION,
        names.HEADER_DEADLINE,
    )
)
_DEADLINE_DIGITS = 12
_HEADERS = frozenset({_TOKEN, _CLASS, _TENANT, _SESSION, _DEADLINE})


class TokenError(Exception):
    """A token that proves nothing; the message says why."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a request."""

    tenant: str
    priority: Priority
    session: str = ""
    patience_seconds: float | None = None
    """How long it waits for the first token; None: as long as the model lets it."""


class _Claims(msgspec.Struct):
    aud: str
    exp: float


_decode_claims = msgspec.json.Decoder(_Claims).decode


@dataclass(slots=True)
class Trust:
    """Verifies tokens for one runner. `now` gives unix seconds."""

    now: Callable[[], float] = time.time
    _audience: str = ""
    _trusted: tuple[str, ...] = ()
    _keys: tuple[Ed25519PublicKey, ...] = ()
    _expiries: OrderedDict[bytes, float] = field(default_factory=OrderedDict)

    def follow(self, audience: str, trusted_keys: tuple[str, ...]) -> None:
        """Take over what the assignment says; a key that is trusted no more takes its tokens with it.

        A key that is none trusts nobody.
        """
        if (audience, trusted_keys) == (self._audience, self._trusted):
            return
        self._audience, self._trusted = audience, trusted_keys
        self._keys = tuple(_read_keys(trusted_keys))
        self._expiries.clear()

    @property
    def has_keys(self) -> bool:
        """Whether any token could be valid."""
        return bool(self._keys)

    def check(self, token: bytes) -> None:
        """Return if the token is valid now.

        Raises:
            TokenError: it is not.
        """
        expiry = self._expiries.get(token)
        if expiry is None:
            expiry = self._expiries[token] = self._verify(token)
            if len(self._expiries) > MAX_REMEMBERED:
                self._expiries.popitem(last=False)
        if self.now() >= expiry + SKEW_SECONDS:
            self._expiries.pop(token, None)
            raise TokenError("the token has expired")

    def sender(self, headers: Iterable[tuple[bytes, bytes]], default: Priority) -> Sender:
        """Return who sends a request. `default` is the class of trusted requests that name none.

        A token that proves nothing is as good as none: no request fails because a clock is wrong.

        Raises:
            ValueError: a header that counts can't be read.
        """
        found = {name: value for name, value in headers if name in _HEADERS}
        session = _text(found.get(_SESSION, b""), names.HEADER_SESSION)
        patience = _seconds(found[_DEADLINE]) if _DEADLINE in found else None
        try:
            self.check(found[_TOKEN])
        except (KeyError, TokenError):
            return Sender(names.DIRECT_TENANT, Priority.LOW, session, patience)
        tenant = _text(found.get(_TENANT, b""), names.HEADER_TENANT) or names.DIRECT_TENANT
        return Sender(tenant, _class(found[_CLASS]) if _CLASS in found else default, session, patience)

    def _verify(self, token: bytes) -> float:
        """Return when a token expires. A bad one costs at most one check of a signature per key, and is not kept."""
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenError(f"the token is over {MAX_TOKEN_BYTES} bytes")
        signed, _, signature = token.partition(b".")
        try:
            proof = _decode_base64url(signature)
            claims = _decode_claims(_decode_base64url(signed))
        except (binascii.Error, msgspec.MsgspecError, ValueError) as error:
            raise TokenError(f"the token can't be read: {error}") from None
        if not any(_is_signed(key, proof, signed) for key in self._keys):
            raise TokenError("no trusted key signed the token")
        if claims.aud != self._audience:
            raise TokenError("the token is for another runner")
        return claims.exp


def _read_keys(trusted: Iterable[str]) -> Iterable[Ed25519PublicKey]:
    for key in trusted:
        try:
            yield Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        except ValueError:
            continue


def _is_signed(key: Ed25519PublicKey, proof: bytes, signed: bytes) -> bool:
    try:
        key.verify(proof, signed)
    except InvalidSignature:
        return False
    return True


def _decode_base64url(text: bytes) -> bytes:
    """Decode with or without padding, strictly.

    Raises:
        binascii.Error: other characters than base64url's.
    """
    padded = text + b"=" * (-len(text) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True)


def _class(value: bytes) -> Priority:
    try:
        return Priority(value.decode("ascii", "replace"))
    except ValueError:
        raise ValueError(f"{names.HEADER_CLASS} has to be one of {', '.join(Priority)}") from None


def _text(value: bytes, header: str) -> str:
    if len(value) > MAX_NAME_BYTES:
        raise ValueError(f"{header} has to be at most {MAX_NAME_BYTES} bytes")
    return value.decode("latin-1")


def _seconds(value: bytes) -> float:
    if not value.isdigit() or len(value) > _DEADLINE_DIGITS:
        raise ValueError(f"{names.HEADER_DEADLINE} has to be a whole number of milliseconds")
    return int(value) / 1000
