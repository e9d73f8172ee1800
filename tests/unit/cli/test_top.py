"""The screen of `usher top`, without a terminal."""

import io
import os
import pty
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import rich.console
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


def shown(screen: top.Screen, *, height: int = 24, width: int = 80) -> str:
    written = io.StringIO()
    console = rich.console.Console(width=width, height=height, file=written)
    console.print(top.draw(screen, "title", height=height, width=width))
    return written.getvalue()


def last_line(screen: top.Screen, *, width: int = 80) -> str:
    return shown(screen, width=width).splitlines()[-1].rstrip()


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


def test_why_fills_its_width_with_the_words_that_fit() -> None:
    tenant_line = line(
        "harbour-hotels",
        failingDestinations=["agency/warehouse"],
        faults={"TimesUntrusted": 1},
        causes={"TimesUntrusted": "10% NoOffset"},
        oldestInBacklog="2026-11-25T10:00:00Z",
    )
    assert re.search(r" warehouse fails, untrusted times 10%…$", shown(screen_of(tenant_line), width=76), re.MULTILINE)


def test_tenant_that_refuses_all_says_how_many_of_today() -> None:
    row = tenant("arena", faults={"Refusing": 2}, causes={"Refusing": "SourceNotAllowed"}, lastArrival=None)
    row["today"]["refused"] = 22242
    (tenant_line,) = top.lines_of(answer(row), None)
    assert tenant_line.why == "refuses all SourceNotAllowed (2) 22242 today"
    assert top.state_of(row).startswith("0 visits today, none accepted yet: refuses all ")
    assert "today, last accepted 2026-11-25 11:59:18: no troubles" in top.state_of(tenant("acme"))


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


def test_keys_sort_filter_choose_and_look_inside() -> None:
    screen = screen_of(line("a"), line("b", dead=2), line("c", dead=7))
    screen.press("d")
    assert [visible.name for visible in screen.lines] == ["agency/c", "agency/b", "agency/a"]
    screen.press("f")
    assert [visible.name for visible in screen.lines] == ["agency/c", "agency/b"]
    screen.press("\x1b[B")
    screen.press("\r")
    assert screen.only == "agency/b"
    screen.press("\x1b")
    screen.press("?")
    assert screen.only is None


def test_keys_move_by_a_page_and_to_both_ends() -> None:
    screen = screen_of(*(line(f"t{number:03}") for number in range(300)), sort="name")
    places = []
    for key in ("\x1b[6~", "\x1b[6~", "\x1b[5~", "\x1b[F", "\x1b[6~", "\x1b[H", "\x1b[5~"):
        screen.press(key)
        places.append(screen.chosen)
    assert places == [18, 36, 18, 299, 299, 0, 0]


@pytest.mark.parametrize("key", ["r", "d", "n", "f"])
def test_another_order_or_filter_begins_at_the_top_line(key: str) -> None:
    screen = screen_of(*(line(f"t{number:03}", dead=number) for number in range(300)), sort="name")
    for pressed in ["\x1b[B"] * 150 + ["\r", "\x1b"]:
        screen.press(pressed)
    assert screen.chosen == 150
    screen.press(key)
    assert screen.chosen == 0


def test_chosen_line_stays_with_its_tenant_at_a_new_reading() -> None:
    screen = screen_of(line("a"), line("b"), sort="dead")
    screen.press("\x1b[B")
    screen.show([line("a"), line("b", dead=1)])
    assert (screen.lines[screen.chosen].name, screen.chosen) == ("agency/b", 0)


def test_arrows_in_application_mode_move_the_choice() -> None:
    screen = screen_of(line("a"), line("b"), line("c"), sort="name")
    places = []
    for key in ("\x1bOB", "\x1bOB", "\x1bOA"):
        screen.press(key)
        places.append(screen.chosen)
    assert places == [1, 2, 1]


def test_keys_that_wait_are_pressed_before_one_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USHER_TOKEN", "token")
    window, its_end = pty.openpty()
    places: list[int] = []

    def draw(screen: top.Screen, *_: object, **__: object) -> str:
        places.append(screen.chosen)
        assert places in ([0], [0, 100])
        os.write(window, b"q" if screen.chosen else b"\x1b[B" * 100)
        return ""

    rows = [tenant(f"t{number:03}") for number in range(300)]
    with os.fdopen(its_end, "r+b", buffering=0) as stream, io.TextIOWrapper(stream, write_through=True) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setattr(top, "draw", draw)
        with mock.patch.object(admin_client.AdminClient, "get", return_value=answer(*rows)):
            main.build()(["top", "--sort", "name", "--seconds", "3600"], standalone_mode=False)
    os.close(window)
    assert places == [0, 100]


def test_inside_a_tenant_only_escape_leads_back() -> None:
    screen = screen_of(line("a"), line("b", dead=2), sort="name")
    for key in ("\r", "d", "f", "\x1b[B", "\r"):
        screen.press(key)
    assert (screen.only, screen.sort, screen.only_failing, screen.chosen) == ("agency/a", "name", False, 0)
    head, *_, foot = shown(screen).rstrip().splitlines()
    assert (head.rstrip(), foot.rstrip()) == ("usher top  inside agency/a", "Esc back, q quit")


def test_inside_a_tenant_says_which_columns_have_no_room() -> None:
    row = {
        "namespace": "agency",
        "name": "corner-cafes-of-the-north",
        "tenant": "corner-cafes-of-the-north",
        "faults": [],
        "today": {"visits": 123, "quarantined": 0},
        "lastArrival": "2026-11-29T12:00:00.000Z",
        "routes": [{"name": "customer-relations", "destination": "agency/customer-relations"}],
        "addresses": ["https://hooks.example.com/v1/abcd…"],
    }
    _, head, line_of_listener, no_room = top.lines_inside("listeners", [row], 80)
    assert head.split() == ["LISTENER", "VISITS", "LAST", "(UTC)", "QUARANTINED"]
    assert line_of_listener.startswith("agency/corner-cafes-of-the-north ")
    assert no_room == "No room for ROUTES, ADDRESSES."


