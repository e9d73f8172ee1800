"""The screen of `usher top`, without a terminal."""

import io
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import rich.console

from usher_gateway.cli import admin_client, tables, top

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
        "backlog": 0,
        "oldestInBacklog": None,
        "held": {},
        "dead": 0,
        "quotaUsed": None,
        "faults": {},
        "today": {"visits": visits},
    }
    return row | changes


def answer(*rows: dict[str, Any], now: str = NOW) -> dict[str, Any]:
    return {"now": now, "rows": list(rows)}


def line(name: str, **changes: Any) -> top.TenantLine:
    (tenant_line,) = top.lines_of(answer(tenant(name, **changes)), None)
    return tenant_line


def shown(screen: top.Screen, *, height: int = 24, width: int = 80) -> str:
    written = io.StringIO()
    console = rich.console.Console(width=width, height=height, file=written)
    console.print(top.draw(screen, "title", height=height, width=width))
    return written.getvalue()


def screen_of(*lines: top.TenantLine, sort: top.SortKey = "rate", only_failing: bool = False) -> top.Screen:
    screen = top.Screen(sort=sort, only_failing=only_failing, namespace_and_name=None)
    screen.show(list(lines))
    return screen


def test_rate_is_the_difference_of_two_readings_per_minute() -> None:
    earlier = answer(tenant("acme", visits=10), tenant("gone", visits=3))
    (first,) = top.lines_of(answer(tenant("acme", visits=10)), None)
    later_lines = top.lines_of(
        answer(tenant("acme", visits=13), tenant("new", visits=9), now="2026-11-25T12:00:30Z"), earlier
    )
    assert [first.rate, *(later_line.rate for later_line in later_lines)] == [None, 6.0, None]


def test_rate_is_never_negative_after_midnight() -> None:
    earlier = answer(tenant("acme", visits=900))
    (tenant_line,) = top.lines_of(answer(tenant("acme", visits=2), now="2026-11-25T12:00:02Z"), earlier)
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


def test_order_follows_the_sort_key_and_then_the_name() -> None:
    lines = [line("b", dead=1), line("a", held={"QuotaExceeded": 4}), line("c", silentListeners=1, lastArrival=None)]
    names = {
        key: [sorted_line.name[7:] for sorted_line in top.sort_lines(lines, key)]
        for key in ("dead", "held", "silent", "last")
    }
    assert names == {
        "dead": ["b", "a", "c"],
        "held": ["a", "b", "c"],
        "silent": ["c", "a", "b"],
        "last": ["a", "b", "c"],
    }


def test_attention_puts_failing_tenants_first_and_then_silent_ones() -> None:
    lines = [
        line("a", visits=9),
        line("b", silentListeners=1, faults={"Silent": 1}),
        line("c", failingDestinations=["agency/crm"]),
    ]
    assert [each.name[7:] for each in top.sort_lines(lines, "attention")] == ["c", "b", "a"]
    assert lines[2].why == "crm fails"


def test_keys_sort_filter_choose_and_look_inside() -> None:
    screen = screen_of(line("a"), line("b", dead=2), line("c", dead=7))
    screen.press("d")
    assert [visible.name for visible in screen.lines] == ["agency/c", "agency/b", "agency/a"]
    screen.press("\x1b[B")
    screen.press("n")
    assert screen.lines[screen.chosen].name == "agency/b"  # the choice stays with its tenant
    screen.press("f")
    assert [visible.name for visible in screen.lines] == ["agency/b", "agency/c"]
    screen.press("\r")
    assert screen.only == "agency/b"
    screen.press("\x1b")
    screen.press("?")
    assert screen.only is None


@pytest.mark.parametrize(("key", "head"), [("r", "VIS/MIN↓"), ("d", "WHY↓"), ("n", "TENANT↓")])
def test_column_of_the_order_is_marked(key: str, head: str) -> None:
    screen = screen_of(line("acme"))
    screen.press(key)
    assert shown(screen).count("↓") == 1
    assert head in shown(screen)


def test_keys_change_nothing_while_no_tenant_is_shown() -> None:
    screen = screen_of()
    for key in ("\x1b[A", "\x1b[B", "\r", "d"):
        screen.press(key)
    assert (screen.only, screen.lines) == (None, [])
    assert "TENANT" in shown(screen)


def test_screen_fits_80_columns_and_its_lines() -> None:
    screen = screen_of(
        *(line(f"company-with-a-rather-long-name-{number:03}", visits=123_456, dead=12) for number in range(300))
    )
    text = shown(screen)
    lines = text.rstrip("\n").splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    assert lines[-1].rstrip().endswith("q quit")
    assert all(head in lines[1] for head in ("TENANT", "LAG", "LAST", "VIS/MIN", "WHY"))
    assert lines[2].startswith("company-with-a-…me-000 ")
    assert all(head in shown(screen_of(line("acme"))) for head in ("LAST", "VIS/MIN", "WHY", "TODAY"))


def test_table_scrolls_with_the_chosen_tenant() -> None:
    screen = screen_of(*(line(f"t{number:03}") for number in range(300)), sort="name")
    for _ in range(150):
        screen.press("\x1b[B")
    assert "\nt150 " in shown(screen)
    assert "\nt000 " not in shown(screen)
    for _ in range(400):
        screen.press("\x1b[B")
    assert "\nt299 " in shown(screen)


def reader_that(act: Callable[[], str]) -> Any:
    return mock.Mock(read=lambda _screen, _width: act())


def fails(code: int) -> Callable[[], str]:
    return lambda: admin_client.fail("no gateway answers at http://127.0.0.1:9090: refused", "a hint", code)


def test_last_reading_stays_while_no_gateway_answers(capsys: pytest.CaptureFixture[str]) -> None:
    screen = screen_of(line("acme"))
    assert top.read_again(reader_that(fails(admin_client.WRONG)), screen, 80, "title") == "title"
    head, *rest = shown(screen).splitlines()
    assert head.rstrip() == "usher top  no gateway answers at http://127.0.0.1:9090: refused"
    assert "acme" in " ".join(rest)
    assert top.read_again(reader_that(lambda: "new title"), screen, 80, "title") == "new title"
    assert "no gateway" not in shown(screen)
    assert capsys.readouterr().err == ""


def test_reading_that_fails_for_good_ends_with_its_message() -> None:
    with pytest.raises(top.EndedError) as caught:
        top.read_again(reader_that(fails(admin_client.USAGE)), screen_of(), 80, "title")
    assert (caught.value.exit_code, caught.value.said.splitlines()[1].strip()) == (admin_client.USAGE, "a hint")
