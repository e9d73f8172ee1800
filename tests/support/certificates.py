"""Self-signed certificates for tests."""

import datetime
import math
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, types
from cryptography.x509 import oid


def make(name: str, *hostnames: str, days: float = 1, since_days: float = -1) -> tuple[bytes, bytes]:
    """Make a certificate and key in PEM for hostnames or ``localhost``; ``name`` tells certificates apart.

    It is valid from ``since_days`` to ``days`` from now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=since_days))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(hostname) for hostname in hostnames or ("localhost",)]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key_pem(key).encode()


def key_pem(key: types.PrivateKeyTypes) -> str:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def rsa_key(bits: int) -> str:
    """Return an RSA key of this size. Its factors are no primes, because those take seconds to find."""
    p, q = 3 << (bits - bits // 2 - 2) | 1, 3 << (bits // 2 - 2) | 1
    while math.gcd(p, q) > 1 or math.gcd(65537, (p - 1) * (q - 1)) > 1:
        q += 2
    d = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return key_pem(numbers.private_key(unsafe_skip_rsa_key_validation=True))


def write(folder: Path, certificate: bytes, key: bytes) -> tuple[Path, Path]:
    paths = folder / "tls.crt", folder / "tls.key"
    for path, content in zip(paths, (certificate, key), strict=True):
        draft = path.with_suffix(".new")
        draft.write_bytes(content)
        draft.replace(path)
    return paths


def trusting(*certificates: bytes) -> ssl.SSLContext:
    """Build a TLS context that trusts only these certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for certificate in certificates:
        context.load_verify_locations(cadata=certificate.decode())
    return context
