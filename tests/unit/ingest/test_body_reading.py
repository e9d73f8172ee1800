import json
from typing import Any

import pytest

from support import ingest_samples
from usher_gateway.ingest import body_reading

BODY: dict[str, Any] = {
    "user": {
        "id": 4711,
        "email": "sam@example.test",
        "firstName": "",
        "visitCountsForVenue": 3,
        "loginDatetime": "2025-11-25T11:59:00Z",
        "marketing": {"agreed": True},
        "venue": {"id": "99", "name": "Main Street", "company": {"id": 77}},
    },
    "tags": ["a"],
    "sam@example.test": 1,
}


def read(document: object, **changes: Any) -> body_reading.BodyReading:
    listener = ingest_samples.live(ingest_samples.listener(**changes))
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return body_reading.read_body(listener, content, "application/json", ingest_samples.NOON, ingest_samples.KEYS)


def test_fields_have_place_and_class_and_no_personal_value() -> None:
    fields_by_name = {field.field: (field.path, field.value_class, field.value) for field in read(BODY).fields}
    assert fields_by_name["user"] == ("/user/id", "number", "")
    assert fields_by_name["email"] == ("/user/email", "text of 16 characters", "")
    assert fields_by_name["firstName"] == ("/user/firstName", "empty text", "")
    assert fields_by_name["mobile"] == ("", "absent", "")
    assert fields_by_name["venue"] == ("/user/venue/id", "digits of 2 characters", "99")
    assert fields_by_name["venueName"] == ("/user/venue/name", "text of 11 characters", "Main Street")
    assert fields_by_name["company"] == ("/user/venue/company/id", "number", "77")
    assert fields_by_name["visitCount"] == ("/user/visitCountsForVenue", "number", "3")


def test_value_is_shown_without_its_lone_surrogates() -> None:
    venue = {"id": "9\udc00", "name": "Caf\u00e9 \ud800", "company": {"id": "\udc00"}}
    reading = read({"user": {"id": 1, "visitCountsForVenue": "\udc00", "venue": venue}})
    assert {field.field: field.value for field in reading.fields if field.value} == {
        "venue": "9?",
        "venueName": "Caf\u00e9 ?",
        "company": "?",
        "visitCount": "?",
    }


def test_value_at_a_path_of_the_listener_is_never_shown() -> None:
    fields = {**ingest_samples.listener().fields, "venueName": ("/user/email",)}
    fields_by_name = {field.field: field for field in read(BODY, fields=fields).fields}
    assert (fields_by_name["venueName"].path, fields_by_name["venueName"].value) == ("/user/email", "")
    assert "sam@" not in repr(read(BODY, fields=fields))


def test_other_values_are_listed_without_odd_names() -> None:
    others = [(value.path, value.value_class) for value in read(BODY).others]
    assert others == [("/tags", "list"), ("/user/marketing/agreed", "true or false")]
    assert len(read({"user": {"id": 1}, **{f"k{number}": 1 for number in range(200)}}).others) == 50


@pytest.mark.parametrize("name", ["aa-bb-cc-dd-ee-ff", "AABBCCDDEEFF", "visitor4711", "m_447700900123"])
def test_names_that_may_be_an_address_or_a_number_are_left_out(name: str) -> None:
    assert name not in repr(read({"user": {"id": 1, "devices": {name: {"seen": True}}}}))


@pytest.mark.parametrize(
    ("value", "trust", "instant"),
    [
        ("2025-11-25T11:59:00Z", "Trusted", "2025-11-25T11:59:00.000Z"),
        ("2025-11-25T12:59:00+01:00", "Trusted", "2025-11-25T11:59:00.000Z"),
        (1_764_071_940, "Trusted", "2025-11-25T11:59:00.000Z"),
        ("2025-11-25 11:59:00", "NoOffset", ""),
        ("2025-11-25T13:00:00Z", "InFuture", ""),
        ("yesterday", "NotATime", ""),
        (17, "NotATime", ""),
        (["2025-11-25T11:59:00Z"], "NotATime", ""),
        (None, "Absent", ""),
    ],
)
def test_time_is_trusted_or_the_reason_is_given(value: object, trust: str, instant: str) -> None:
    reading = read({"user": {"id": 1, "loginDatetime": value}})
    assert (reading.time, reading.occurred_at) == (trust, instant)


def test_zone_of_the_listener_makes_a_time_trusted() -> None:
    reading = read({"user": {"id": 1, "loginDatetime": "2025-11-25 12:59:00"}}, occurred_at_zone="Europe/Paris")
    assert (reading.time, reading.occurred_at) == ("Trusted", "2025-11-25T11:59:00.000Z")


@pytest.mark.parametrize(
    ("document", "outcome"),
    [
        (BODY, "Visit"),
        (b"", "Probe"),
        ({}, "Probe"),
        (b"no", "NotJSON"),
        ([1], "NotObject"),
        ({"person": 1}, "NoUser"),
        (b" " * 300_000, "Truncated"),
    ],
)
def test_outcome_is_that_of_an_arrival(document: object, outcome: str) -> None:
    assert read(document).outcome == outcome


def test_other_company_is_pointed_out() -> None:
    tenant = {"company_id": "78", "company_check": "Warn"}
    assert (read(BODY, tenant=tenant).company_differs, read(BODY, tenant=tenant).outcome) == (True, "Visit")
    reading = read(BODY, tenant=tenant | {"company_check": "Quarantine"})
    assert (reading.company_differs, reading.outcome) == (True, "CompanyMismatch")
    assert not read(BODY, tenant=tenant | {"company_id": "77"}).company_differs
