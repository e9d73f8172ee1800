import email.utils

import multidict
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.delivery import samples
from usher_gateway.delivery import outcome
from usher_gateway.destinations import DestinationAnswer, SendError

NOW = samples.RECEIVED_AT
HOUR = 3600 * 1_000_000


def classified(status: int = 0, error: SendError | None = None, **headers: str) -> outcome.Outcome:
    named = multidict.CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return outcome.classify(DestinationAnswer(status, named, b"", error), samples.destination(), NOW)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_delivered(status: int) -> None:
    assert classified(status) == outcome.DELIVERED


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_is_mostly_over_soon_is_retried(status: int) -> None:
    result = classified(status)
    assert (result.kind, result.slow, result.blames_destination) == (outcome.Kind.Retry, False, True)


@pytest.mark.parametrize("error", list(SendError))
def test_no_answer_is_retried_and_speaks_of_the_destination(error: SendError) -> None:
    result = classified(error=error)
    assert (result.kind, result.error, result.blames_destination) == (outcome.Kind.Retry, error, True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401, 403, 404])
def test_what_a_person_has_to_mend_is_retried_slowly(status: int) -> None:
    result = classified(status)
    assert (result.kind, result.slow) == (outcome.Kind.Retry, True)


@pytest.mark.parametrize("status", [400, 402, 405, 406, 409, 411, 413, 415, 422, 451, 499])
def test_a_body_that_is_not_wanted_is_dead_at_once_and_says_nothing_of_the_destination(status: int) -> None:
    result = classified(status)
    assert (result.kind, result.error, result.blames_destination) == (outcome.Kind.Dead, "Rejected", False)


def test_gone_is_dead_and_reported() -> None:
    result = classified(410)
    assert (result.kind, result.gone) == (outcome.Kind.Dead, True)


@pytest.mark.parametrize("status", [0, 99, 100, 101, 600, 999])
def test_a_status_that_does_not_exist_is_retried(status: int) -> None:
    assert classified(status).kind is outcome.Kind.Retry


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ({}, outcome.Kind.Retry),
        ({"WIFIWEBHOOKLISTENER": "1"}, outcome.Kind.Delivered),
        ({"wifiwebhooklistener": " 1 "}, outcome.Kind.Delivered),
        ({"wifiWebhookListener": "0"}, outcome.Kind.Retry),
    ],
)
def test_a_success_header_that_is_wanted_must_be_there(sent: dict[str, str], kind: outcome.Kind) -> None:
    destination = samples.destination(success_header=("wifiWebhookListener", "1"))
    answer = DestinationAnswer(200, multidict.CIMultiDict(sent))
    assert outcome.classify(answer, destination, NOW).kind is kind


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), (" 7 ", 7), ("0", 0), ("3601", 3600), ("9" * 60, 3600), ("9" * 9000, 3600), ("-5", 0), ("1.5", 0)],
)
def test_retry_after_in_seconds_is_honoured_up_to_an_hour(value: str, seconds: int) -> None:
    assert classified(503, retry_after=value).retry_after == seconds * 1_000_000


@pytest.mark.parametrize(("ahead", "expected"), [(90, 90), (-90, 0), (86_400, 3600)])
def test_retry_after_as_a_date_is_honoured_up_to_an_hour(ahead: int, expected: int) -> None:
    now = NOW // 1_000_000 * 1_000_000
    value = email.utils.formatdate(now // 1_000_000 + ahead, usegmt=True)
    assert outcome.retry_after(value, now) == expected * 1_000_000


@settings(max_examples=200)
@given(st.text(max_size=80) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ \S*"))
def test_no_retry_after_however_odd_raises_or_puts_off_over_an_hour(value: str) -> None:
    assert 0 <= outcome.retry_after(value, NOW) <= HOUR


def test_retry_after_means_nothing_on_what_is_not_retried() -> None:
    assert classified(200, retry_after="60").retry_after == 0
    assert classified(422, retry_after="60").retry_after == 0
