"""Signatures by which a destination knows that a delivery is genuine.

Source: Standard Webhooks specification, "Signature scheme": HMAC-SHA256 over ``id.timestamp.body``.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence

_PREFIX = "whsec_"


def signing_key(secret: str) -> bytes:
    """The key that a signing secret stands for: ``whsec_`` + base64, or any other text as it is.

    Raises:
        ValueError: nothing is left of the secret, or what follows ``whsec_`` is not base64. Never shows the secret.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True) if _is_encoded(secret) else secret.encode()
    except binascii.Error:
        raise ValueError("a signing secret that starts with whsec_ must go on in base64") from None
    if not key:
        raise ValueError("a signing secret must not be empty")
    return key


def signature(keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``: one ``v1,<base64>`` per key, separated by spaces."""
    message = b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)
    return " ".join(["v1," + _digest(key, message) for key in keys])


def _digest(key: bytes, message: bytes) -> str:
    return binascii.b2a_base64(hmac.digest(key, message, "sha256"), newline=False).decode()


def _is_encoded(secret: str) -> bool:
    return secret.startswith(_PREFIX)
