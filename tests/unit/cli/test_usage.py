import pytest
from typer.testing import CliRunner

from usher_gateway.cli import main, usage

COUNTS = {
    **dict.fromkeys(("arrivals", "redeliveries", "probes", "quarantined", "created", "cancelled"), 0),
    "visits": 1200,
    "repeats": 30,
    "refused": 2,
    "delivered": 1190,
    "died": 1,
}
ROW = {"period": "2026-11-25", "namespace": "agency", "tenant": "acme", "listener": "lobby", "openAfter": 9, **COUNTS}
ANSWER = {"rows": [ROW], "total": COUNTS}


@pytest.mark.parametrize("columns", ["40", "60", "80", "200"])
def test_usage_keeps_names_and_numbers_whole_at_every_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    usage._print_text(ANSWER)
    shown = capsys.readouterr().out
    for word in ("2026-11-25", "acme/lobby", "1200", "1190", "total"):
        assert word in shown


def test_usage_without_room_for_a_table_leaves_out_zeros(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    usage._print_text(ANSWER)
    shown = capsys.readouterr().out
    assert "  visits 1200, repeats 30, refused 2, delivered 1190,\n  died 1, open 9\n" in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_usage_without_room_for_a_table_shows_a_day_that_has_only_redeliveries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    counts = {**dict.fromkeys(COUNTS, 0), "arrivals": 14, "redeliveries": 10, "probes": 4}
    usage._print_text({"rows": [{**ROW, **counts, "openAfter": 0}], "total": counts})
    assert capsys.readouterr().out.count("redeliveries 10, probes 4") == 2


@pytest.mark.parametrize("flag", ["--namespace", "--tenant", "--listener"])
def test_check_of_a_part_of_the_books_is_refused(flag: str) -> None:
    result = CliRunner().invoke(main.build(), ["usage", "--check", flag, "acme", "--admin", "http://127.0.0.1:1"])
    assert result.exit_code == 2
    assert "--check checks the books of all listeners" in result.output
