"""The file with what is stored of a person, as an export gives it to the person."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from usher_gateway import model


def encode(tenants: Sequence[str], visits: Sequence[Mapping[str, Any]], reference: str, now: int) -> bytes:
    """Return the archive as indented JSON.

    Args:
        tenants: ``namespace/name`` of each that was searched.
        visits: rows of ``POST /api/persons/export``.
        reference: the caller's own id of the request; may be empty.
        now: microseconds.
    """
    archive = {
        "request": {"type": "portability", "reference": reference or None, "exportedAt": model.format_time(now)},
        "tenants": tenants,
        "visits": visits,
    }
    return msgspec.json.format(msgspec.json.encode(archive)) + b"\n"
