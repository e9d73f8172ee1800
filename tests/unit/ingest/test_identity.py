import datetime
import json
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import ingest_samples
from usher_gateway import model
from usher_gateway.ingest.body import parse
from usher_gateway.ingest.identity import Extractor, Identifier, as_text

SECOND = model.MICROSECONDS
BODY: dict[str, Any] = {
    "user": {
        "id": 7,
        "email": "zoe@example.test",
        "mobile": "+49 (0) 170/1",
        "venue": {"id": 9},
        "device": {"mac": "A:B"},
    }
}


def with_user(**changes: Any) -> dict[str, Any]:
    return {"user": BODY["user"] | changes}


KEYS = st.text(max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(KEYS, JSON, min_size=1, max_size=4)


def shuffled(value: Any, reverse: bool) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key], reverse) for key in sorted(value, reverse=reverse)}
    return [shuffled(item, reverse) for item in value] if isinstance(value, list) else value


@given(BODIES)
def test_order_of_names_does_not_change_the_fingerprint(body: dict[str, Any]) -> None:
    forward, backward = shuffled(body, reverse=False), shuffled(body, reverse=True)
    assert ingest_samples.identity(forward).fingerprint == ingest_samples.identity(backward).fingerprint


@given(BODIES, BODIES)
def test_different_content_has_a_different_fingerprint(body: dict[str, Any], other_body: dict[str, Any]) -> None:
    is_equal = json.dumps(body, sort_keys=True) == json.dumps(other_body, sort_keys=True)
    assert (ingest_samples.identity(body).fingerprint == ingest_samples.identity(other_body).fingerprint) is is_equal


@given(KEYS, JSON)
def test_unknown_field_changes_the_fingerprint_but_not_the_visitor(name: str, value: Any) -> None:
    plain, more = ingest_samples.identity(BODY), ingest_samples.identity({**BODY, f"new {name}": value})
    assert plain.fingerprint != more.fingerprint
    assert (plain.visitor_key, plain.person_keys) == (more.visitor_key, more.person_keys)


@given(st.integers(0, 2**60), st.integers(0, 2**60))
def test_id_as_number_and_as_text_is_the_same_visitor(user: int, venue: int) -> None:
    numbers = ingest_samples.identity({"user": {"id": user, "venue": {"id": venue}}})
    texts = ingest_samples.identity({"user": {"id": str(user), "venue": {"id": str(venue)}}})
    floats = ingest_samples.identity({"user": {"id": user, "venue": {"id": float(venue)}}}) if venue < 2**53 else texts
    assert numbers.visitor_key == texts.visitor_key == floats.visitor_key
    assert numbers.person_keys == texts.person_keys


@given(st.tuples(st.text(max_size=3), st.text(max_size=3)), st.tuples(st.text(max_size=3), st.text(max_size=3)))
def test_joined_ids_do_not_collide(ids: tuple[str, str], other_ids: tuple[str, str]) -> None:
    if all((*ids, *other_ids)) and ids != other_ids:
        first, second = ({"user": {"id": user, "venue": {"id": venue}}} for user, venue in (ids, other_ids))
        assert ingest_samples.identity(first).visitor_key != ingest_samples.identity(second).visitor_key


def test_json_spelling_does_not_change_the_fingerprint() -> None:
    spellings = (b'{"user":{"id":7,"firstName":"Zo\xc3\xab"}}', b'{ "user" : {"firstName":"Zo\\u00eb", "id":7} }')
    prints = set()
    for raw in spellings:
        parsed = parse(raw, "")
        assert parsed.document is not None
        prints.add(ingest_samples.identity(parsed.document).fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b'{"user":{},"n":1%s}' % (b"0" * 39),
        b'{"user":{},"n":NaN}',
        b'{"user":{"id":"\\ud800"}}',
        b'{"user":{"id":1e999}}',
    ],
)
def test_every_parsed_body_has_an_identity(raw: bytes) -> None:
    parsed = parse(raw, "")
    assert parsed.document is not None
    identifier = Identifier(ingest_samples.listener(), ingest_samples.KEYS)
    fields = identifier.extract(parsed.document)
    assert len(identifier.identify(parsed.document, parsed.is_plain, fields, ingest_samples.NOON).fingerprint) == 16


