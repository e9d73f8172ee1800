"""A certificate authority for the duration of a test run."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import oid

# Key usage that Python 3.13 and later require of a certificate authority.
SIGNS_CERTIFICATES = {"key_cert_sign", "crl_sign"}
SIGNS_HANDSHAKES = {"digital_signature"}


@dataclass(frozen=True)
class Subject:
    """The subject of a certificate. Kubernetes uses the common name as the user and the organization as a group."""

    common_name: str
    organization: str | None = None

    def name(self) -> x509.Name:
        parts = [x509.NameAttribute(oid.NameOID.COMMON_NAME, self.common_name)]
        if self.organization is not None:
            parts.insert(0, x509.NameAttribute(oid.NameOID.ORGANIZATION_NAME, self.organization))
        return x509.Name(parts)


class Authority:
    """Signs certificates, and writes each one (also its own) as NAME.crt and NAME.key into its folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = Subject(name).name()
        self.certificate = folder / f"{name}.crt"
        builder = self._builder(self._name, self._key, SIGNS_CERTIFICATES, authority=True)
        self._write(name, self._key, builder)

    def issue(self, name: str, subject: Subject, known_as: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """Issue a certificate for a client, or for a server with host names and addresses; return its files."""
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [oid.ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = self._builder(subject.name(), key, SIGNS_HANDSHAKES, authority=False)
        if known_as:
            purposes.append(oid.ExtendedKeyUsageOID.SERVER_AUTH)
            names = x509.SubjectAlternativeName([_general_name(each) for each in known_as])
            builder = builder.add_extension(names, critical=False)
        return self._write(name, key, builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, usages: set[str], *, authority: bool
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(_usage(usages), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(signer, critical=False)
        )

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, builder: x509.CertificateBuilder) -> tuple[Path, Path]:
        certificate = builder.sign(self._key, hashes.SHA256())
        paths = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_secret(paths[1], _pem(key))
        return paths


def write_key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Make the (public, private) key files that check and sign service account tokens."""
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    paths = folder / f"{name}.pub", folder / f"{name}.key"
    paths[0].write_bytes(public)
    _write_secret(paths[1], _pem(key))
    return paths


def _general_name(known_as: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(known_as))
    except ValueError:
        return x509.DNSName(known_as)


def _usage(usages: set[str]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital_signature" in usages,
        key_cert_sign="key_cert_sign" in usages,
        crl_sign="crl_sign" in usages,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
