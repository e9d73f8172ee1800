from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner

from usher_gateway.cli import main, usage

COUNTS = {
    **dict.fromkeys(("arrivals", "redeliveries", "probes", "quarantined", "created", "cancelled", "suppressed"), 0),
    **dict.fromkeys(("routed", "attempts", "late", "released", "replayed", "redriven"), 0),
    "skipped": {"Filter": 0},
    "visits": 1200,
    "repeats": 30,
    "refused": 2,
    "delivered": 1190,
    "died": 1,
}
ROW = {"period": "2026-11-25", "namespace": "agency", "tenant": "acme", "listener": "lobby", "openAfter": 9, **COUNTS}
TIMES: dict[str, Any] = {"from": "2026-11-25T00:00:00.000Z", "to": "2026-11-25T12:00:00.000Z"}
ANSWER = {"by": "day", **TIMES, "rows": [ROW], "total": {**COUNTS, "openAfter": 9}}


def printed(answer: Any, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    usage.print_text(answer, mock.Mock(), 50, 0)
    return capsys.readouterr().out


def test_narrow_usage_has_the_total_and_what_matters_most(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(ANSWER, 60, monkeypatch, capsys).splitlines() == [
        "PERIOD      LISTENER  VISITS  DELIV.  DIED  OPEN  REFUSED",
        "2026-11-25  lobby       1200    1190     1     9        2",
        "total       -           1200    1190     1     9        2",
    ]


def test_usage_of_a_part_of_a_day_says_from_when(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = ANSWER | {"from": "2026-11-25T10:00:00.000Z"}
    assert printed(part, 60, monkeypatch, capsys).startswith("From 2026-11-25T10:00 to 2026-11-25T12:00 UTC:\nPERIOD ")


def test_usage_names_the_tenant_of_a_listener_that_moved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = {"by": "day", **TIMES, "rows": [ROW, {**ROW, "tenant": "zoo"}], "total": {**COUNTS, "openAfter": 18}}
    shown = printed(moved, 80, monkeypatch, capsys)
    assert "agency/acme/lobby" in shown
    assert "agency/zoo/lobby" in shown


@pytest.mark.parametrize("flag", ["--namespace", "--tenant", "--listener"])
def test_check_of_a_part_of_the_books_is_refused(flag: str) -> None:
    result = CliRunner().invoke(main.build(), ["usage", "--check", flag, "acme", "--admin", "http://127.0.0.1:1"])
    assert result.exit_code == 2
    assert "--check checks the books of all listeners" in result.output


def test_venues_are_printed_page_by_page(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"period": "2026-11-01/2026-11-29T12:00+00:00", "namespace": "agency", "tenant": "acme"}
    rows = [{**names, "venue": number, "visits": 3, "repeats": 1} for number in range(7)]
    answer = {"by": "venue", **TIMES, "rows": rows, "total": {"visits": 21, "repeats": 7}, "withoutBody": 0}
    usage.print_text(answer, mock.Mock(command_path="usher usage", command=mock.Mock(params=[])), 3, 3)
    page = capsys.readouterr()
    period, *lines = page.out.splitlines()
    assert period == "From 2026-11-25T00:00 to 2026-11-25T12:00 UTC:"
    assert [line.split()[1:] for line in lines] == [
        ["VENUE", "VISITS", "REPEATS"],
        *[[str(number), "3", "1"] for number in (3, 4, 5)],
        ["-", "21", "7"],
    ]
    assert page.err == "Showing 3 of 7 rows.\nnext: usher usage --cursor 6\n"


def test_long_name_leaves_room_for_what_is_not_delivered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {**ROW, "listener": "the-very-long-name-of-a-company-119", "suppressed": 3}
    total = {**COUNTS, "suppressed": 3, "openAfter": 9}
    head, line, more, _ = printed({**ANSWER, "rows": [row], "total": total}, 80, monkeypatch, capsys).splitlines()
    assert head.split() == ["PERIOD", "LISTENER", "VISITS", "DELIV.", "DIED", "OPEN", "REFUSED", "SUPPR."]
    assert (line.split()[1], more.split()) == ("the-very-long-name-of-", ["a-company-119"])


def test_columns_that_are_zero_in_every_row_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {**dict.fromkeys(COUNTS, 0), "skipped": {}, "probes": 1}
    rows = [{**ROW, **counts, "openAfter": 2}, {**ROW, **counts, "openAfter": 0}]
    answer = ANSWER | {"rows": rows, "total": {**counts, "openAfter": 0}}
    head, *_ = printed(answer, 80, monkeypatch, capsys).splitlines()
    assert head.split()[2:] == ["VISITS", "OPEN", "PROBES", "TENANT", "NAMESPACE"]