@pytest.mark.parametrize("value", [10**400, -(10**400), 2**64, 1e308, float("inf"), float("nan"), True, None, [], {}])
def test_odd_values_count_neither_as_ids_nor_as_times(value: Any) -> None:
    body = {"user": {"id": value, "email": value, "mobile": value, "device": {"mac": value}}, "timestamp": value}
    identifier = Identifier(ingest_samples.listener(), ingest_samples.KEYS)
    visitor = identifier.identify(body, plain=False, fields=identifier.extract(body), received_at=ingest_samples.NOON)
    assert not visitor.time_trusted
    assert visitor.visit_time == ingest_samples.NOON


def test_digests_are_bound_to_listener_tenant_and_install() -> None:
    here = ingest_samples.identity(BODY)
    changes: dict[str, Any]
    changed: list[dict[str, Any]] = [{"name": "other"}, {"namespace": "elsewhere"}]
    for changes in changed:
        there = ingest_samples.identity(BODY, **changes)
        assert here.fingerprint != there.fingerprint
        assert here.visitor_key != there.visitor_key
    assert ingest_samples.identity(BODY, name="other").person_keys == here.person_keys, (
        "a person is found over listeners"
    )
    assert set(ingest_samples.identity(BODY, namespace="elsewhere").person_keys).isdisjoint(here.person_keys)
    keys = model.derive_keys(b"o" * 32)
    identifier = Identifier(ingest_samples.listener(), keys)
    other = identifier.identify(BODY, plain=True, fields=identifier.extract(BODY), received_at=ingest_samples.NOON)
    assert other.fingerprint != here.fingerprint
    assert set(other.person_keys).isdisjoint(here.person_keys)


# Persons


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC"])
@pytest.mark.parametrize("email", ["Zoë@Example.test", " zoë@example.TEST ", "ZOË@EXAMPLE.TEST"])
def test_spellings_of_an_email_give_one_person_key(form: str, email: str) -> None:
    given = unicodedata.normalize(form, email)  # type: ignore[arg-type]
    assert (
        ingest_samples.identity(with_user(email=given)).person_keys
        == ingest_samples.identity(with_user(email="zoë@example.test")).person_keys
    )


@pytest.mark.parametrize(
    "mobile", ["+4901701", "4901701", "004901701", "00 49 0170/1", "+49 0170 1", "+49-0170-1", "(+49) 0170/1"]
)
def test_mobile_number_is_reduced_to_its_digits(mobile: str) -> None:
    assert (
        ingest_samples.identity(with_user(mobile=mobile)).person_keys
        == ingest_samples.identity(with_user(mobile="4901701")).person_keys
    )


@pytest.mark.parametrize("mac", ["aa:bb:cc:00:11:22", "AA-BB-CC-00-11-22", "aabb.cc00.1122", "AABBCC001122"])
def test_mac_is_reduced_to_its_hexadecimal_digits(mac: str) -> None:
    device = {"mac": "aabbcc001122"}
    assert (
        ingest_samples.identity(with_user(device={"mac": mac})).person_keys
        == ingest_samples.identity(with_user(device=device)).person_keys
    )


