"""Checks expressions, and tries them on sample visits, to find before the first visit that one fails or takes long.

The samples are Usher's own. An expression over a customer's own fields may rightly fail on them, so that is a warning.
"""

from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.expressions import programs

_SAMPLE_RECEIVED_AT = 1_767_261_600 * model.MICROSECONDS
_SAMPLE_LISTENER = model.ListenerName("sample", "sample", "sample")
_SAMPLE_ID = "019b79a1-2c00-7000-8000-000000000001"


class Sample(msgspec.Struct, frozen=True):
    """A body as Purple may send it, and the visit that Usher reads from it."""

    name: str
    body: dict[str, Any]
    visit: model.Visit


# One body with every field that Purple is known to send, and one with the least that is accepted.
SAMPLES: tuple[Sample, ...] = (
    Sample(
        "a full body",
        {
            "user": {
                "id": 4711,
                "firstName": "Sam",
                "lastName": "Sample",
                "email": "sam@example.com",
                "mobile": "+440000000000",
                "gender": "U",
                "dateOfBirth": "1990-01-31",
                "source": "form",
                "mac": "02:00:00:00:00:01",
                "loginDatetime": "2026-01-01T10:00:00Z",
                "visitCountsForVenue": 1,
                "venue": {"id": 99, "name": "Sample Venue", "company": {"id": 77}},
            },
        },
        model.Visit(
            userId="4711",
            venueId="99",
            companyId="77",
            firstName="Sam",
            lastName="Sample",
            email="sam@example.com",
            mobile="+440000000000",
            gender="U",
            dateOfBirth="1990-01-31",
            source="form",
            mac="02:00:00:00:00:01",
            venueName="Sample Venue",
            visitCount=1,
            occurredAt=_SAMPLE_RECEIVED_AT,
        ),
    ),
    Sample("a body with only a user", {"user": {"id": "4711"}}, model.Visit(userId="4711")),
)

_SAMPLE_OF = {sample.name: sample for sample in SAMPLES}

MAX_CHECKED = 16_384  # Expressions whose check is remembered. If there are more, all of them are checked again once.

_MEASUREMENTS = 5

# The fields of these answers are unknown: a rule may fail on them, but its value must be true or false.
_ANSWERS: dict[str, dict[str, object]] = {
    "an answer with a document": {"status": 200, "headers": {"content-type": "application/json"}, "body": {}},
    "an answer with a text": {"status": 500, "headers": {"content-type": "text/plain"}, "body": "error"},
}

_HINTS = {
    "NoSuchField": "guard a field that bodies may lack, here called `body.room`: in a filter "
    "`has(body.room) && body.room != ''`, in a transform `has(body.room) ? body.room : ''`; `visit` has all its fields",
    "NotJSON": "a map cannot have true or false as a key, because JSON has only text as keys",
    "NotTextOrInteger": "a variable of a URL must be a text or a whole number: convert with string()",
    "NotBoolean": "a filter must give true or false, as in `visit.email != ''`",
    "NoSuchOverload": "types do not fit: convert with int(), double() or string(); `visit.visitCount` may be null",
    "TooExpensive": "it copies too much: use fewer fields, or shorter lists",
}
_ANSWER_HINT = "a rule must give true or false, as in `answer.body != ''`"


class ExpressionWarning(msgspec.Struct, frozen=True):
    """Says that an expression fails on bodies, and how to correct it."""

    message: str
    hint: str


class ExpressionCheck(msgspec.Struct, frozen=True):
    """Everything that is known of an expression before the first visit."""

    problems: tuple[str, ...]  # Why it cannot be used, each with a way to correct it
    warning: ExpressionWarning | None = None  # On which samples it fails; None if it fails on none, or cannot be used


_checks: dict[programs.Source, ExpressionCheck] = {}


def check_expression(source: str, where: programs.Where) -> ExpressionCheck:
    """Check an expression, and try it on every sample. Keeps no program in memory."""
    key = source, where
    check = _checks.get(key)
    if check is None:
        program = _program(source, where)
        failures = {} if program.problems else _failures(program)
        check = ExpressionCheck(program.problems, _warning(failures, where) if failures else None)
        if len(_checks) >= MAX_CHECKED:
            _checks.clear()
        _checks[key] = check
    return check


def is_checked(source: str, where: programs.Where) -> bool:
    """Return whether `check_expression` would return at once."""
    return (source, where) in _checks


def measure(source: str, where: programs.Where) -> float:
    """Return the CPU time in seconds of one evaluation of a valid expression, with the sample that takes longest."""
    program = _program(source, where)
    return max(min(_evaluate_sample(program, name).cpu_seconds for _ in range(_MEASUREMENTS)) for name in _names(where))


def failure_of(evaluation: programs.Evaluation) -> str:
    """Return the error code of an evaluation with a body; ``""`` if its value can be used."""
    return evaluation.error_code or ("" if _has_json_form(evaluation.value) else "NotJSON")


def warning_of(code: str, missing_field: str, on: str, where: programs.Where) -> ExpressionWarning:
    """Return the words about an expression that fails. ``on``: with what, such as ``every sample body``."""
    field = f" ({missing_field})" if missing_field else ""
    if where == "answer":  # its only error is NotBoolean
        return ExpressionWarning(f"fails with {code} on {on}; attempts would end with RuleFailed", _ANSWER_HINT)
    hint = _HINTS.get(code, "see docs/expressions.md")
    return ExpressionWarning(f"fails with {code}{field} on {on}; deliveries would be held", hint)


def _evaluate_sample(program: programs.Program, name: str) -> programs.Evaluation:
    """Evaluate an expression with a sample body or a sample answer."""
    if name in _ANSWERS:
        return program.evaluate_answer(_ANSWERS[name])
    sample = _SAMPLE_OF[name]
    values = programs.visit_values(sample.visit, _SAMPLE_RECEIVED_AT, _SAMPLE_LISTENER, late=False, visit_id=_SAMPLE_ID)
    return program.evaluate(values, sample.body)


def _program(source: str, where: programs.Where) -> programs.Program:
    is_compiled = programs.is_compiled(source, where)
    return programs.compile_expression(source, where) if is_compiled else programs.Program(source, where)


def _names(where: programs.Where) -> tuple[str, ...]:
    return tuple(_ANSWERS if where == "answer" else _SAMPLE_OF)


def _failures(program: programs.Program) -> dict[str, tuple[str, str]]:
    """Return the samples on which an expression fails: name -> error code and missing field."""
    failures = {}
    for name in _names(program.where):
        evaluation = _evaluate_sample(program, name)
        code = failure_of(evaluation)
        if code and (program.where != "answer" or code == "NotBoolean"):
            failures[name] = code, evaluation.missing_field
    return failures


def _warning(failures: dict[str, tuple[str, str]], where: programs.Where) -> ExpressionWarning:
    code, missing_field = next(iter(failures.values()))
    fails_always = where != "answer" and len(failures) == len(SAMPLES)
    return warning_of(code, missing_field, "every sample body" if fails_always else " and on ".join(failures), where)


def _has_json_form(value: object) -> bool:
    """Return whether a transform may have this value: a map with a Boolean key, which CEL allows, has no JSON form."""
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError):
        return False
    return True
