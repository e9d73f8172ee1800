"""The samples of docs/support.md look as the commands print them."""

import itertools
import re
from collections.abc import Iterator

import pytest

from support import source
from usher_gateway.cli import destinations, listeners, tables, tenants
from usher_gateway.words import listings

PAGE = (source.DOCS / "support.md").read_text("utf-8")

COLUMNS: dict[str, tuple[listings.Column, ...]] = {
    "visits": listings.VISITS.columns,
    "quarantine": listings.QUARANTINE.columns,
    "deliveries": listings.DELIVERIES.columns,
    "dead": listings.DEAD.columns,
    "listeners": listeners.LISTENER_COLUMNS,
    "destinations": destinations.DESTINATION_COLUMNS,
}


def samples() -> Iterator[tuple[str, list[str]]]:
    """Yield each list of rows that the page shows: its command, and the cells of its heads and rows by line."""
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for sample in re.split(r"^ *\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = [line.strip() for line in sample.splitlines()]
            _, group, *flags = command.split()
            if group in COLUMNS and flags[0].startswith("--"):
                yield command, list(itertools.takewhile(re.compile(r"(?!\.\.\.|All of ).").match, lines))


@pytest.mark.parametrize(("command", "lines"), [pytest.param(*sample, id=sample[0]) for sample in samples()])
def test_sample_of_a_list_has_the_columns_of_its_command(command: str, lines: list[str]) -> None:
    heads, *rows = [re.split(r"  +", line) for line in lines]
    all_heads = [head for head, _ in COLUMNS[command.split()[1]]]
    if heads[0].startswith("UTC "):
        heads[0] = all_heads[0]
    remaining = iter(all_heads)
    assert [head for head in heads if head not in remaining] == [], "another name, or another order"
    for index, head in enumerate(heads):
        names = {row[index] for row in rows}
        is_said_below = head in tables.NAMES and "listeners" not in command and "destinations" not in command
        assert not (is_said_below and len(rows) > 1 and len(names) == 1), f"{head} has the same name in all rows"


TROUBLE = {
    "failingDestinations": [],
    "held": {},
    "dead": 0,
    "quotaUsed": None,
    "faults": {},
    "causes": {},
    "today": {"refused": 17746},
}


@pytest.mark.parametrize(
    "row",
    [
        {"name": "corner-cafes", "failingDestinations": ["agency/mailer"], "dead": 1961},
        {"name": "arena", "faults": {"Refusing": 1}, "causes": {"Refusing": "SourceNotAllowed"}},
    ],
    ids=lambda row: row["name"],
)
def test_sample_of_a_tenant_has_its_next_step(row: listings.Row) -> None:
    assert f"\n{tenants.next_steps(TROUBLE | row)}\n" in PAGE