@pytest.mark.parametrize(
    ("field", "spelling", "value"),
    [
        ("email", "\uff41\uff44\uff41\uff20example.org", "ada@example.org"),
        ("email", "ada\u200b@exam\u00adple.org\ufeff", "ada@example.org"),
        ("email", "\u200eada@example.org\u200f ", "ada@example.org"),
        ("email", "A\ufb01@example.org", "afi@example.org"),
        ("email", "ada\ufe0f@exa\u034fmple.org\u3164", "ada@example.org"),
        ("email", "a\u115fd\u17b4a\u180b@example.org\u2800\U000e0100", "ada@example.org"),
        ("mobile", "+\uff14\uff19 170 1", "+491701"),
        ("mobile", "+\u0664\u0669\u0661\u0667\u0660\u0661", "+491701"),
        ("mobile", "\u202a+49 170 1\u202c", "+491701"),
        ("id", "\u06f4\u06f7\u06f1\u06f1", "4711"),
        ("id", "4711\u200d", "4711"),
        ("mac", "\uff21\uff21:BB:CC:00:11:22\u200b", "aabbcc001122"),
    ],
    ids=ascii,
)
def test_unicode_spelling_gives_the_person_key_of_the_plain_value(field: str, spelling: str, value: str) -> None:
    spelled, plain = [ingest_samples.identity({"user": {field: text}}).person_keys for text in (spelling, value)]
    assert spelled == plain
    assert len(plain) == 1


def test_device_id_that_is_no_mac_keeps_all_its_letters() -> None:
    one_device, another_device = (with_user(device={"mac": mac}) for mac in ("guest-1", "phone-1"))
    assert ingest_samples.identity(one_device).person_keys != ingest_samples.identity(another_device).person_keys


def test_equal_values_of_different_fields_give_different_person_keys() -> None:
    ids = ingest_samples.identity({"user": {"id": "123"}}).person_keys
    mobiles = ingest_samples.identity({"user": {"mobile": "123"}}).person_keys
    assert len(ids) == len(mobiles) == 1
    assert ids != mobiles


@pytest.mark.parametrize("value", ["", " ", None, [], {}, True])
def test_empty_values_give_no_person_key(value: Any) -> None:
    assert (
        ingest_samples.identity({"user": {"id": value, "email": value, "mobile": value, "mac": value}}).person_keys
        == ()
    )


def test_very_long_email_is_handled_in_linear_time() -> None:
    body = with_user(email="a" + "\u0301\u0316" * 60_000)
    started = time.process_time()
    ingest_samples.identity(body)
    assert time.process_time() - started < 0.5


# Visitors


@pytest.mark.parametrize("per", [("User",), ("Venue",), ("Device",), ("User", "Venue"), ("User", "Venue", "Device")])
def test_visitor_key_follows_dedupe_per(per: tuple[str, ...]) -> None:
    plain = ingest_samples.identity(BODY, dedupe_per=per).visitor_key
    changed = {"User": with_user(id=8), "Venue": with_user(venue={"id": 8}), "Device": with_user(device={"mac": "C:D"})}
    for part, body in changed.items():
        assert (ingest_samples.identity(body, dedupe_per=per).visitor_key != plain) is (part in per)


@pytest.mark.parametrize("missing", ["id", "venue"])
@pytest.mark.parametrize("value", [None, "", {}, []])
def test_visitor_key_is_the_fingerprint_if_an_id_is_missing(missing: str, value: Any) -> None:
    visitor = ingest_samples.identity(with_user(**{missing: value}))
    assert visitor.visitor_key == visitor.fingerprint
    assert ingest_samples.identity(BODY).visitor_key != ingest_samples.identity(BODY).fingerprint


def test_unparsed_body_is_identified_by_its_bytes() -> None:
    identifier = Identifier(ingest_samples.listener(), ingest_samples.KEYS)
    first, same, different = (identifier.identify_unparsed(raw, ingest_samples.NOON, {}) for raw in (b"x", b"x", b"y"))
    assert first == same
    assert first.fingerprint == first.visitor_key != different.fingerprint
    assert first.visit_time == ingest_samples.NOON
    assert not first.time_trusted


# Times


def time_of(value: Any, zone: str = "", received_at: int = ingest_samples.NOON) -> int | None:
    return Identifier(ingest_samples.listener(occurred_at_zone=zone), ingest_samples.KEYS).occurred_at(
        value, received_at
    )


def iso(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp() * SECOND)


