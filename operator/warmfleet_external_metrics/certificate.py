"""The certificate that the API server finds behind the Service: made in memory by each process, and renewed in time.

Its key is written down nowhere. What the API server trusts is a list, the caBundle of the APIService: each process puts
its own certificate in, and takes out its former ones and those that are over. So there is no authority whose key could
be lost, and nothing to hand out.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID: Final = timedelta(days=14)
RENEW_BEFORE: Final = timedelta(days=7)
"""So long before its end it is replaced."""
EARLIER: Final = timedelta(hours=1)
"""It counts from then on, for machines whose clocks are behind."""
MAX_BUNDLE: Final = 16
"""Certificates in a caBundle: those of pods that are gone stay until they are over, the newest ones longest."""
_MAX_COMMON_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """A self-signed certificate and its key."""

    certificate: x509.Certificate
    pem: bytes
    """Both, as `ssl.SSLContext.load_cert_chain` takes them from one file."""

    def is_due(self, now: datetime) -> bool:
        """Whether it is time for another one."""
        return now >= self.certificate.not_valid_after_utc - RENEW_BEFORE


def make(process: str, server_names: Iterable[str], now: datetime) -> Pair:
    """Return a new pair.

    Args:
        process: tells certificates of this process from those of others.
        server_names: what the API server calls the Service.
        now: in UTC.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, process[:_MAX_COMMON_NAME])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in server_names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(certificate, certificate.public_bytes(Encoding.PEM) + private)


def read_bundle(text: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a caBundle as it stands in an APIService; () where none can be read."""
    try:
        return tuple(x509.load_pem_x509_certificates(base64.b64decode(text)))
    except (ValueError, binascii.Error):
        return ()


def write_bundle(certificates: Iterable[x509.Certificate]) -> str:
    """Return certificates as an APIService has them."""
    return base64.b64encode(b"".join(each.public_bytes(Encoding.PEM) for each in certificates)).decode()


def merged(
    known: Iterable[x509.Certificate], own: Iterable[x509.Certificate], now: datetime
) -> tuple[x509.Certificate, ...]:
    """Return what is to be trusted: `own`, and of those that are known the others' that are not over.

    What it returns it returns again, so that processes which do this in turns come to rest.
    """
    mine = tuple(own)
    subjects = {each.subject for each in mine}
    others = [each for each in known if each.subject not in subjects and now < each.not_valid_after_utc]
    kept = sorted(
        {*others, *mine}, key=lambda each: (each in mine, each.not_valid_before_utc, each.serial_number), reverse=True
    )
    # In an order that does not depend on who writes them.
    return tuple(sorted(kept[:MAX_BUNDLE], key=lambda each: each.serial_number))
