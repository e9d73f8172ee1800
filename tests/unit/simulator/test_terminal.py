"""The end of `usher simulate` with many URLs."""

import re

import msgspec
import pytest

from support import source
from usher_gateway.simulator import books, schedule, settings, terminal

HTTPS = "The URL is not https: Purple posts only to https with a valid certificate."


def simulated(count: int, *, refused: int = 0) -> tuple[settings.SimulatorSettings, terminal.Report]:
    """Return the report on some listeners; the last ``refused`` ones answered 404."""
    names = [f"http://localhost/v1/{number:03}" for number in range(count)]
    listeners = [
        books.SenderBooks(name=name, visits=2, sent=2, answered_well=2, acknowledged=2, latency=books.Latency(1, 2, 3))
        for name in names[: count - refused]
    ]
    for name in names[count - refused :]:
        listener = books.SenderBooks(name=name, visits=2, sent=2, unacknowledged=2, wrong=2)
        listener.failed_by_status[404] = 2
        listeners.append(listener)
    configured = settings.SimulatorSettings(
        targets=tuple(settings.SimulatorTarget(url=name, company=schedule.Company("77", 1, 9_100)) for name in names),
        pattern=schedule.Pattern(authentications=2, duration_seconds=1.0, curve=schedule.FLAT),
    )
    return configured, terminal.report(configured, books.SimulationBooks(listeners=listeners))


def test_many_listeners_end_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_report(*simulated(600, refused=25), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["│", "authentications", "│", "1200", "│"] for line in lines)
    assert any(line.split()[1:4] == ["failed", "│", "404:"] for line in lines)
    assert sum(line.endswith(": Would not survive Purple.") for line in lines) == 21
    assert lines[-4:] == [
        "More listeners with remarks: 5 (`-o json` has all).",
        f"All: {HTTPS}",
        "575 of 600 listeners: Would survive Purple if its URL were https.",
        "25 of 600 listeners: Would not survive Purple.",
    ]


def test_few_listeners_have_a_column_and_a_verdict_each(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_report(*simulated(2), as_json=False)
    shown = capsys.readouterr().out
    assert [line.split()[-4:] for line in shown.splitlines() if "authentications" in line] == [["2", "│", "2", "│"]]
    assert shown.endswith(f"http://localhost/v1/001: Would survive Purple if its URL were https.\n  - {HTTPS}\n")


def test_total_adds_counts_and_has_the_worst_latency() -> None:
    _, report = simulated(3, refused=1)
    total = books.total_of(report.books.listeners)
    assert (total.visits, total.acknowledged, total.failed_by_status) == (6, 4, {404: 2})
    assert total.latency == books.Latency(1, 2, 3)


def test_page_shows_the_report_on_a_listener_that_was_down(capsys: pytest.CaptureFixture[str]) -> None:
    page = (source.DOCS / "simulate.md").read_text("utf-8")
    (url, shown), *_ = re.findall(
        r"^\$ usher simulate (\S+/down) --visits 300 .*?$(.*?)^```", page, re.DOTALL | re.MULTILINE
    )
    configured, _ = simulated(1)
    configured = msgspec.structs.replace(configured, targets=(msgspec.structs.replace(configured.targets[0], url=url),))
    down = books.SenderBooks(name=url, visits=255, repeats=45, redeliveries=6, redelivered=6, acknowledged=300)
    down.sent, down.answered_well, down.retries, down.failed_by_status = 400, 306, 94, {503: 94}
    down.latency = books.Latency(0.001, 0.026, 0.027)
    terminal.show_report(
        configured, terminal.report(configured, books.SimulationBooks(listeners=[down])), as_json=False
    )
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in shown.splitlines() if line not in {"", "…", *printed}] == []
