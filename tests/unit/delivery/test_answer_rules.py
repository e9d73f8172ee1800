"""What the rules of a destination make of its answers, with the vendors' answers of docs/destinations.md."""

import json
from typing import Any

import multidict
import pytest

from support import delivery_samples
from usher_gateway import documents, expressions, model
from usher_gateway.delivery import outcome, payload
from usher_gateway.destinations import DestinationAnswer
from usher_gateway.expressions import samples

NOW = delivery_samples.RECEIVED_AT
Rule = documents.AnswerRule
Retry, Dead, Delivered = model.SettledAs.Retry, model.SettledAs.Dead, model.SettledAs.Delivered

HUBSPOT = Rule("Dead", (207,), "answer.body.numErrors > 0")
MAILCHIMP = Rule("Throttle", (403,), "answer.body == ''")
BIGQUERY = Rule("Retry", (200,), "has(answer.body.insertErrors)")
MAKE = Rule("Throttle", (400,), "string(answer.body).contains('Queue is full')")


def classified(*rules: Rule, status: int = 200, body: object = "", **changes: Any) -> outcome.Outcome:
    sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    headers = multidict.CIMultiDict({"Content-Type": "application/json"} if sent else {})
    headers.update(changes.pop("headers", {}))
    answer = DestinationAnswer(status, headers, sent, is_complete=changes.pop("is_complete", True))
    return outcome.classify(answer, delivery_samples.destination(answers=rules, **changes), NOW)


@pytest.mark.parametrize(
    ("rule", "status", "body", "kind", "error"),
    [
        (HUBSPOT, 207, {"numErrors": 1, "errors": [{}]}, Dead, "RejectedByRule"),
        (HUBSPOT, 207, {"numErrors": 0}, Delivered, ""),
        (HUBSPOT, 200, {"status": "COMPLETE"}, Delivered, ""),
        (MAILCHIMP, 403, "", Retry, "ThrottledByRule"),
        (MAILCHIMP, 403, {"title": "Wrong key"}, Retry, "Forbidden"),
        (BIGQUERY, 200, {"kind": "x", "insertErrors": [{"index": 0}]}, Retry, "RetriedByRule"),
        (BIGQUERY, 200, {"kind": "x"}, Delivered, ""),
        (MAKE, 400, "Queue is full.", Retry, "ThrottledByRule"),
        (MAKE, 400, "Invalid", Dead, "Rejected"),
        (Rule("Delivered", (409,)), 409, {"already": True}, Delivered, ""),
        (Rule("Dead", (300,)), 300, "", Dead, "RejectedByRule"),
    ],
)
def test_rule_decides_before_the_status(
    rule: Rule, status: int, body: object, kind: model.SettledAs, error: str
) -> None:
    result = classified(rule, status=status, body=body)
    assert (result.kind, result.error) == (kind, error)


def test_first_rule_that_applies_decides() -> None:
    rules = (Rule("Retry", (500,)), Rule("Dead", (), "answer.status >= 400"), Rule("Delivered"))
    assert [classified(*rules, status=status).kind for status in (500, 404, 302)] == [Retry, Dead, Delivered]


@pytest.mark.parametrize(
    ("when", "body", "is_complete"),
    [
        ("answer.body.errors > 0", {}, True),
        ("answer.body.errors > 0", {"errors": "many"}, True),
        ("answer.body == ''", "", False),
    ],
)
def test_rule_that_cannot_be_evaluated_is_retried_and_shows(when: str, body: object, is_complete: bool) -> None:
    result = classified(Rule("Dead", (), when), status=200, body=body, is_complete=is_complete)
    assert (result.kind, result.error) == (Retry, "RuleFailed")


def test_rule_that_reads_no_body_needs_no_complete_answer() -> None:
    rule = Rule("Dead", (), "answer.headers['x-result'] == 'refused'")
    assert classified(rule, is_complete=False, headers={"X-Result": "refused"}).kind is Dead


def test_rules_that_take_long_together_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stops the event loop for up to 50 ms, and a destination may have 16."""
    evaluated: list[object] = []

    def evaluate(_: expressions.Program, values: object) -> expressions.Evaluation:
        evaluated.append(values)
        return expressions.Evaluation(value=False, cpu_seconds=0.02)

    monkeypatch.setattr(expressions.Program, "evaluate_answer", evaluate)
    rules = [Rule("Dead", (), f"size(answer.body) == {size}") for size in range(16)]
    assert classified(*rules).error == "RuleFailed"
    assert len(evaluated) == 3
    assert classified(*rules[:3]).kind is Delivered


def test_header_that_is_not_utf_8_does_not_disturb_the_others() -> None:
    rule = Rule("Dead", (), "answer.headers['x-result'] == 'refused'")
    other = b"Z\xfcrich".decode("utf-8", "surrogateescape")  # as aiohttp reads it
    assert classified(rule, headers={"X-Result": "refused", "Via": other}).kind is Dead


@pytest.mark.parametrize(
    ("when", "reads"), [("answer.status == 1", False), ("answer.body == ''", True), ("answer == {}", True)]
)
def test_client_reads_bodies_only_for_rules_that_look_at_them(when: str, reads: bool) -> None:
    destination = delivery_samples.destination(answers=(Rule("Dead", (200,), when),))
    assert payload.prepare(destination).reads_answer is reads
    assert outcome.rules_read_body(delivery_samples.destination(answers=(Rule("Dead", (200,)),))) is False


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30),
        ("0.5", 0.5),
        ("7200", 3600),
        ("90000", 90),  # milliseconds
        (str(NOW // 1_000_000 + 20), 20),
        (str(NOW // 1000 + 20_000), 20),
        (str(NOW // 1_000_000 - 20), 0),
        ("soon", 0),
        ("", 0),
        ("9" * 400, 3600),
    ],
)
def test_vendors_header_says_when_to_try_again(value: str, seconds: float) -> None:
    headers = {"X-SIB-RateLimit-Reset": value}
    result = classified(status=429, headers=headers, retry_after_header="x-sib-ratelimit-reset")
    assert abs(result.retry_after - seconds * 1_000_000) <= 1_000_000


def test_later_of_two_times_counts() -> None:
    headers = {"x-reset": "10", "Retry-After": "60"}
    assert classified(status=429, headers=headers, retry_after_header="x-reset").retry_after == 60_000_000


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("visit.email == ''", "use `answer`"),
        ("answer.code == 1", "`answer` has no `code`"),
        ("answer.body.exists(item, answer.status == 1)", "`answer` may not be used inside `exists`"),
    ],
)
def test_rule_sees_only_the_answer(source: str, part: str) -> None:
    assert part in " ".join(samples.check_expression(source, "answer").problems)