@pytest.mark.parametrize(
    "value",
    [
        "2025-11-25T11:00:00Z",
        "2025-11-25T11:00:00+00:00",
        "2025-11-25 12:00:00+01:00",
        "2025-11-25T06:00:00-0500",
        " 2025-11-25T11:00:00.000000Z ",
        "20251125T110000Z",
        "1764068400",
        "1764068400000",
        1764068400,
        1764068400.0,
        1764068400000,
    ],
)
def test_time_with_an_offset_or_as_epoch_is_trusted(value: Any) -> None:
    assert time_of(value) == iso("2025-11-25T11:00:00+00:00")


def test_fractions_of_a_second_are_kept() -> None:
    assert time_of(1764068400123) == iso("2025-11-25T11:00:00+00:00") + 123_000
    assert time_of(1764068400.25) == iso("2025-11-25T11:00:00+00:00") + 250_000
    assert time_of("2025-11-25T11:00:00.123456Z") == iso("2025-11-25T11:00:00+00:00") + 123_456


@pytest.mark.parametrize(
    ("text", "zone", "utc"),
    [
        ("2025-11-25 11:00:00", "Europe/Paris", "2025-11-25T10:00:00+00:00"),
        ("2025-07-01T11:00:00", "Europe/London", "2025-07-01T10:00:00+00:00"),
        ("2025-11-25T11:00:00Z", "Europe/Paris", "2025-11-25T11:00:00+00:00"),
        ("2025-10-26T02:30:00", "Europe/Paris", "2025-10-26T00:30:00+00:00"),
        ("2025-11-25", "Europe/Paris", "2025-11-24T23:00:00+00:00"),
    ],
)
def test_local_time_is_read_in_the_configured_zone(text: str, zone: str, utc: str) -> None:
    assert time_of(text, zone) == iso(utc)
    if "Z" not in text:
        assert time_of(text) is None


@pytest.mark.parametrize(("ahead", "is_trusted"), [(0, True), (120, True), (121, False), (86_400, False)])
def test_time_up_to_two_minutes_ahead_is_trusted(ahead: int, is_trusted: bool) -> None:
    value = ingest_samples.NOON // SECOND + ahead
    assert (time_of(value) == value * SECOND) is is_trusted
    assert (time_of(value) is None) is not is_trusted


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "soon",
            "²",
            "٣",
            "1" * 25,
            "-5",
            "NaN",
            "\ud800",
            "11:00",
            "2025-13-01T00:00:00Z",
            "2025-11-25T25:00:00Z",
        ),
        *("0001-01-01T00:00:00+14:00", "1999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59"),
        *(0, -1, 946_684_799, 99_999_999_999, 10**400, 1e308, float("nan"), float("inf"), None, True, [], {}),
    ],
)
@pytest.mark.parametrize("zone", ["", "America/New_York", "Asia/Kolkata"])
def test_implausible_time_is_not_trusted(value: Any, zone: str) -> None:
    assert time_of(value, zone) is None


@given(st.text(alphabet="0123456789-T:+Z. ", max_size=26) | st.integers() | st.floats())
def test_any_value_gives_a_time_within_limits_or_none(value: Any) -> None:
    microseconds = time_of(value, "Europe/Paris")
    assert (
        microseconds is None or iso("2000-01-01T00:00:00+00:00") <= microseconds <= ingest_samples.NOON + 120 * SECOND
    )


