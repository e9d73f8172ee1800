"""The file with what is stored about a person, as an export gives it to the person."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from usher_gateway import model


def encode(visits: Sequence[Mapping[str, Any]], reference: str, now: int, suppressed_at: Sequence[str]) -> bytes:
    """Return the archive as JSON, with a line for each visit.

    Indentation could make a nested body a thousand times longer. The archive names the tenants that have visits, or a
    digest of the person, and not all that were searched, because the person gets it.

    Args:
        visits: ``POST /api/persons/export`` rows.
        reference: the caller's own id for the request; may be empty.
        now: microseconds.
        suppressed_at: the tenants at which the person is suppressed.
    """
    archive = {
        "request": {"type": "portability", "reference": reference or None, "exportedAt": model.format_time(now)},
        "tenants": sorted({f"{visit['namespace']}/{visit['tenant']}" for visit in visits}),
        "suppressedAt": suppressed_at,
    }
    lines = b",\n".join([msgspec.json.encode(visit) for visit in visits])
    return msgspec.json.encode(archive)[:-1] + b',"visits":[\n' + lines + b"\n]}\n"
