import pytest
from hypothesis import given
from hypothesis import strategies as st

from usher_gateway import model
from usher_gateway.admin import api
from usher_gateway.store.base import Filter

NOON = 1_764_072_000 * model.MICROSECONDS  # 2025-11-25T12:00:00Z


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2025-11-25T12:00:00Z", NOON),
        ("2025-11-25T13:00:00+01:00", NOON),
        ("2025-11-25T12:00:00.250Z", NOON + 250_000),
        ("2025-11-25T12:00", NOON),
        ("2025-11-25 12:00:00", NOON),
        ("2025-11-25", NOON - model.DAY // 2),
        ("2025-11", NOON - model.DAY // 2 - 24 * model.DAY),
    ],
)
def test_time_day_or_month_without_an_offset_is_utc(text: str, instant: int) -> None:
    assert api.parse_time(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2025", "2025-13", "12:00", "25.11.2025", "2025-11-25 12 Uhr", "2025-11-25T24:00", "2025W48"),
        *("2025-11-25+02:00", "2025-11-25-05:00", "2025-11-25x12:00", "2025-W48", "٢٠٢٥-11-25"),
        *("1969-12", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59"),
    ],
)
def test_other_text_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="a time must look like"):
        api.parse_time(text)


@given(st.text(max_size=30))
def test_any_text_is_parsed_as_a_time_or_rejected_with_a_hint(text: str) -> None:
    messages: list[str] = []
    try:
        api.parse_time(text)
    except ValueError as error:
        messages.append(str(error))
    assert all("a time must look like" in message for message in messages)


def test_filter_takes_names_times_and_ids() -> None:
    identifier = "01920000-0000-7000-8000-000000000001"
    query = {"tenant": "agency/acme", "route": "crm", "since": "2025-11-25", "id": identifier, "countedAs": "Visit"}
    assert api.parse_filter(query) == Filter(
        namespace="agency",
        tenant="acme",
        route="crm",
        since=NOON - model.DAY // 2,
        ids=(model.parse_id(identifier),),
        counted_as="Visit",
    )


def test_first_digits_of_an_id_are_a_range() -> None:
    lowest, highest = "01920000-0a20-0000-0000-000000000000", "01920000-0a2f-ffff-ffff-ffffffffffff"
    id_range = (model.parse_id(lowest), model.parse_id(highest))
    assert api.parse_filter({"id": "01920000-0a2"}) == Filter(id_range=id_range)
    assert api.parse_filter({"id": "019200000A2"}) == Filter(id_range=id_range)


@pytest.mark.parametrize(
    "query",
    [
        {"id": "x7"},
        {"id": "0 1"},
        {"id": "7" * 40},
        {"since": "x"},
        {"tenant": "x" * 400},
    ],
)
def test_invalid_filter_is_rejected(query: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"UUID|time|NAMESPACE/NAME|long"):
        api.parse_filter(query)


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "", "9" * 50])
def test_page_size_out_of_range_is_rejected(limit: str) -> None:
    with pytest.raises(ValueError, match="limit"):
        api.parse_limit({"limit": limit})


def test_selection_without_a_field_requires_all() -> None:
    assert api.parse_selection(b'{"all": true}', api.Selection).all is True
    assert api.parse_selection(b'{"route": "crm"}', api.Selection).route == "crm"
    for body in (b"", b"{}", b'{"all": false}'):
        with pytest.raises(ValueError, match="select rows"):
            api.parse_selection(body, api.Selection)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"rout": "crm"}', b'{"ids": [1]}', b"\xff"])
def test_body_that_is_not_a_selection_is_rejected(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a selection"):
        api.parse_selection(body, api.Selection)


def test_more_than_a_thousand_ids_are_rejected() -> None:
    selection = api.Selection(ids=["x"] * 1001)
    with pytest.raises(ValueError, match="at most"):
        api.filter_from_selection(selection)