def test_untrusted_time_is_replaced_by_the_arrival_time() -> None:
    visitor = ingest_samples.identity({**BODY, "timestamp": "2025-11-25 10:00:00"})
    assert (visitor.visit_time, visitor.time_trusted) == (ingest_samples.NOON, False)
    visitor = ingest_samples.identity({**BODY, "timestamp": "2025-11-25 10:00:00Z"})
    assert (visitor.visit_time, visitor.time_trusted, visitor.future_time) == (
        ingest_samples.NOON - 7200 * SECOND,
        True,
        0,
    )
    visitor = ingest_samples.identity({**BODY, "timestamp": "2025-11-25 13:00:00Z"})
    future = ingest_samples.NOON + 3600 * SECOND
    assert (visitor.visit_time, visitor.time_trusted, visitor.future_time) == (ingest_samples.NOON, False, future)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("127", "127"),
        (127, "127"),
        (127.0, "127"),
        (1.5, "1.5"),
        (True, ""),
        (None, ""),
        ([], ""),
        ({}, ""),
        (-0.0, "0"),
        (10**30, "1" + "0" * 30),
    ],
)
def test_as_text_converts_ids_to_text(value: Any, text: str) -> None:
    assert as_text(value) == text


FIELDS = {
    "user": ("/user/id",),
    "company": ("/user/venue/company/id", "/company/id", "/companyId"),
    "slash": ("/a~1b/m~0n",),
    "item": ("/list/1/x",),
    "whole": ("",),
    "odd": ("/list/²",),
}


def extract(body: object) -> dict[str, object]:
    extracted = Extractor(FIELDS, FIELDS).extract(body)
    assert extracted.pop("whole") == body
    return extracted


def test_field_is_read_at_its_pointer() -> None:
    assert extract({"user": {"id": 7}}) == {"user": 7}


def test_first_pointer_that_leads_to_a_value_wins() -> None:
    assert extract({"companyId": 1, "company": {"id": 2}}) == {"company": 2}
    assert extract({"companyId": 1, "company": {"id": None}}) == {"company": 1}
    assert extract({"companyId": 1, "user": {"venue": {"company": {"id": 3}}}}) == {"company": 3}


def test_pointer_escapes_slashes_and_tildes() -> None:
    assert extract({"a/b": {"m~n": "x"}}) == {"slash": "x"}


@pytest.mark.parametrize(
    ("items", "extracted"),
    [([0, {"x": 5}], {"item": 5}), ([0], {}), ({"1": {"x": 6}}, {"item": 6}), ([None, None], {}), ("ab", {})],
)
def test_pointer_numbers_index_lists(items: object, extracted: dict[str, object]) -> None:
    assert extract({"list": items}) == extracted


@pytest.mark.parametrize(
    "body", [{}, {"user": None}, {"user": 7}, {"user": {"id": None}}, {"user": []}, {"user": "id"}]
)
def test_absent_field_is_left_out(body: object) -> None:
    assert extract(body) == {}


def _fingerprint_seconds(names: list[str]) -> float:
    """Return the CPU time for the identity of an object with these members, the best of five."""
    members = ",".join(f'"{name}":1' for name in names)
    parsed = parse(f'{{"user":{{"id":1}},{members}}}'.encode(), "")
    assert parsed.document is not None
    identifier = Identifier(ingest_samples.listener(), ingest_samples.KEYS)
    seconds = []
    for _ in range(5):
        began = time.thread_time()
        identifier.identify(parsed.document, parsed.is_plain, {}, ingest_samples.NOON, is_wide=parsed.is_wide)
        seconds.append(time.thread_time() - began)
    return min(seconds)


def test_order_of_many_keys_does_not_change_the_cost() -> None:
    names = [f"{'a' * 115}{number:04d}" for number in range(1_980)]
    assert _fingerprint_seconds(names) < 5 * _fingerprint_seconds(names[::-1])


def test_order_of_many_keys_does_not_change_the_fingerprint() -> None:
    names = [f"k{number:04d}" for number in range(1_000)]
    bodies: list[dict[str, object]] = [
        {"user": {"id": 1}, "list": [dict.fromkeys(order, 1)]} for order in (names, names[::-1])
    ]
    identifier = Identifier(ingest_samples.listener(), ingest_samples.KEYS)
    wide = [identifier.identify(body, plain=True, fields={}, received_at=1, is_wide=True) for body in bodies]
    plain = identifier.identify(bodies[0], plain=True, fields={}, received_at=1)
    assert {identified.fingerprint for identified in wide} == {plain.fingerprint}
