"""Try an expression on sample visits, to find before the first visit that it fails or takes long."""

import functools
from typing import Any

import msgspec

from usher_gateway import expressions, model

_SAMPLE_RECEIVED_AT = 1_767_261_600 * model.MICROSECONDS
_SAMPLE_LISTENER = model.ListenerName("sample", "sample", "sample")
_SAMPLE_ID = "019b79a1-2c00-7000-8000-000000000001"


class Sample(msgspec.Struct, frozen=True):
    """A body as Purple may send it, and the visit that Usher reads from it."""

    name: str
    body: dict[str, Any]
    visit: model.Visit


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
"""One body with every field that Purple is known to send, and one with the least that is accepted."""


_MEASUREMENTS = 5

_ANSWERS: dict[str, dict[str, object]] = {
    "an answer with a document": {"status": 200, "headers": {"content-type": "application/json"}, "body": {}},
    "an answer with a text": {"status": 500, "headers": {"content-type": "text/plain"}, "body": "error"},
}
"""Answers whose fields nobody knows: a rule may fail on them, but must not be anything else than true or false."""


class SampleEvaluation(msgspec.Struct, frozen=True):
    """The results of an expression with the samples."""

    failed: dict[str, str]
    """The samples on which it fails: name -> error code."""
    cpu_seconds: float
    """Of one evaluation, with the sample that takes longest."""
    always_fails: bool = False
    """True if it fails on every sample body, or is no rule for answers because it is not true or false."""
    missing_field: str = ""
    """As in ``expressions.Evaluation``, of the last sample on which it fails."""


@functools.lru_cache(maxsize=16_384)
def try_samples(source: str, where: expressions.Where) -> SampleEvaluation:
    """Evaluate a valid expression on every sample, and measure it."""
    program = expressions.compile_expression(source, where)
    if where == "answer":
        return _try_answers(program)
    failed, longest, missing_field = {}, 0.0, ""
    for sample in SAMPLES:
        values = expressions.visit_values(
            sample.visit, _SAMPLE_RECEIVED_AT, _SAMPLE_LISTENER, late=False, visit_id=_SAMPLE_ID
        )
        evaluations = [program.evaluate(values, sample.body) for _ in range(_MEASUREMENTS)]
        longest = max(longest, min(evaluation.cpu_seconds for evaluation in evaluations))
        code = evaluations[0].error_code or ("" if _has_json_form(evaluations[0].value) else "NotJSON")
        if code:
            failed[sample.name], missing_field = code, evaluations[0].missing_field
    return SampleEvaluation(failed, longest, len(failed) == len(SAMPLES), missing_field)


def _try_answers(program: expressions.Program) -> SampleEvaluation:
    failed, longest = {}, 0.0
    for name, answer in _ANSWERS.items():
        evaluations = [program.evaluate_answer(answer) for _ in range(_MEASUREMENTS)]
        longest = max(longest, min(evaluation.cpu_seconds for evaluation in evaluations))
        if evaluations[0].error_code == "NotBoolean":
            failed[name] = "NotBoolean"
    return SampleEvaluation(failed, longest, bool(failed))


def _has_json_form(value: object) -> bool:
    """Return whether a transform may have this value: a map with a Boolean key, which CEL allows, has no JSON form."""
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError):
        return False
    return True
