"""The screen of `usher top`, without a terminal."""

import io
import os
import pty
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner

from usher_gateway.cli import admin_client, main, tables, top

NOW = "2026-11-25T12:00:00Z"


def tenant(name: str, *, visits: int = 0, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "namespace": "agency",
        "name": name,
        "state": "Active",
        "listeners": 2,
        "silentListeners": 0,
        "refusingListeners": 0,
        "lastArrival": "2026-11-25T11:59:18Z",
        "failingDestinations": [],
        "destinations": [],
        "firstFaults": {},
        "backlog": 0,
        "oldestInBacklog": None,
        "held": {},
        "dead": 0,
        "quotaUsed": None,
        "faults": {},
        "causes": {},
        "today": {"visits": visits, "refused": 0},
    }
    return row | changes


def answer(*rows: dict[str, Any], now: str = NOW) -> dict[str, Any]:
    return {"now": now, "rows": list(rows)}


def line(name: str, **changes: Any) -> top.TenantLine:
    (tenant_line,) = top.lines_of(answer(tenant(name, **changes)), None)
    return tenant_line


def shown(
    *lines: top.TenantLine,
    sort: top.SortKey = "attention",
    only_failing: bool = False,
    height: int = 24,
    width: int = 80,
) -> list[str]:
    """Return the lines of a screen below its title."""
    ordered = top.sort_lines(list(lines), sort)
    screen = top.draw_screen("title", ordered, height=height, width=width, sort=sort, only_failing=only_failing)
    return screen.plain.splitlines()[1:]


def test_rate_is_the_difference_of_two_readings_per_minute() -> None:
    earlier = answer(tenant("acme", visits=10), tenant("gone", visits=3))
    (first,) = top.lines_of(answer(tenant("acme", visits=10)), None)
    later_lines = top.lines_of(
        answer(tenant("acme", visits=13), tenant("new", visits=9), now="2026-11-25T12:00:30Z"), earlier
    )
    assert [first.rate, *(later_line.rate for later_line in later_lines)] == [None, 6.0, None]


def test_readings_closer_than_20_seconds_give_no_rate() -> None:
    earlier = answer(tenant("acme", visits=10))
    lines = [
        top.lines_of(answer(tenant("acme", visits=12), now=f"2026-11-25T12:00:{seconds}Z"), earlier)
        for seconds in ("19", "20")
    ]
    assert [each.rate for (each,) in lines] == [None, 6.0]
    assert [top.title_of(each, NOW).splitlines()[0] for each in lines] == [
        "usher top  12:00:00  1 tenant: 0 failing, 0 silent",
        "usher top  12:00:00  1 tenant: 0 failing, 0 silent, 6 visits/min",
    ]


def test_title_counts_waiting_held_and_dead_deliveries_without_zeros() -> None:
    lines = [line("a", backlog=9135, dead=41), line("b", dead=3000), line("c", held={"FilterError": 2177})]
    assert top.title_of(lines, NOW).splitlines()[1] == "deliveries: 9135 waiting, 2177 held, 3041 dead"
    assert top.title_of(lines[1:2], NOW).splitlines()[1] == "deliveries: 3000 dead"
    assert top.title_of([line("d")], NOW).splitlines()[1] == "deliveries: none waiting, held or dead"


def test_rate_is_never_negative_after_midnight() -> None:
    earlier = answer(tenant("acme", visits=900))
    (tenant_line,) = top.lines_of(answer(tenant("acme", visits=2), now="2026-11-25T12:00:30Z"), earlier)
    assert tenant_line.rate == 0.0


def test_ages_count_from_the_clock_of_the_gateway() -> None:
    acme = line("acme", oldestInBacklog="2026-11-25T10:00:00Z")
    assert (acme.last_seconds, acme.lag_seconds) == (42.0, 7200.0)
    assert line("new", lastArrival=None).last_seconds is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.4, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (86_400, "1d"), (1e12, "999d")],
)
def test_duration_has_at_most_four_characters(seconds: float | None, text: str) -> None:
    assert tables.duration(seconds) == text


def test_why_goes_on_in_further_lines() -> None:
    tenant_line = line(
        "harbour-hotels",
        failingDestinations=["agency/warehouse"],
        faults={"TimesUntrusted": 1},
        causes={"TimesUntrusted": "10% NoOffset"},
    )
    assert shown(tenant_line, width=76)[:3] == [
        "TENANT          LAG  LAST  VIS/MIN  TODAY  WHY↓",
        "harbour-hotels  -     42s  -            0  warehouse fails, untrusted times",
        f"{'':43}10% NoOffset",
    ]


def test_tenant_that_refuses_all_says_how_many_of_today() -> None:
    row = tenant("arena", faults={"Refusing": 2}, causes={"Refusing": "SourceNotAllowed"}, lastArrival=None)
    row["today"]["refused"] = 22242
    (tenant_line,) = top.lines_of(answer(row), None)
    assert tenant_line.why == "refuses all SourceNotAllowed (2) 22242 today"


