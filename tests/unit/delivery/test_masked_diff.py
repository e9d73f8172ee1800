"""A difference of two requests shows fields, and values only without a mask."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from usher_gateway.delivery import masked_diff
from usher_gateway.destinations import DestinationRequest

BODY = {"user": {"email": "ada@example.org", "tags": ["a"]}}


def shown(
    document: Any, url: str = "https://crm.example", content_type: str = "application/json", **values: str
) -> masked_diff.ShownRequest:
    content = document.encode() if isinstance(document, str) else json.dumps(document).encode()
    return masked_diff.ShownRequest(
        DestinationRequest("POST", url, [("content-type", content_type)], content), url, values
    )


def diff(before: masked_diff.ShownRequest, now: masked_diff.ShownRequest, transforms: str = "") -> list[str]:
    lines = masked_diff.diff_lines(before, now, masked_diff.ValueMask(transforms), BODY)
    return [line for line in lines if line[0] in "+-"]


def test_moved_value_keeps_its_number() -> None:
    lines = diff(shown({"email": "ada@example.org"}), shown({"mail": "ada@example.org"}), "{'mail': visit.email}")
    assert lines == ['-    "email": "••• text 1"', '+    "mail": "••• text 1"']


def test_changed_value_gets_another_number_and_its_type() -> None:
    lines = diff(shown({"email": "a"}), shown({"email": 5}))
    assert lines == ['-    "email": "••• text 1"', '+    "email": "••• number 2"']


def test_truth_value_differs_from_a_number_that_is_equal_to_it() -> None:
    assert diff(shown({"email": True}), shown({"email": 1})) != []


def test_empty_values_are_shown_because_they_name_nobody() -> None:
    lines = diff(shown({"email": ""}), shown({"email": None}))
    assert lines == ['-    "email": ""', '+    "email": null']


def test_key_that_a_transform_made_of_a_value_is_hidden() -> None:
    lines = diff(shown({}), shown({"ada@example.org": 1, "n": 2}), "{visit.email: 1, 'n': 2}")
    assert "ada@example.org" not in "\n".join(lines)
    assert any('"n": "••• number' in line for line in lines)


def test_attributes_of_an_event_keep_their_names() -> None:
    lines = diff(shown({"email": "a"}), shown({"specversion": "1.0", "data": {"email": "a"}}))
    assert any('"specversion": "••• text' in line for line in lines)


def test_variables_of_a_url_are_masked() -> None:
    lines = diff(shown({}, list="ada"), shown({}, list="bob"))
    assert lines == ['-    "list": "••• text 1"', '+    "list": "••• text 2"']


def test_form_is_shown_field_by_field() -> None:
    form = "application/x-www-form-urlencoded"
    lines = diff(shown("email=a", content_type=form), shown("email=b", content_type=form))
    assert lines == ['-    "email": "••• text 1"', '+    "email": "••• text 2"']


def test_body_that_is_no_json_is_one_text() -> None:
    assert diff(shown("<a/>"), shown("<b/>")) == ['-  "body": "••• text 1"', '+  "body": "••• text 2"']


def test_difference_in_a_hidden_part_is_said() -> None:
    (line,) = masked_diff.diff_lines(shown({}), shown({}), None, BODY)
    assert line.startswith("(the requests differ in a part that is not shown")


def test_long_difference_is_cut() -> None:
    lines = masked_diff.diff_lines(shown([]), shown(list(range(300))), None, BODY)
    assert len(lines) == 201
    assert lines[-1].endswith("lines more")


def test_only_the_beginning_of_a_huge_document_is_compared() -> None:
    numbers = [[number % 100 for number in range(900)]] * 100
    lines = masked_diff.diff_lines(shown({"a": 1, "n": numbers}), shown({"a": 2, "n": numbers[::-1]}), None, BODY)
    assert lines[-1] == "(the requests are long: only the first 400 values of each are compared)"
    assert [line for line in lines if line[0] in "+-"] == ['-    "a": 1,', '+    "a": 2,']


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5).map("zqxjv{}".format),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("user", "email")) | st.text(max_size=3).map("zqxjv{}".format), inner, max_size=3
        )
    ),
)


@given(_values, _values)
def test_mask_shows_no_text_of_any_document(before: Any, now: Any) -> None:
    lines = masked_diff.diff_lines(shown(before), shown(now), masked_diff.ValueMask("{'a': 1}"), BODY)
    assert "zqxjv" not in "\n".join(lines)


def test_values_are_shown_without_a_mask() -> None:
    lines = masked_diff.diff_lines(shown({"email": "ada@example.org"}), shown({}), None, BODY)
    assert any("ada@example.org" in line for line in lines)
