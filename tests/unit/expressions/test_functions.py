"""The functions that Usher adds to expressions, with the results of CEL's strings extension where that has them."""

from typing import Any

import pytest

from usher_gateway import expressions, model
from usher_gateway.expressions import samples

VISIT = expressions.visit_values(
    model.Visit(email=" Ann.Ödegård@Example.COM ", occurredAt=1_782_948_600_000_000),  # 2026-07-01T23:30:00Z
    1_782_948_600_000_000,
    model.ListenerName("agency", "acme", "lobby"),
    late=False,
    visit_id="019b79a1-2c00-7000-8000-000000000001",
    is_repeat=True,
)


def evaluate(source: str, body: object = None) -> expressions.Evaluation:
    assert samples.check_expression(source, "transform").problems == ()
    return expressions.compile_expression(source, "transform").evaluate(VISIT, body)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("visit.email.trim().lowerAscii()", "ann.Ödegård@example.com"),
        ("visit.email.trim().upperAscii()", "ANN.ÖDEGåRD@EXAMPLE.COM"),
        ("'hello hello'.replace('he', 'we')", "wello wello"),
        ("'ab'.replace('', '_')", "_a_b_"),
        ("'a,b,,c'.split(',')", ["a", "b", "", "c"]),
        ("'abc'.split('')", ["a", "b", "c"]),
        ("['hello', 'mellow'].join()", "hellomellow"),
        ("['hello', 'mellow'].join(' ')", "hello mellow"),
        ("[].join('/')", ""),
        ("'tacocat'.substring(4)", "cat"),
        ("'tacocat'.substring(0, 4)", "taco"),
        ("'tacocat'.substring(7)", ""),
        ("md5('abc')", "900150983cd24fb0d6963f7d28e17f72"),  # RFC 1321
        ("sha256('abc')", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),  # FIPS 180-4
        ("base64('any carnal pleas')", "YW55IGNhcm5hbCBwbGVhcw=="),
        ("base64(b'ab')", "YWI="),
        ("date(visit.occurredAt, 'Europe/London')", "2026-07-02"),
        ("date(timestamp(visit.occurredAt), 'America/New_York')", "2026-07-01"),
        ("format(visit.occurredAt, '%d.%m.%Y %H:%M', 'Europe/London')", "02.07.2026 00:30"),
        ("visit.occurredAt.format('%A, %B %d %%', 'UTC')", "Wednesday, July 01 %"),
        ("body.tags.split(',').map(tag, tag.trim().upperAscii()).join('/')", "VIP/REGULAR"),
        ("visit.id + (visit.repeat ? '-repeat' : '')", "019b79a1-2c00-7000-8000-000000000001-repeat"),
        ("visit.tenant + '/' + visit.listener", "acme/lobby"),
    ],
)
def test_function_returns_what_its_extension_says(source: str, value: object) -> None:
    evaluation = evaluate(source, {"tags": "vip, regular"})
    assert (evaluation.value, evaluation.error_code) == (value, "")


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("visit.visitCount.trim()", "NoSuchOverload"),
        ("trim()", "NoSuchOverload"),
        ("['a', 1].join()", "NoSuchOverload"),
        ("'abc'.substring('1')", "NoSuchOverload"),
        ("'abc'.substring(2, 1)", "OutOfRange"),
        ("'abc'.substring(4)", "OutOfRange"),
        ("date('yesterday', 'UTC')", "BadValue"),
        ("date('2026-07-01T23:30:00', 'UTC')", "BadValue"),
        ("date(visit.occurredAt, 'Mars/Base')", "BadValue"),
        ("date(visit.occurredAt, '../../etc/passwd')", "BadValue"),
        ("format(visit.occurredAt, '%s', 'UTC')", "BadValue"),
        ("body.big.replace('a', body.big)", "TooExpensive"),
        ("[body.big, body.big, body.big].join()", "TooExpensive"),
    ],
)
def test_function_fails_with_a_code(source: str, code: str) -> None:
    assert evaluate(source, {"big": "a" * 100_000}).error_code == code


@pytest.mark.parametrize(
    "source",
    [
        "body.text" + ".lowerAscii()" * 300,
        "body.text" + ".replace('é', 'éé')" * 200,
        "[" + ", ".join(["md5(body.text)"] * 200) + "]",
        "body.items.map(item, " + " + ".join(["item.trim()"] * 200) + ")",
        "body.items.map(item, format(visit.occurredAt, '%A %d %B %Y', 'Europe/London'))",
        " || ".join([f"date(visit.occurredAt, 'Mars/{number}') == ''" for number in range(80)]),
    ],
)
def test_calls_of_one_evaluation_share_its_budget(source: str) -> None:
    """Without a budget, some of these would take seconds."""
    body: dict[str, Any] = {"text": "é" * 200_000, "items": ["x" * 50] * 1000}
    assert evaluate(source, body).error_code in {"TooExpensive", "BadValue"}


def test_split_leaves_out_what_is_after_its_hundredth_part() -> None:
    assert evaluate("body.text.split(',').size()", {"text": "a," * 5_000}).value == 100