@pytest.mark.parametrize(("key", "head"), [("r", "VIS/MIN↓"), ("d", "DEAD↓"), ("a", "WHY↓"), ("n", "TENANT↓")])
def test_column_of_the_order_is_marked(key: str, head: str) -> None:
    screen = screen_of(line("acme"))
    screen.press(key)
    assert shown(screen).count("↓") == 1
    assert head in shown(screen)


def test_foot_says_which_lines_are_shown_and_in_which_order() -> None:
    screen = screen_of(*(line(f"t{number:03}", dead=number // 298) for number in range(300)), sort="attention")
    assert last_line(screen) == "1-19 of 300 by attention"
    screen.press("s")
    for _ in range(400):
        screen.press("\x1b[B")
    assert last_line(screen) == "282-300 of 300 by silent"
    screen.press("f")
    assert last_line(screen) == "1-2 of 2 failing by silent"
    assert last_line(screen_of()) == "0 of 0 by rate"


def test_foot_names_the_columns_without_room() -> None:
    troubled = line("company-with-a-name", failingDestinations=["agency/warehouse-north"], dead=3, quotaUsed=0.95)
    screen = screen_of(troubled, sort="attention")
    assert last_line(screen, width=90) == "1-1 of 1 by attention"
    assert last_line(screen, width=60) == "1-1 of 1 by attention, no room for TODAY"
    assert last_line(screen, width=50) == "1-1 of 1 by attention, no room for TODAY, WHY"


def test_today_has_room_beside_at_least_40_characters_of_why() -> None:
    long_name, short_why = "company-with-a-rather-long-name-001", line("company-with-a-rather-long-name-002", dead=1)
    troubles = {"failingDestinations": ["agency/warehouse-north"], "dead": 12, "quotaUsed": 0.95}
    screen = screen_of(line(long_name, visits=99_999, **troubles))
    _, head, first, *_ = shown(screen).splitlines()
    assert head.split() == ["TENANT", "LAG", "LAST", "VIS/MIN↓", "WHY"]
    assert first.split(maxsplit=4)[4].rstrip() == "warehouse-north fails, 12 dead, quota 95%"
    _, head, first, *_ = shown(screen, width=93).splitlines()
    assert head.split() == ["TENANT", "LAG", "LAST", "VIS/MIN↓", "TODAY", "WHY"]
    assert first.split(maxsplit=5)[5].rstrip() == "warehouse-north fails, 12 dead, quota 95%"
    assert "TODAY" in shown(screen_of(short_why))


def test_name_is_cut_only_if_another_line_has_long_troubles() -> None:
    name = "company-with-a-rather-long-name-001"
    assert name in shown(screen_of(line(name), line("zoo", dead=1)))
    troubles = {"failingDestinations": ["agency/warehouse-north"], "dead": 12, "quotaUsed": 0.95}
    assert "company-wi…e-001" in shown(screen_of(line(name), line("zoo", **troubles)))


def test_failing_tenants_show_how_long_their_most_urgent_trouble_lasts() -> None:
    held = {"listener": "agency/lobby", "reason": None, "since": "2026-11-25T10:00:00Z"}
    crm = {"name": "agency/crm", "lastError": {"since": "2026-11-25T11:30:00Z"}}
    lines = [
        line("a", failingDestinations=["agency/crm"], destinations=[crm], dead=3),
        line("b", held={"FilterError": 2}, firstFaults={"DeliveriesHeld": held}),
        line("c", dead=3),
    ]
    screen = screen_of(*lines, sort="attention", only_failing=True)
    table = [row.split()[:3] for row in shown(screen).splitlines()[1:5]]
    assert table == [["TENANT", "FOR", "LAST"], ["a", "30m", "42s"], ["c", "-", "42s"], ["b", "2h", "42s"]]
    screen.press("l")
    assert "LAG↓" in shown(screen)
    assert "FOR" not in shown(screen)


def test_name_of_a_healthy_tenant_takes_no_room_from_troubles() -> None:
    troubles = {"failingDestinations": ["agency/warehouse"], "faults": {"TimesUntrusted": 1}, "dead": 12}
    troubled = line("harbour-hotels", causes={"TimesUntrusted": "40% NoOffset"}, **troubles)
    drawn = shown(screen_of(troubled, line("company-with-a-rather-long-name-001"), sort="attention"))
    assert "harbour-hotels      -   42s        -  warehouse fails, 12 dead, untrusted times…" in drawn
    assert "company-wi…e-001" in drawn


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
    assert lines[-2].rstrip().endswith("q quit")
    assert all(head in lines[1] for head in ("TENANT", "LAG", "LAST", "VIS/MIN", "WHY"))
    assert lines[2].startswith("company-with-a-rather-long-name-000 ")
    assert all(head in shown(screen_of(line("acme"))) for head in ("LAST", "VIS/MIN", "WHY", "TODAY"))


def test_columns_stay_where_they_are_while_the_table_scrolls() -> None:
    lines = [line(f"t{number:03}", visits=number) for number in range(300)]
    screen = screen_of(*lines, line("u-with-a-long-name", visits=1_234_567, dead=12), sort="name")
    head = shown(screen).splitlines()[1]
    screen.press("\x1b[F")
    assert "1234567  12 dead" in shown(screen)
    assert shown(screen).splitlines()[1] == head


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
