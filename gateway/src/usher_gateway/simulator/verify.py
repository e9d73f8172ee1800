"""Verifying Standard Webhooks signatures, as a receiver does. Pure.

Source: the Standard Webhooks specification, "Symmetric signatures": ``v1,`` + base64 of HMAC-SHA256 over
``webhook-id.webhook-timestamp.body``; several signatures are separated by spaces; any one that fits is enough.
"""

import base64
import binascii
import enum
import hmac
from collections.abc import Iterable, Mapping

SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, no secret
"""What the text form of a secret begins with."""

TOLERANCE_SECONDS = 300
"""How far a timestamp may be from the present."""

_MAX_DIGITS = 18


class Signature(enum.Enum):
    """What a receiver makes of a request's signature."""

    Good = "good"
    Missing = "missing"
    """One of the three headers is not there."""
    Bad = "bad"
    """No signature fits any secret."""
    Stale = "stale"
    """It fits, but the timestamp is too far from the present: a replay, or clocks that differ."""


def secret_key(secret: str) -> bytes:
    """The key of a secret: what base64 says after ``whsec_``, else the text itself.

    Raises:
        ValueError: ``whsec_`` is followed by something else than base64.
    """
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a secret with whsec_ must go on with base64") from None


def verify(
    keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, now_seconds: float, tolerance_seconds: float
) -> Signature:
    """Check a request; a tolerance of 0 accepts any timestamp. ``headers`` are looked up in lower case."""
    identifier = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not (identifier and timestamp and signatures):
        return Signature.Missing
    content = f"{identifier}.{timestamp}.".encode("utf-8", "surrogateescape") + body
    expected = [hmac.digest(key, content, "sha256") for key in keys]
    if not any(hmac.compare_digest(given, wanted) for given in _decoded(signatures) for wanted in expected):
        return Signature.Bad
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _MAX_DIGITS):
        return Signature.Bad
    if tolerance_seconds and abs(now_seconds - int(timestamp)) > tolerance_seconds:
        return Signature.Stale
    return Signature.Good


def _decoded(signatures: str) -> list[bytes]:
    """The ``v1`` signatures of the header; what cannot be read is left out."""
    found = []
    for each in signatures.split(" "):
        version, _, value = each.partition(",")
        if version != "v1":
            continue
        try:
            found.append(base64.b64decode(value, validate=True))
        except (ValueError, binascii.Error):
            continue
    return found
