"""Sample visits that expressions are tried on, before the first real one comes."""

from collections.abc import Iterator
from typing import Any

import msgspec

from usher_gateway import expressions, model, resources

_RECEIVED_AT = 1_767_261_600 * model.MICROSECONDS


class Sample(msgspec.Struct, frozen=True):
    """A body as Purple may send it, and what is understood of it."""

    name: str
    body: dict[str, Any]
    visit: model.Visit


SAMPLES = (
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
            occurredAt=_RECEIVED_AT,
        ),
    ),
    Sample("a body with nothing but a user", {"user": {"id": "4711"}}, model.Visit(userId="4711")),
)
"""One body with all that Purple is known to send, one with the least that is accepted."""


class Trial(msgspec.Struct, frozen=True):
    """An expression that failed on samples."""

    path: str
    error_code: str
    samples: tuple[str, ...]
    always: bool
    """It failed on every sample, and not for want of a field: it can never work."""


def try_expressions(one: resources.Listener) -> Iterator[Trial]:
    """Every valid expression of a listener that fails on a sample."""
    for index, route in enumerate(one.spec.routes or ()):
        path = f"spec.routes[{index}]"
        if route.when is not None:
            yield from _try(f"{path}.when", expressions.compile_expression(route.when, "when"))
        if route.transform is not None:
            yield from _try(f"{path}.transform", expressions.compile_expression(route.transform, "transform"))


def _try(path: str, program: expressions.Program) -> Iterator[Trial]:
    failed = {}
    for sample in SAMPLES if not program.problems else ():
        values = expressions.visit_values(sample.visit, _RECEIVED_AT, late=False)
        code = program.evaluate(values, sample.body).error_code
        if code:
            failed[sample.name] = code
    if failed:
        code = next(iter(failed.values()))
        yield Trial(path, code, tuple(failed), len(failed) == len(SAMPLES) and "NoSuchField" not in failed.values())
