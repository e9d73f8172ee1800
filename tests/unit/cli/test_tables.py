"""How listings use the width of a terminal."""

import csv
import io
import itertools
import textwrap
from collections.abc import Sequence
from unittest import mock

import pytest
import rich.cells

from usher_gateway.cli import tables

HEADS = ("NAME", "COUNT", "TROUBLES", "PLACE")
ROWS = [("agency/acme", "7", "1 failing destination, 6 held deliveries", "Leeds"), ("agency/zoo", "", "", "York")]


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, essential: int = 1
) -> tuple[list[str], list[str]]:
    """Return the lines of a table, and the heads of the columns that have no room."""
    lines, left_out = tables.table_rows(heads, rows, width, essential)
    return [*itertools.chain(*lines)], list(left_out)


def test_table_has_one_line_per_row_and_numbers_at_the_right() -> None:
    assert table(HEADS, ROWS, 100) == (
        [
            "NAME         COUNT  TROUBLES                                  PLACE",
            "agency/acme      7  1 failing destination, 6 held deliveries  Leeds",
            "agency/zoo       -  -                                         York",
        ],
        [],
    )


def test_wide_cell_goes_on_in_further_lines_and_last_columns_are_left_out() -> None:
    assert table(HEADS, ROWS, 53) == (
        [
            "NAME         COUNT  TROUBLES",
            "agency/acme      7  1 failing destination, 6 held",
            "                    deliveries",
            "agency/zoo       -  -",
        ],
        ["PLACE"],
    )
    assert table(HEADS, ROWS, 30) == (["NAME         COUNT", "agency/acme      7", "agency/zoo       -"], [*HEADS[2:]])


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


WIDE = ("UTC 11-30", "TENANT", "ID", "RESULT", "ROUTE")
DELIVERIES = [
    ("02:03:50", "the-old-brewery-visitor-centre-116", "01a22a47-714e-7000-8e", "dead Rejected 400, again", "crm"),
    ("02:03:49", "grand-hotel-072", "01a22a47-7130-7000-86", "delivered", "crm"),
]


def test_essential_columns_get_room_from_words_and_then_from_names() -> None:
    assert table(WIDE, DELIVERIES, 72, essential=4) == (
        [
            "UTC 11-30  TENANT                ID                     RESULT",
            "02:03:50   the-old-brewery-      01a22a47-714e-7000-8e  dead Rejected",
            "           visitor-centre-116                           400, again",
            "02:03:49   grand-hotel-072       01a22a47-7130-7000-86  delivered",
        ],
        ["ROUTE"],
    )


@pytest.mark.parametrize("width", [64, 80, 200])
def test_table_with_essential_columns_is_never_wider_than_the_terminal(width: int) -> None:
    lines, _ = table(WIDE, DELIVERIES, width, essential=4)
    assert max(map(len, lines)) <= width
    assert "RESULT" in lines[0]


def test_name_without_a_hyphen_is_broken_where_the_column_ends() -> None:
    assert table(("TENANT", "VISITS"), [("a_name_without_any_hyphen", "7")], 20, 2)[0] == [
        "TENANT        VISITS",
        "a_name_witho       7",
        "ut_any_hyphe",
        "n",
    ]


def test_text_is_broken_between_words_but_not_inside_a_command() -> None:
    text = "Next: `usher visits --reason CompanyMismatch --tenant acme`; ask the venue."
    assert tables.wrapped(text, 30) == [
        "Next:",
        "`usher visits --reason CompanyMismatch --tenant acme`;",
        "ask the venue.",
    ]


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


@pytest.mark.parametrize(
    "value",
    [
        *("=1", "@1", "=1+1", "+44 20", "-1+1", "@SUM(A1)", "--1", "-", "=", '=HYPERLINK("https://a.example")'),
        *("\uff1d1+1", "\uff20SUM(A1)", "\uff0b44 20", "\uff0d1+1", " =1", "  @1", "\u3000-1+1", "\xa0\uff1d1"),
    ],
)
def test_formula_in_csv_is_a_text(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_csv([{"venue": value}])
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["venue"], [f"'{value}"]]


@pytest.mark.parametrize("value", ["-1", "+1", "-1.5", " -1", "Leeds", " a=1", "", "'", "\ufffd=1"])
def test_number_or_word_in_csv_stays_as_it_is(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_csv([{"venue": value}])
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["venue"], [value]]


@pytest.mark.parametrize("value", ["\t=1", "\r=1", "\n=1"])
def test_control_before_a_formula_in_csv_is_replaced(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_csv([{"venue": value}])
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["venue"], ["\ufffd=1"]]


TOKYO = "東京駅前ホテル"


def test_wide_text_keeps_the_columns_of_a_table_in_line() -> None:
    assert table(("VENUE", "VISITS", "PLACE"), [(TOKYO, "7", "東京"), ("zoo", "12", "York")], 80)[0] == [
        "VENUE           VISITS  PLACE",
        f"{TOKYO}       7  東京",
        "zoo                 12  York",
    ]


@pytest.mark.parametrize("width", [24, 30, 31, 32, 40])
def test_table_of_wide_text_is_never_wider_than_the_terminal(width: int) -> None:
    row = (TOKYO * 3, f"{TOKYO} 失敗, {TOKYO} 失敗")
    lines, _ = table(("TENANT", "WHY"), [row], width, essential=2)
    assert max(map(rich.cells.cell_len, lines)) <= width
    assert "".join("".join(lines[1:]).split()).count("失") == 2


def test_wide_text_is_broken_by_its_width() -> None:
    assert tables.wrapped("東京 駅前 abcd ef", 9) == ["東京 駅前", "abcd ef"]


@pytest.mark.parametrize("text", ["", " ", "  a  b ", "a " * 30, "one  two   three four", "longer-than-the-line x y"])
def test_text_is_broken_as_textwrap_breaks_it(text: str) -> None:
    assert tables.wrapped(text, 12) == textwrap.wrap(text, 12, break_long_words=False, break_on_hyphens=False)


def test_csv_has_a_column_for_each_field_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_csv(
        [
            {"name": "acme", "today": {"visits": 7, "late": False}, "held": {"FilterError": 2}, "lastError": None},
            {"name": "zoo", "held": {}, "lastError": {"error": "Timeout"}, "hosts": ["a", "b"], "routes": [{"n": 1}]},
        ]
    )
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [
        ["name", "todayVisits", "todayLate", "held", "lastErrorError", "hosts", "routes"],
        ["acme", "7", "false", '{"FilterError": 2}', "", "", ""],
        ["zoo", "", "", "", "Timeout", "a, b", '[{"n": 1}]'],
    ]


def test_csv_without_rows_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_csv([])
    assert capsys.readouterr().out == ""
