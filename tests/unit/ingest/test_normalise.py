from typing import Any

import pytest

from usher_gateway import documents, expressions, model
from usher_gateway.ingest import normalise


def visit(body: dict[str, Any], **fields: tuple[str, ...]) -> model.Visit:
    return normalise.Normaliser(documents.DEFAULT_FIELDS | fields).visit(body, None)


def test_every_field_is_there_whatever_is_in_the_body() -> None:
    empty = visit({})
    assert all(
        getattr(empty, name) == "" for name in model.Visit.__struct_fields__ if name not in {"visitCount", "occurredAt"}
    )
    assert (empty.visitCount, empty.occurredAt) == (None, None)
    assert set(expressions.visit_values(empty, 0, late=False)) == expressions.VISIT_FIELDS


def test_ids_are_texts() -> None:
    found = visit({"user": {"id": 7, "venue": {"id": 9.0, "company": {"id": "77"}}}})
    assert (found.userId, found.venueId, found.companyId) == ("7", "9", "77")


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (1, 1),
        ("3", 3),
        (2.0, 2),
        (0, 0),
        (-1, None),
        ("x", None),
        (1.5, None),
        (None, None),
        (True, None),
        ([], None),
        (10**400, None),
        ("²", None),
    ],
)
def test_a_count_is_a_number_or_nothing(value: Any, count: int | None) -> None:
    assert visit({"user": {"visitCountsForVenue": value}}).visitCount == count


def test_fields_are_where_the_listener_says() -> None:
    found = visit({"guest": {"mail": "a@example.test"}, "user": {"email": "b@example.test"}}, email=("/guest/mail",))
    assert found.email == "a@example.test"


@pytest.mark.parametrize("value", [[], {}, True, {"x": 1}])
def test_what_is_no_text_is_empty(value: Any) -> None:
    assert visit({"user": {"firstName": value}}).firstName == ""
