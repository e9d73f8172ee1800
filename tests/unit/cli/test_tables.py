"""How listings use the width of a terminal."""

import csv
import io
import textwrap
from unittest import mock

import pytest
import rich.cells

from usher_gateway.cli import tables

HEADS = ("NAME", "COUNT", "TROUBLES", "PLACE")
ROWS = [("agency/acme", "7", "1 failing destination, 6 held deliveries", "Leeds"), ("agency/zoo", "", "", "York")]


def test_table_has_one_line_per_row_and_numbers_at_the_right() -> None:
    assert tables.table_lines(HEADS, ROWS, 100) == (
        [
            "NAME         COUNT  TROUBLES                                  PLACE",
            "agency/acme      7  1 failing destination, 6 held deliveries  Leeds",
            "agency/zoo       -  -                                         York",
        ],
        (),
    )


def test_narrow_table_cuts_lists_between_items_and_leaves_out_last_columns() -> None:
    lines, left_out = tables.table_lines(HEADS, ROWS, 50)
    assert lines[1] == "agency/acme      7  1 failing destination, …"
    assert left_out == ("PLACE",)
    lines, left_out = tables.table_lines(HEADS, ROWS, 30)
    assert lines[1] == "agency/acme      7"
    assert left_out == ("TROUBLES", "PLACE")


def test_first_column_of_a_table_stays_whole_at_every_width() -> None:
    assert tables.table_lines(HEADS, ROWS, 5)[0] == ["NAME", "agency/acme", "agency/zoo"]


def test_table_in_a_pipe_has_every_column(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "")
    monkeypatch.setattr("os.get_terminal_size", mock.Mock(side_effect=OSError))
    tables.print_table([f"COLUMN{number}" for number in range(100)], [["x" * 50] * 100])
    assert capsys.readouterr().out.splitlines()[0].endswith("COLUMN99")


def test_fact_wider_than_the_terminal_is_broken_between_its_items(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    routes = "crm to agency/crm, welcome to agency/mailer, all to agency/archive"
    tables.print_facts({"tenant": "acme", "routes": routes, "note": None})
    assert capsys.readouterr().out.splitlines() == [
        "tenant  acme",
        "routes  crm to agency/crm,",
        "        welcome to agency/mailer,",
        "        all to agency/archive",
        "note    -",
    ]


@pytest.mark.parametrize("width", [10, 40, 80])
def test_name_wider_than_the_terminal_stays_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    name = "https://a-host-name-with-hyphens.of-a-company.example.com/v1/hzua…"
    tables.print_facts({"url": name})
    assert name in capsys.readouterr().out


def test_first_item_of_a_list_that_has_no_room_is_cut() -> None:
    rows = [("agency/the-old-brewery", "1", "DeliveriesHeld (crm: TransformError), Unverified", "Leeds")]
    lines, left_out = tables.table_lines(HEADS, rows, 58)
    assert lines[1] == "agency/the-old-brewery      1  DeliveriesHeld (crm: Trans…"
    assert left_out == ("PLACE",)


WIDE = ("UTC 11-30", "TENANT", "ID", "RESULT", "ROUTE")
DELIVERIES = [
    ("02:03:50", "the-old-brewery-visitor-centre-116", "01a22a47-714e-7000-8e", "dead Rejected 400, again", "crm"),
    ("02:03:49", "grand-hotel-072", "01a22a47-7130-7000-86", "delivered", "crm"),
]


def test_essential_columns_get_room_from_long_names_and_lists() -> None:
    (head, first, second), left_out = tables.table_lines(WIDE, DELIVERIES, 72, essential=4)
    assert head.split() == ["UTC", "11-30", "TENANT", "ID", "RESULT"]
    assert first == "02:03:50   the-old-bre…re-116  01a22a47-714e-7000-8e  dead Rejected 400…"
    assert second == "02:03:49   grand-hotel-072     01a22a47-7130-7000-86  delivered"
    assert left_out == ("ROUTE",)


@pytest.mark.parametrize("width", [64, 80, 200])
def test_table_with_essential_columns_is_never_wider_than_the_terminal(width: int) -> None:
    lines, _ = tables.table_lines(WIDE, DELIVERIES, width, essential=4)
    assert max(map(len, lines)) <= width
    assert "RESULT" in lines[0]


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [("grand-hotel-072", 15, "grand-hotel-072"), ("grand-hotel-0072", 15, "grand-hot…-0072"), ("abcdefgh", 4, "ab…h")],
)
def test_long_name_keeps_its_beginning_and_its_end(name: str, length: int, expected: str) -> None:
    assert tables.shortened(name, length) == expected


def test_cell_of_the_broken_column_goes_on_in_further_lines() -> None:
    lines, _ = tables.table_lines(HEADS, ROWS, 50, essential=3, broken=("TROUBLES",))
    assert lines == [
        "NAME         COUNT  TROUBLES",
        "agency/acme      7  1 failing destination, 6 held",
        "                    deliveries",
        "agency/zoo       -  -",
    ]


def test_broken_column_becomes_narrower_so_that_later_columns_fit() -> None:
    troubles = "Refusing SourceNotAllowed since 11-30 08:29:32 from 127.0.0.1, Unverified not probed yet"
    heads = ("LISTENER", "TROUBLES", "LAST (UTC)")
    lines, left_out = tables.table_lines(
        heads, [("arena", troubles, "11-30 08:58")], 80, essential=2, broken=("TROUBLES",)
    )
    assert lines[1] == "arena     Refusing SourceNotAllowed since 11-30 08:29:32 from  11-30 08:58"
    assert lines[2] == "          127.0.0.1, Unverified not probed yet"
    assert (max(map(len, lines)) <= 80, left_out) == (True, ())


