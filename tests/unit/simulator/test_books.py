"""The classification of answers, and the verdict on a listener."""

import array

import pytest

from usher_gateway.simulator import books

Outcome = books.RequestOutcome


@pytest.mark.parametrize(
    ("status", "header", "outcome"),
    [
        (200, " 1 ", Outcome.Acknowledged),
        (200, None, Outcome.HeaderMissing),
        (200, "true", Outcome.HeaderWrong),
        (200, "", Outcome.HeaderWrong),
        (201, "1", Outcome.WrongStatus),
        (503, "1", Outcome.WrongStatus),
    ],
)
def test_only_200_with_the_header_is_success(status: int, header: str | None, outcome: Outcome) -> None:
    assert books.classify_answer(status, header) is outcome


@pytest.mark.parametrize(
    ("result", "wrong"),
    [
        (books.RequestResult(Outcome.WrongStatus, 503), False),
        (books.RequestResult(Outcome.WrongStatus, 429), False),
        (books.RequestResult(Outcome.WrongStatus, 204), True),
        (books.RequestResult(Outcome.WrongStatus, 422), True),
        (books.RequestResult(Outcome.HeaderMissing, 200), True),
        (books.RequestResult(Outcome.TimedOut), False),
    ],
)
def test_answer_is_wrong_if_no_retry_can_help(result: books.RequestResult, wrong: bool) -> None:
    assert result.is_wrong is wrong


def test_hook_is_disabled_after_72_hours_of_failures() -> None:
    hook = books.Hook(disable_seconds=100)
    assert [hook.failed(0), hook.failed(99.9)] == [False, False]
    hook.succeeded()
    assert [hook.failed(150), hook.failed(249)] == [False, False]
    assert hook.failed(250)
    assert hook.disabled
    assert not hook.failed(999), "it is disabled only once"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_counted_once(outcome: Outcome) -> None:
    listener = books.SenderBooks(name="x")
    books.record_answer(listener, books.RequestResult(outcome, 500 if outcome is Outcome.WrongStatus else 0))
    assert listener.sent == 1
    assert listener.answered_well + listener.failures + listener.hung_up == 1


def test_quantiles_are_measured_values() -> None:
    measured = array.array("d", [float(number) for number in range(1, 101)])
    assert books.latency_of(measured) == books.Latency(p50=50.0, p99=99.0, max=100.0)
    assert books.latency_of(array.array("d")) == books.Latency()
    assert books.latency_of(array.array("d", [0.5])) == books.Latency(p50=0.5, p99=0.5, max=0.5)


def _judge(listener: books.SenderBooks) -> books.Verdict:
    return books.judge_books(listener)


def test_listener_that_answered_everything_survives_if_its_url_is_https() -> None:
    answered = books.SenderBooks(name="x", visits=9, sent=9, answered_well=9, acknowledged=9)
    assert _judge(answered) == books.Verdict(survives=True, lines=("Would survive Purple.",))
    judged = books.judge_books(answered, https=False)
    assert judged.lines[0] == "Would survive Purple if its URL were https."
    assert "not https" in judged.lines[-1]
    assert "not checked" in books.judge_books(answered, verified=False).lines[-1]


def test_header_in_the_documented_case_needs_no_note() -> None:
    answered = books.SenderBooks(name="x", visits=1, sent=1, answered_well=1, acknowledged=1)
    books.record_answer(answered, books.RequestResult(Outcome.Acknowledged, 200, header_name="wifiWebhookListener"))
    assert _judge(answered).lines == ("Would survive Purple.",)


def test_listener_with_successful_retries_survives_with_remarks() -> None:
    judged = _judge(books.SenderBooks(name="x", visits=1, failed_by_status={503: 2}, retries=2, acknowledged=1))
    assert judged.survives
    assert judged.lines[0] == "Would survive Purple: what failed was acknowledged after a retry."
    assert "503: 2" in " ".join(judged.lines)


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        (books.SenderBooks(name="x", header_missing=3), "wifiWebhookListener: 1"),
        (books.SenderBooks(name="x", failed_by_status={404: 1, 500: 1}), "Wrong answers (404: 1)"),
        (books.SenderBooks(name="x", unacknowledged=5, never_sent=2), "Still unacknowledged: 3"),
        (books.SenderBooks(name="x", unacknowledged=5, disabled=True, never_sent=4), "DISABLED"),
        (books.SenderBooks(name="x", tls_failed=1), "certificate"),
        (
            books.SenderBooks(
                name="x",
                validations=[
                    books.Validation("GET", Outcome.WrongStatus, 405, 0.1),
                    books.Validation("POST {}", Outcome.WrongStatus, 405, 0.1),
                    books.Validation("HEAD", Outcome.Acknowledged, 200, 0.1),
                ],
            ),
            "GET, POST {}: status 405",
        ),
        (
            books.SenderBooks(name="x", validations=[books.Validation("GET", Outcome.TimedOut, 0, 10.0)]),
            "would refuse to save it",
        ),
    ],
)
def test_verdict_names_each_problem(listener: books.SenderBooks, words: str) -> None:
    judged = _judge(listener)
    assert not judged.survives
    assert words in " ".join(judged.lines)


_ABSENT = books.Validation("GET", Outcome.WrongStatus, 404, 0.1)


@pytest.mark.parametrize(
    ("listener", "is_wrong_url"),
    [
        pytest.param(books.SenderBooks(name="x", validations=[_ABSENT, _ABSENT]), True, id="each call of the portal"),
        pytest.param(books.SenderBooks(name="x", sent=5, failed_by_status={404: 5}), True, id="each post"),
        pytest.param(books.SenderBooks(name="x", sent=5, failed_by_status={404: 4, 503: 1}), False, id="a post less"),
        pytest.param(
            books.SenderBooks(
                name="x", validations=[_ABSENT, books.Validation("HEAD", Outcome.Acknowledged, 200, 0.1)]
            ),
            False,
            id="a call less",
        ),
        pytest.param(books.SenderBooks(name="x", visits=5, never_sent=5, unacknowledged=5), False, id="no request"),
    ],
)
def test_verdict_on_nothing_but_404_is_that_the_url_is_wrong(listener: books.SenderBooks, is_wrong_url: bool) -> None:
    says_so = any("no URL that `usher url` prints now" in line for line in _judge(listener).lines)
    assert says_so is is_wrong_url


def test_interrupted_run_has_no_verdict_but_lists_problems() -> None:
    early = books.judge_books(books.SenderBooks(name="x", unacknowledged=5, never_sent=5), interrupted=True)
    assert (early.survives, early.lines[0]) == (False, "No verdict: it was interrupted before the end.")
    wrong = books.judge_books(books.SenderBooks(name="x", header_missing=1), interrupted=True)
    assert wrong.lines[0] == "Would not survive Purple."


def test_validate_only_judges_the_validation_only() -> None:
    listener = books.SenderBooks(name="x", unacknowledged=5, never_sent=5)
    judged = books.judge_books(listener, validate_only=True)
    assert judged == books.Verdict(survives=True, lines=("The portal would accept it.",))