def test_order_follows_the_sort_key_and_then_the_urgency() -> None:
    lines = [line("b", dead=1), line("a", held={"QuotaExceeded": 4}), line("c", silentListeners=1, lastArrival=None)]
    names = {
        key: [sorted_line.name[7:] for sorted_line in top.sort_lines(lines, key)]
        for key in ("dead", "held", "silent", "last")
    }
    assert names == {
        "dead": ["b", "a", "c"],
        "held": ["a", "b", "c"],
        "silent": ["c", "b", "a"],
        "last": ["b", "a", "c"],
    }


def test_attention_puts_failing_tenants_first_and_then_silent_ones() -> None:
    lines = [
        line("a", visits=9),
        line("b", silentListeners=1, faults={"Silent": 1}),
        line("c", failingDestinations=["agency/crm"]),
    ]
    assert [each.name[7:] for each in top.sort_lines(lines, "attention")] == ["c", "b", "a"]
    assert lines[2].why == "crm fails"


@pytest.mark.parametrize(
    ("sort", "head"), [("rate", "VIS/MIN↓"), ("dead", "DEAD↓"), ("attention", "WHY↓"), ("name", "TENANT↓")]
)
def test_column_of_the_order_is_marked(sort: top.SortKey, head: str) -> None:
    heads, *_ = shown(line("acme"), sort=sort)
    assert [word for word in heads.split() if word.endswith("↓")] == [head]


def test_failing_tenants_show_how_long_their_most_urgent_trouble_lasts() -> None:
    held = {"listener": "agency/lobby", "reason": None, "since": "2026-11-25T10:00:00Z"}
    crm = {"name": "agency/crm", "lastError": {"since": "2026-11-25T11:30:00Z"}}
    lines = [
        line("a", failingDestinations=["agency/crm"], destinations=[crm], dead=3),
        line("b", held={"FilterError": 2}, firstFaults={"DeliveriesHeld": held}),
        line("c", dead=3),
    ]
    table = [row.split()[:3] for row in shown(*lines, only_failing=True)[:4]]
    assert table == [["TENANT", "FOR", "LAST"], ["a", "30m", "42s"], ["c", "-", "42s"], ["b", "2h", "42s"]]
    head, *_ = shown(*lines, only_failing=True, sort="lag")
    assert head.split()[:2] == ["TENANT", "LAG↓"]


def test_once_prints_one_reading_without_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USHER_TOKEN", "token")
    rows = [tenant(f"company-with-a-rather-long-name-{number:03}", visits=99_999, dead=12) for number in range(3)]
    with mock.patch.object(admin_client.AdminClient, "get", return_value=answer(*rows)) as get:
        result = CliRunner().invoke(main.build(), ["top", "--once"])
    assert (result.exit_code, get.call_count) == (0, 1)
    title, deliveries, head, *lines = result.stdout.splitlines()
    assert title == "usher top  12:00:00  3 tenants: 3 failing, 0 silent"
    assert deliveries == "deliveries: 36 dead"
    assert head.split() == ["TENANT", "LAG", "LAST", "TODAY", "WHY↓"]
    assert lines[0].split() == ["company-with-a-rather-long-name-000", "-", "42s", "99999", "12", "dead"]


def test_once_has_no_order_by_rate() -> None:
    result = CliRunner().invoke(main.build(), ["top", "--once", "--sort", "rate"])
    assert (result.exit_code, result.stdout) == (admin_client.USAGE, "")
    assert "it has no rates" in result.stderr


def test_screen_fits_its_terminal_and_ends_with_the_order() -> None:
    lines = [line(f"company-with-a-rather-long-name-{number:03}", visits=123_456, dead=12) for number in range(300)]
    head, first, *rest = shown(*lines)
    assert max(map(len, [head, first, *rest])) <= 80
    assert head.split() == ["TENANT", "LAG", "LAST", "VIS/MIN", "TODAY", "WHY↓"]
    assert first.split() == ["company-with-a-rather-long-name-000", "-", "42s", "-", "123456", "12", "dead"]
    assert (len(rest), rest[-1]) == (21, "300 tenants by attention, Ctrl-C ends")
    assert shown(only_failing=True)[-1] == "0 failing tenants by attention, Ctrl-C ends"


def test_last_reading_stays_until_no_further_one_can_succeed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USHER_TOKEN", "token")
    readings: Iterator[Callable[[], Any]] = iter(
        [
            lambda: answer(tenant("acme")),
            lambda: admin_client.fail("no gateway answers at http://127.0.0.1:9090", "a hint", admin_client.WRONG),
            lambda: admin_client.fail("the gateway does not know this token", "a hint", admin_client.USAGE),
        ]
    )
    window, its_end = pty.openpty()
    with os.fdopen(its_end, "r+b", buffering=0) as stream, io.TextIOWrapper(stream, write_through=True) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("sys.stdout", terminal)
        with mock.patch.object(admin_client.AdminClient, "get", side_effect=lambda *_, **__: next(readings)()):
            code = main.build()(["top", "--seconds", "0.2"], standalone_mode=False)
        written = os.read(window, 65_536).decode()
    os.close(window)
    _, _, second_screen = written.partition("usher top  no gateway answers at http://127.0.0.1:9090")
    assert "acme" in second_screen
    assert (code, capsys.readouterr().err) == (2, "usher: the gateway does not know this token\n       a hint\n")
