"""How listings use the width of a terminal."""

import pytest

from usher_gateway.cli import tables


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
