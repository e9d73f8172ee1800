"""Checks certificates and keys from Secrets before a gateway uses them, so that a condition can say what is wrong.

No message shows any part of a certificate except its end date, and none shows any part of a key.
"""

import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import types

_MAX_RSA_BITS = 4096  # A signature takes 6 ms on the gateway's event loop, and eight times as long with twice the bits


def authority_problem(pem: str, now: int) -> str | None:
    """Return what is wrong with authorities' certificates; None if nothing is. ``now``: microseconds, or 0."""
    from cryptography import x509  # most destinations do not need it

    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except (ValueError, x509.InvalidVersion):
        return "must be certificates in PEM"
    if all(_has_ended(certificate, now) for certificate in certificates):
        return f"ended on {certificates[0].not_valid_after_utc.date()}"
    return None


def client_problem(chain: str, key: str, now: int) -> str | None:
    """Return what is wrong with a client's certificate chain and key; None if nothing is."""
    from cryptography import exceptions, x509

    try:
        certificate = x509.load_pem_x509_certificates(chain.encode())[0]
        public_key = certificate.public_key()
    except (ValueError, x509.InvalidVersion, exceptions.UnsupportedAlgorithm):
        return "`tls.crt` must be certificates in PEM"
    loaded = _load_key(key)
    if isinstance(loaded, str):
        return f"`tls.key` {loaded}"
    if loaded.public_key() != public_key:
        return "`tls.key` must be the key of the certificate in `tls.crt`"
    return f"`tls.crt` ended on {certificate.not_valid_after_utc.date()}" if _has_ended(certificate, now) else None


def signing_problem(key: str) -> str | None:
    """Return what is wrong with a JWT bearer's private key; None if nothing is."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    loaded = _load_key(key)
    if isinstance(loaded, str):
        return loaded
    return None if isinstance(loaded, rsa.RSAPrivateKey) else "must be an RSA key"


def _load_key(pem: str) -> "types.PrivateKeyTypes | str":
    """Return a private key, or what is wrong with it.

    It does not check whether an RSA key's factors are prime, because that takes 0.3 s for 4,096 bits.
    """
    from cryptography import exceptions
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        key = serialization.load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm):
        return "must be a private key in PEM without a password"
    is_too_large = isinstance(key, rsa.RSAPrivateKey) and key.key_size > _MAX_RSA_BITS
    return f"must have at most {_MAX_RSA_BITS} bits" if is_too_large else key


def _has_ended(certificate: "object", now: int) -> bool:
    ends_at: datetime.datetime = certificate.not_valid_after_utc  # type: ignore[attr-defined]
    return now > 0 and ends_at.timestamp() * 1e6 <= now
