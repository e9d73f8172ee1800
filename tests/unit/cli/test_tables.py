"""How listings use the width of a terminal."""

from unittest import mock

import pytest

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


def test_cells_fill_lines_and_stay_whole() -> None:
    cells = ["tenant acme", "9 visits, 2 repeats", "last 2026-11-25 12:00:00", "crm to agency/crm"]
    assert tables.fill(cells, 60) == [
        "tenant acme  9 visits, 2 repeats  last 2026-11-25 12:00:00",
        "crm to agency/crm",
    ]


def test_cell_wider_than_a_line_is_broken_between_its_items() -> None:
    cells = ["tenant acme", "crm to agency/crm, welcome to agency/mailer, all to agency/archive"]
    assert tables.fill(cells, 40) == [
        "tenant acme",
        "crm to agency/crm,",
        "welcome to agency/mailer,",
        "all to agency/archive",
    ]


@pytest.mark.parametrize("width", [10, 40, 80])
def test_name_wider_than_the_terminal_stays_whole(width: int) -> None:
    name = "https://a-host-name-with-hyphens.of-a-company.example.com/v1/hzua…"
    assert any(name in line for line in tables.fill(["x", name, ""], width))
