"""Keys: one install key, and one sub-key per use, so that a digest made for one use reveals nothing about another.

Source: RFC 5869 (HKDF) with SHA-256; one label per use in ``info``.
"""

import base64
import hashlib
import hmac

import msgspec

INSTALL_KEY_BYTES = 32  # Length of an install key that Usher makes. A given key may be longer, but not shorter.


class Keys(msgspec.Struct, frozen=True):
    """One install key's sub-keys (32 bytes each)."""

    fingerprint: bytes
    visitor: bytes
    person: bytes
    once: bytes
    credential: bytes
    document: bytes
    cache: bytes
    name: bytes
    receipt: bytes
    """The seed for the key that signs receipts (Ed25519)."""
    page: bytes
    """Seals the pages' sessions."""
    install: bytes
    """The install key itself: URL tokens are derived from it."""


def derive_keys(install_key: bytes) -> Keys:
    """Derive all sub-keys from an install key.

    Raises:
        ValueError: the key is shorter than 32 bytes.
    """
    if len(install_key) < INSTALL_KEY_BYTES:
        raise ValueError(f"an install key must have at least {INSTALL_KEY_BYTES} bytes")
    labels = [name for name in Keys.__struct_fields__ if name != "install"]
    return Keys(**{label: _hkdf(install_key, label) for label in labels}, install=install_key)


def key_fingerprint(install_key: bytes) -> str:
    """Return 16 hex digits that identify an install key without revealing it."""
    return _hkdf(install_key, "key-fingerprint")[:8].hex()


def url_token(install_key: bytes, namespace: str, tenant: str, listener: str, generation: int) -> str:
    """Return the secret part of a listener's URL: 26 lower-case base32 characters."""
    message = "/".join((namespace, tenant, listener, str(generation))).encode()
    digest = hmac.digest(install_key, message, "sha256")
    return base64.b32encode(digest)[:26].decode().lower()


def _hkdf(secret: bytes, label: str) -> bytes:
    """Return HKDF-SHA256 (RFC 5869) with an empty salt and ``usher/<label>`` as info: 32 bytes."""
    pseudorandom = hmac.digest(b"\0" * hashlib.sha256().digest_size, secret, "sha256")
    return hmac.digest(pseudorandom, f"usher/{label}".encode() + b"\x01", "sha256")
