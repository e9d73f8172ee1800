"""Seals: values that a browser or an address may carry, and that only this install can read. They end by themselves.

A seal is AES-256-GCM with a sub-key of the install key. Each has a purpose, so that one made for a purpose is worthless
for another. Nothing is stored, so every gateway in the install opens the others' seals.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from cryptography import exceptions
from cryptography.hazmat.primitives.ciphers import aead

_NONCE_BYTES = 12
_TIME_BYTES = 8


class Seals:
    """Makes and opens seals.

    Args:
        key: `Keys.page`.
        now: returns seconds since the epoch.
    """

    def __init__(self, key: bytes, now: Callable[[], float] = time.time) -> None:
        self._key, self._cipher, self._now = key, aead.AESGCM(key), now

    def seal(self, purpose: str, content: str, seconds: float) -> str:
        """Return a seal, in URL letters, that holds for some seconds."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        plain = int(self._now() + seconds).to_bytes(_TIME_BYTES) + content.encode()
        return base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, plain, purpose.encode())).decode()

    def open(self, purpose: str, sealed: str) -> str | None:
        """Return a seal's content; None if it is from another install, for another purpose, or has ended.

        A seal has one spelling, because callers count what a browser does by its seal.
        """
        try:
            packed = base64.b64decode(sealed.encode("ascii"), altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(packed).decode() != sealed:
                return None
            plain = self._cipher.decrypt(packed[:_NONCE_BYTES], packed[_NONCE_BYTES:], purpose.encode())
        except (ValueError, exceptions.InvalidTag):  # also of letters that are not ASCII, and of a short one
            return None
        is_over = self._now() >= int.from_bytes(plain[:_TIME_BYTES])
        return None if is_over else plain[_TIME_BYTES:].decode()

    def digest(self, purpose: str, text: str) -> str:
        """Return a text's keyed digest for a purpose, which only this install can make: 43 letters."""
        digest = hmac.digest(self._key, f"{purpose}\0{text}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
