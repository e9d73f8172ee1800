"""docs/reasons.md explains every reason that the gateway gives, and no other."""

import enum
import re
from collections.abc import Iterator

from support import quarantine_samples, source
from usher_gateway import model
from usher_gateway.admin import receipts
from usher_gateway.ingest import body, server
from usher_gateway.ingest.pipeline import rebuild_arrival
from usher_gateway.model import errors
from usher_gateway.words import troubles

PAGE = (source.DOCS / "reasons.md").read_text("utf-8")

ENUMS: dict[str, type[enum.Enum]] = {
    "Counted as": model.CountedAs,
    "Refused": model.RefusedReason,
    "Quarantined": model.QuarantineReason,
    "Skipped": model.SkipReason,
    "Held": model.HoldReason,
    "Cancelled": model.CancelReason,
}

# A body of each reason that the body alone gives, with its content type.
BODIES = {
    model.QuarantineReason.NotJSON: (b"{", ""),
    model.QuarantineReason.NotObject: (b"[]", ""),
    model.QuarantineReason.BadCharset: (b"{}", "application/json; charset=unknown"),
    model.QuarantineReason.BadEncoding: (b"\x1f\x8b", ""),
    model.QuarantineReason.TooDeep: (b'{"user":{"id":1},"a":' + b"[" * 100 + b"]" * 100 + b"}", ""),
    model.QuarantineReason.TooManyNodes: (b'{"user":{"id":1},"a":[' + b"0," * 3_000 + b"0]}", ""),
    model.QuarantineReason.IntegerTooLong: (b'{"user":{"id":1},"a":%s}' % (b"9" * 41), ""),
}

NEVER_PARSED = {model.QuarantineReason.Truncated, model.QuarantineReason.BadEncoding}


def section(title: str) -> str:
    text_before, heading, text_after = PAGE.partition(f"\n## {title}\n")
    assert heading, title
    del text_before
    return text_after.partition("\n## ")[0]


def words(title: str) -> list[str]:
    rows = list(source.table_rows(section(title)))
    for row in rows:
        assert all(cell for cell in row), f"{title}: a cell of {row[0]} is empty"
    return [row[0].strip("`") for row in rows]


def test_reasons_page_explains_exactly_the_reasons_of_the_code() -> None:
    page = {title: sorted(words(title)) for title in ENUMS}
    assert page == {title: sorted(member.name for member in kind) for title, kind in ENUMS.items()}


def test_reasons_page_explains_exactly_the_error_codes() -> None:
    from usher_gateway.kube import client  # noqa: F401 - defines one of the errors

    def below(kind: type[errors.UsherError]) -> set[str]:
        ours = [inner for inner in kind.__subclasses__() if inner.__module__.startswith("usher_gateway.")]
        return {kind.code}.union(*(below(inner) for inner in ours))

    assert sorted(words("Errors")) == sorted(below(errors.UsherError))


def test_reasons_page_explains_exactly_the_troubles_of_tenants_in_their_order() -> None:
    rows = list(source.table_rows(section("Troubles")))
    assert [row[1].strip("`") for row in rows] == list(troubles.URGENT_FIRST)
    named = {row[1].strip("`"): row[0].strip("`") for row in rows if row[1].strip("`") in troubles.LISTENER_TROUBLES}
    assert named == troubles.LISTENER_TROUBLES


def test_reasons_page_has_the_status_that_each_refusal_sends() -> None:
    from usher_gateway.ingest import answers

    for row in source.table_rows(section("Refused")):
        sent = answers.REFUSED[model.RefusedReason(row[0].strip("`"))]
        assert str(sent.status) == row[1], row[0]


def test_reasons_page_has_the_time_limits_of_a_request() -> None:
    limits, rows = server.ServerLimits(), {row[0].strip("`"): row[2] for row in source.table_rows(section("Refused"))}
    whole = f"{limits.answer_seconds:g} s"
    assert f"{limits.header_seconds:g} s for its head, {whole} for all of it" in rows["BodyTimeout"]
    assert f"did not end within {whole} of the start of the request" in rows["Deadline"]


def test_reasons_page_names_the_arrivals_that_can_be_released() -> None:
    paragraph = section("Quarantined").partition("can be released:")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", paragraph))
    assert {model.QuarantineReason[name] for name in named} == set(released())


def test_unreadable_bodies_are_those_without_a_document() -> None:
    without_document = {
        reason
        for reason, (content, content_type) in BODIES.items()
        if body.parse(content, content_type).document is None
    }
    assert without_document | NEVER_PARSED == set(model.UNREADABLE)


def test_receipts_and_privacy_page_name_every_unreadable_body() -> None:
    (sentence,) = [line for line in receipts.NOT_REACHED if "could not be read" in line]
    privacy = (source.DOCS / "privacy.md").read_text("utf-8")
    paragraph = privacy.partition("An erasure does not reach:")[2].partition("),")[0]
    for text in (sentence, paragraph):
        assert {word for word in re.findall(r"\w+", text) if word in model.QuarantineReason.__members__} == {
            reason.name for reason in model.UNREADABLE
        }


def released() -> Iterator[model.QuarantineReason]:
    """Yield the reasons of arrivals that are visits after their listener was corrected."""
    for reason in model.QuarantineReason:
        content, content_type = BODIES.get(reason, (quarantine_samples.BODY, "application/json"))
        arrival = quarantine_samples.stored(quarantine=reason, body=content, content_type=content_type.encode())
        if isinstance(rebuild_arrival(quarantine_samples.listener(), arrival, quarantine_samples.NOW), model.Arrival):
            yield reason