def test_name_stays_whole_while_a_broken_column_can_become_narrower() -> None:
    row = ("13:00:00", "river-street-stadium", "01a22a47-714e-7000-8e", "delivered (crm), skipped Filter (welcome)")
    heads = ("UTC 11-30", "TENANT", "ID", "VERDICTS")
    lines, _ = tables.table_lines(heads, [row], 80, essential=4, broken=("VERDICTS",))
    assert lines[1:] == [
        "13:00:00   river-street-stadium  01a22a47-714e-7000-8e  delivered (crm), skipped",
        f"{'':56}Filter (welcome)",
    ]


def test_tenant_is_left_out_before_the_last_essential_column() -> None:
    lines, left_out = tables.table_lines(WIDE, DELIVERIES, 60, essential=4)
    assert lines[1] == "02:03:50   01a22a47-714e-7000-8e  dead Rejected 400, again"
    assert left_out == ["TENANT", "ROUTE"]


def test_text_is_broken_between_words_but_not_inside_a_command() -> None:
    text = "Next: `usher visits --reason CompanyMismatch --tenant acme`; ask the venue."
    assert tables.wrapped(text, 30) == [
        "Next:",
        "`usher visits --reason CompanyMismatch --tenant acme`;",
        "ask the venue.",
    ]


def test_column_of_numbers_is_right_aligned_before_its_first_number() -> None:
    for wait in ("", "7"):
        lines, _ = tables.table_lines(("NAME", "WAIT", "NOTE"), [("acme", wait, "")], 80)
        assert lines[1] == f"acme     {wait or '-'}  -"


ATTACK = "\x1b]0;pwned\x07\x1b[2J\u202eab\x9b\x7f"


def test_control_characters_of_a_body_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [("VENUE", lambda row: str(row["venue"]))]
    for output in ("text", "json", "csv"):
        tables.print_rows([{"venue": ATTACK}], columns, output, "")
    tables.print_facts({"venue": ATTACK, "venues": [ATTACK]})
    tables.print_texts([("venue", ATTACK)])
    tables.print_text(ATTACK)
    printed = capsys.readouterr().out
    assert printed.count("ab") == 7
    assert set(printed) & set(ATTACK) == set("]0;pwned[2Jab")


def test_long_name_of_a_route_does_not_cost_the_tenant_its_column() -> None:
    heads = ("UTC 11-30", "TENANT", "ID", "COUNTED", "VERDICTS")
    route = "the-old-brewery-visitor-centre-062-crm"
    row = ("13:54:39", "the-old-brewery-visitor-centre-062", "01a22cbc-7aaa-7000-82", "Visit", f"delivered ({route})")
    lines, left_out = tables.table_lines(heads, [row], 80, essential=5, broken=("COUNTED", "VERDICTS"))
    assert left_out == ()
    assert max(map(len, lines)) <= 80
    assert "062" in lines[1]


@pytest.mark.parametrize(
    "value", ["=1", "@1", "=1+1", "+44 20", "-1+1", "@SUM(A1)", "--1", "-", "=", '=HYPERLINK("https://a.example")']
)
def test_formula_in_csv_is_a_text(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_rows([{"venue": value}], [("venue", lambda row: str(row["venue"]))], "csv", "")
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["venue"], [f"'{value}"]]


@pytest.mark.parametrize("value", ["-1", "+1", "-1.5", "Leeds", "a=1", "", "'", "\ufffd=1"])
def test_number_or_word_in_csv_stays_as_it_is(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_rows([{"venue": value}], [("venue", lambda row: str(row["venue"]))], "csv", "")
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["venue"], [value]]


@pytest.mark.parametrize("value", ["\t=1", "\r=1", "\n=1"])
def test_control_before_a_formula_in_csv_is_replaced(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_rows([{"venue": value}], [("venue", lambda row: str(row["venue"]))], "csv", "")
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["venue"], ["\ufffd=1"]]


TOKYO = "東京駅前ホテル"


def test_wide_text_keeps_the_columns_of_a_table_in_line() -> None:
    lines, _ = tables.table_lines(("VENUE", "VISITS", "PLACE"), [(TOKYO, "7", "東京"), ("zoo", "12", "York")], 80)
    assert lines == [
        "VENUE           VISITS  PLACE",
        f"{TOKYO}       7  東京",
        "zoo                 12  York",
    ]


@pytest.mark.parametrize("width", [24, 30, 31, 32, 40])
@pytest.mark.parametrize("broken", [(), ("WHY",)])
def test_table_of_wide_text_is_never_wider_than_the_terminal(width: int, broken: tuple[str, ...]) -> None:
    row = (TOKYO * 3, f"{TOKYO} 失敗, {TOKYO} 失敗")
    lines, _ = tables.table_lines(("TENANT", "WHY"), [row], width, essential=2, broken=broken)
    assert max(map(rich.cells.cell_len, lines)) <= max(width, 20 + 2 + rich.cells.cell_len(TOKYO))


@pytest.mark.parametrize("length", range(4, 15))
def test_shortened_wide_name_fits_its_length(length: int) -> None:
    assert rich.cells.cell_len(tables.shortened(TOKYO, length)) <= length
    assert tables.shortened("東京駅前ホテル12", 10) == "東京駅…l12".replace("l", " ")


def test_wide_text_is_broken_by_its_width() -> None:
    assert tables.wrapped("東京 駅前 abcd ef", 9) == ["東京 駅前", "abcd ef"]


@pytest.mark.parametrize("text", ["", " ", "  a  b ", "a " * 30, "one  two   three four", "longer-than-the-line x y"])
def test_text_is_broken_as_textwrap_breaks_it(text: str) -> None:
    assert tables.wrapped(text, 12) == textwrap.wrap(text, 12, break_long_words=False, break_on_hyphens=False)
