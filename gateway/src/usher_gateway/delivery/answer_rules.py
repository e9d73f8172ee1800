"""The rules of a destination for its answers: the first that applies says what an answer means. Pure."""

from collections.abc import Mapping

import msgspec

from usher_gateway import documents, expressions
from usher_gateway.destinations import DestinationAnswer

# CPU time of the evaluations for one answer after which no other begins, because they stop the event loop.
MAX_SECONDS = 0.05


class AppliedRule(msgspec.Struct, frozen=True):
    """What the rules say of an answer."""

    effect: str = ""
    """``AnswerRule.effect``; ``""``: no rule applies, or ``error_code`` is set."""
    number: int = 0
    """Which rule it is, from 1; 0: none applies."""
    error_code: str = ""
    """Why the first rule that could apply cannot be evaluated, as in docs/expressions.md."""


def reads_body(destination: documents.DestinationDocument) -> bool:
    """Return whether a rule of a destination looks at the bodies of answers."""
    return any(
        rule.when and expressions.compile_expression(rule.when, "answer").reads_answer_body
        for rule in destination.answers
    )


def apply(rules: tuple[documents.AnswerRule, ...], answer: DestinationAnswer) -> AppliedRule:
    """Return what the first rule says that applies to an answer."""
    values, used_seconds = None, 0.0
    for number, rule in enumerate(rules, 1):
        if rule.statuses and answer.status not in rule.statuses:
            continue
        if rule.when:
            program = expressions.compile_expression(rule.when, "answer")
            if program.reads_answer_body and not answer.is_complete:
                return AppliedRule(number=number, error_code="AnswerIncomplete")
            if used_seconds > MAX_SECONDS:
                return AppliedRule(number=number, error_code="TooExpensive")
            values = _values(answer) if values is None else values
            evaluation = program.evaluate_answer(values)
            used_seconds += evaluation.cpu_seconds
            if evaluation.error_code:
                return AppliedRule(number=number, error_code=evaluation.error_code)
            if not evaluation.value:
                continue
        return AppliedRule(rule.effect, number)
    return AppliedRule()


def _values(answer: DestinationAnswer) -> Mapping[str, object]:
    headers = {name.lower(): _without_surrogates(value) for name, value in answer.headers.items()}
    return {"status": answer.status, "headers": headers, "body": _document(answer.body)}


def _without_surrogates(value: str) -> str:
    """Replace the surrogates of bytes that are not UTF-8. CEL has no surrogates."""
    return value.encode("utf-8", "replace").decode()


def _document(body: bytes) -> object:
    """Return a body as JSON, or as text if it is not JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
