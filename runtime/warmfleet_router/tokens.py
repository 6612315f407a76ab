"""Proof for runners that a request comes from a router: one signed token per pod, for minutes.

A runner verifies each token once and remembers it, so requests of one connection cost it nothing more.
"""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from warmfleet_api import router_key
from warmfleet_kube.errors import BadSetting

LIFE_SECONDS = 300.0
RENEWED_SECONDS = 120.0
"""A token with less time left than this is replaced: a request may wait before it is sent."""
MAX_KEPT = 4096


@dataclass(slots=True)
class Tokens:
    """Signs with a private key. Without one there are no tokens, and runners take requests for those of strangers."""

    key: Ed25519PrivateKey | None
    _signed: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def for_pod(self, uid: str, now: float) -> bytes | None:
        """Return a token for the runner with this pod uid; `now` is in unix seconds."""
        if self.key is None:
            return None
        known = self._signed.get(uid)
        if known is not None and known[1] - now > RENEWED_SECONDS:
            return known[0]
        if len(self._signed) >= MAX_KEPT:
            self._signed.clear()
        expires = now + LIFE_SECONDS
        claims = _base64url(json.dumps({"aud": uid, "exp": round(expires)}).encode())
        token = claims + b"." + _base64url(self.key.sign(claims))
        self._signed[uid] = token, expires
        return token

    def sign_with(self, key: Ed25519PrivateKey) -> None:
        """Sign with another key from now on."""
        self.key = key
        self._signed.clear()

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._signed.pop(uid, None)


def load_key(path: Path | None) -> Ed25519PrivateKey | None:
    """Read a private key as openssl writes it (PEM, PKCS #8); None where no file is there.

    Raises:
        BadSetting: the file holds something else.
    """
    if path is None or not path.exists():
        return None
    try:
        return router_key.read(path.read_bytes())
    except (ValueError, OSError) as error:
        raise BadSetting(f"WARMFLEET_KEY_FILE={path}: {error}") from error


def _base64url(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")
