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

    def visit(self, body: object, occurred_at: int | None) -> model.Visit:
        """The visit in a body; ``occurred_at`` (microseconds) where its time can be trusted."""
        found = self._extractor.extract(body)
        texts = {name: identify.as_text(found.get(field)) for field, name in _TEXT_FIELDS.items()}
        return model.Visit(**texts, visitCount=_count(found.get("visitCount")), occurredAt=occurred_at)


def _count(value: object) -> int | None:
    text = identify.as_text(value)
    return int(text) if text.isdecimal() and len(text) < 19 else None
