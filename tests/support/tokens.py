"""Tokens as a trusted sender signs them."""

import base64
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def public_key(key: Ed25519PrivateKey) -> str:
    """Return the key's public half as an assignment carries it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def signed_token(key: Ed25519PrivateKey, audience: str, expires: float) -> str:
    """Return a token for one runner that is valid until `expires` (unix seconds)."""
    claims = _encode(json.dumps({"aud": audience, "exp": expires}).encode())
    return f"{claims}.{_encode(key.sign(claims.encode()))}"


def _encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
