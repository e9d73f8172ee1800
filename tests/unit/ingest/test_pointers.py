import pytest

from usher_gateway.ingest import pointers

FIELDS = {
    "user": ("/user/id",),
    "company": ("/user/venue/company/id", "/company/id", "/companyId"),
    "slash": ("/a~1b/m~0n",),
    "item": ("/list/1/x",),
    "whole": ("",),
    "odd": ("/list/²",),
}


def extract(body: object) -> dict[str, object]:
    found = pointers.Extractor(FIELDS, FIELDS).extract(body)
    assert found.pop("whole") == body
    return found


def test_a_field_is_where_its_pointer_leads() -> None:
    assert extract({"user": {"id": 7}}) == {"user": 7}


def test_the_first_pointer_that_leads_somewhere_wins() -> None:
    assert extract({"companyId": 1, "company": {"id": 2}}) == {"company": 2}
    assert extract({"companyId": 1, "company": {"id": None}}) == {"company": 1}
    assert extract({"companyId": 1, "user": {"venue": {"company": {"id": 3}}}}) == {"company": 3}


def test_names_may_hold_slashes_and_tildes() -> None:
    assert extract({"a/b": {"m~n": "x"}}) == {"slash": "x"}


@pytest.mark.parametrize(
    ("items", "found"),
    [([0, {"x": 5}], {"item": 5}), ([0], {}), ({"1": {"x": 6}}, {"item": 6}), ([None, None], {}), ("ab", {})],
)
def test_numbers_count_the_items_of_a_list(items: object, found: dict[str, object]) -> None:
    assert extract({"list": items}) == found


@pytest.mark.parametrize(
    "body", [{}, {"user": None}, {"user": 7}, {"user": {"id": None}}, {"user": []}, {"user": "id"}]
)
def test_what_is_not_there_is_missing(body: object) -> None:
    assert extract(body) == {}
