"""Certificate authorities, certificates and kubeconfigs of one cluster (EC keys: a fraction of a second)."""

import base64
import datetime
import ipaddress
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID_DAYS = 3650


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key as PEM files."""

    certificate: Path
    key: Path

    def load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Read both."""
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self.key} is no EC key")
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()), key


class Pki:
    """The key material below `directory`; what exists is kept, so calls may be repeated."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def authority(self) -> KeyPair:
        """The cluster's certificate authority."""
        return self._authority("ca")

    @property
    def front_proxy_authority(self) -> KeyPair:
        """The authority of the API server's aggregation layer."""
        return self._authority("front-proxy-ca")

    @property
    def service_account_key(self) -> Path:
        """Private key that signs service account tokens; the public one lies beside it as `.pub`."""
        path = self._directory / "service-account.key"
        if not path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            public = serialization.PublicFormat.SubjectPublicKeyInfo
            _write(path.with_suffix(".pub"), key.public_key().public_bytes(serialization.Encoding.PEM, public))
            _write(path, _key_pem(key))
        return path

    def issue(
        self,
        name: str,
        user: str,
        group: str | None = None,
        server_names: Sequence[str] = (),
        authority: KeyPair | None = None,
    ) -> KeyPair:
        """A certificate for `user` (and `group`); with `server_names` it also serves under these names or addresses."""
        pair = self._pair(name)
        if not pair.certificate.exists():
            subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
            subject.append(x509.NameAttribute(NameOID.COMMON_NAME, user))
            self._sign(pair, x509.Name(subject), authority or self.authority, server_names)
        return pair

    def kubeconfig(self, path: Path, server: str, context: str, pair: KeyPair) -> Path:
        """A kubeconfig that carries its certificates inside, so that it may be copied anywhere."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
            "clusters": [
                {
                    "name": context,
                    "cluster": {"server": server, "certificate-authority-data": _base64(self.authority.certificate)},
                }
            ],
            "users": [
                {
                    "name": context,
                    "user": {
                        "client-certificate-data": _base64(pair.certificate),
                        "client-key-data": _base64(pair.key),
                    },
                }
            ],
        }
        _write(path, json.dumps(config, indent=2).encode())
        return path

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self._directory / f"{name}.crt", self._directory / f"{name}.key")

    def _authority(self, name: str) -> KeyPair:
        pair = self._pair(name)
        if not pair.certificate.exists():
            self._sign(pair, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"warmfleet-local-{name}")]), None, ())
        return pair

    def _sign(self, pair: KeyPair, subject: x509.Name, authority: KeyPair | None, server_names: Sequence[str]) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer, signing_key = authority.load() if authority else (None, key)
        start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=_VALID_DAYS))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
            .add_extension(_usage(signs=issuer is None), critical=True)
        )
        if issuer is not None:
            uses = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if server_names else [])
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if server_names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general(name) for name in server_names]), False
            )
        # The key first: a certificate on disk means that the pair is whole.
        _write(pair.key, _key_pem(key))
        _write(pair.certificate, builder.sign(signing_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and readable by its owner only."""
    scratch = path.with_name(path.name + ".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    scratch.replace(path)
