"""The normalised visit that expressions see (pure): text fields always present, ``""`` where absent."""

from collections.abc import Iterable, Mapping

from usher_gateway import model
from usher_gateway.ingest import identify, pointers

_TEXT_FIELDS = {
    "user": "userId",
    "venue": "venueId",
    "company": "companyId",
    "firstName": "firstName",
    "lastName": "lastName",
    "email": "email",
    "mobile": "mobile",
    "gender": "gender",
    "dateOfBirth": "dateOfBirth",
    "source": "source",
    "device": "mac",
    "venueName": "venueName",
}
"""Field of documents.DEFAULT_FIELDS -> its name in expressions."""


class Normaliser:
    """Makes ``visit`` for the expressions of one listener."""

    def __init__(self, fields: Mapping[str, Iterable[str]]) -> None:
        self._extractor = pointers.Extractor(fields, [*_TEXT_FIELDS, "visitCount"])

    def visit(self, body: object, *, received_at: int, occurred_at: int | None, late: bool) -> dict[str, object]:
        """The variable ``visit``: times are RFC 3339 text, ``occurredAt`` null where it cannot be trusted."""
        found = self._extractor.extract(body)
        visit: dict[str, object] = {name: identify.as_text(found.get(field)) for field, name in _TEXT_FIELDS.items()}
        visit["visitCount"] = _count(found.get("visitCount"))
        visit["receivedAt"] = model.format_time(received_at)
        visit["occurredAt"] = None if occurred_at is None else model.format_time(occurred_at)
        visit["late"] = late
        return visit


def _count(value: object) -> int | None:
    text = identify.as_text(value)
    return int(text) if text.isdecimal() and len(text) < 19 else None
