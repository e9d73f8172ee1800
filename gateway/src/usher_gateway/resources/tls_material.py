"""Checks certificates and keys of Secrets before a gateway uses them, so that a condition can say what is wrong.

No message shows a part of a certificate but its end, and none shows a part of a key.
"""

import datetime


def authority_problem(pem: str, now: int) -> str | None:
    """Return what is wrong with the certificates of authorities; None if nothing is. ``now``: microseconds, or 0."""
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
    from cryptography.hazmat.primitives import serialization

    try:
        certificate = x509.load_pem_x509_certificates(chain.encode())[0]
        public_key = certificate.public_key()
    except (ValueError, x509.InvalidVersion, exceptions.UnsupportedAlgorithm):
        return "`tls.crt` must be certificates in PEM"
    try:
        loaded = serialization.load_pem_private_key(key.encode(), None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm):
        return "`tls.key` must be a private key in PEM without a password"
    if loaded.public_key() != public_key:
        return "`tls.key` must be the key of the certificate in `tls.crt`"
    return f"`tls.crt` ended on {certificate.not_valid_after_utc.date()}" if _has_ended(certificate, now) else None


def _has_ended(certificate: "object", now: int) -> bool:
    ends_at: datetime.datetime = certificate.not_valid_after_utc  # type: ignore[attr-defined]
    return now > 0 and ends_at.timestamp() * 1e6 <= now
