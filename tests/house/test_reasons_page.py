"""docs/reasons.md explains every word by which the gateway gives a reason, and no other."""

import enum

import pytest

from house import source
from usher_gateway import model
from usher_gateway.model import errors

PAGE = (source.DOCS / "reasons.md").read_text("utf-8")

ENUMS: dict[str, type[enum.Enum]] = {
    "Counted as": model.CountedAs,
    "Refused": model.RefusedReason,
    "Quarantined": model.QuarantineReason,
    "Skipped": model.SkipReason,
    "Held": model.HoldReason,
    "Cancelled": model.CancelReason,
}


def section(title: str) -> str:
    before, found, after = PAGE.partition(f"\n## {title}\n")
    assert found, title
    del before
    return after.partition("\n## ")[0]


def words(title: str) -> list[str]:
    rows = list(source.table_rows(section(title)))
    for row in rows:
        assert all(cell for cell in row), f"{title}: a cell of {row[0]} is empty"
    return [row[0].strip("`") for row in rows]


@pytest.mark.parametrize("title", ENUMS)
def test_every_reason_is_explained_and_no_other(title: str) -> None:
    assert sorted(words(title)) == sorted(member.name for member in ENUMS[title])


def test_every_error_code_is_explained_and_no_other() -> None:
    def below(kind: type[errors.UsherError]) -> set[str]:
        ours = [inner for inner in kind.__subclasses__() if inner.__module__.startswith("usher_gateway.")]
        return {kind.code}.union(*(below(inner) for inner in ours))

    assert sorted(words("Errors")) == sorted(below(errors.UsherError))


def test_the_status_of_a_refusal_is_the_one_that_is_sent() -> None:
    from usher_gateway.ingest import answer

    for row in source.table_rows(section("Refused")):
        sent = answer.refused(model.RefusedReason(row[0].strip("`")))
        assert str(sent.status) == row[1], row[0]
