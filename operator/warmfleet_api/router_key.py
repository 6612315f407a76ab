"""The key by which runners know routers, as it is written down: private in a Secret, public in assignments."""

import base64

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

MAKE_A_KEY = "make one with: openssl genpkey -algorithm ed25519 -out router.pem"


def read(pem: bytes) -> Ed25519PrivateKey:
    """Return a private key as openssl writes it (PEM, PKCS #8).

    Raises:
        ValueError: the text holds something else; the message carries how one is made.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{error}; {MAKE_A_KEY}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"is no Ed25519 key; {MAKE_A_KEY}")
    return key


def make() -> bytes:
    """Return a new private key (PEM, PKCS #8)."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_key(key: Ed25519PrivateKey) -> str:
    """Return the public key as assignments carry it: base64 of its 32 bytes."""
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
