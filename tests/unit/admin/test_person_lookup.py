"""A value of a person is read as its field, or refused without being repeated."""

import pytest

from usher_gateway.admin import person_lookup
from usher_gateway.ingest.identity import PersonField


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ("ada@example.com", ("email",)),
        (" Ada@Example.com ", ("email",)),
        ("+49 (0) 170/123456", ("user", "mobile")),
        ("4711", ("user",)),
        ("47110", ("user", "mobile")),
        ("AA:BB:CC:00:11:22", ("user", "device")),
        ("aabb.cc00.1122", ("user", "device")),
        ("001122334455", ("user", "mobile", "device")),
        ("guest-17", ("user",)),
        ("ada\uff20example.com", ("email",)),
        ("\u200e+\u0664\u0669 170/123456", ("user", "mobile")),
    ],
)
def test_value_is_searched_as_what_it_looks_like(value: str, fields: tuple[PersonField, ...]) -> None:
    assert person_lookup.fields_of(value) == fields


@pytest.mark.parametrize(
    ("value", "field", "said"),
    [
        ("ada@example.com", "mobile", "has no digit; a mobile number needs one"),
        ("::", "device", "has no letter or digit; a MAC needs some"),
        ("a" * 1_001, "user", "must have 1 to 1000 characters"),
    ],
)
def test_value_that_is_none_of_its_field_is_refused_without_being_repeated(
    value: str, field: PersonField, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        person_lookup.normalised_values(value, [field])
    assert value not in str(raised.value)


def test_value_of_blanks_is_refused_as_empty() -> None:
    with pytest.raises(ValueError, match="is empty; give an e-mail address"):
        person_lookup.normalised_values("  ", ["email"])
