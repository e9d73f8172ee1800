"""Which rows a search of a person reads."""

from typing import Any, cast

import pytest

from usher_gateway.store.jobs import listings

START = b"ab"  # Person keys of one address begin with the same bytes at all tenants


class PersonRows:
    """The rows of the table of persons, which counts those that are read."""

    def __init__(self, rows: list[tuple[bytes, int]]) -> None:
        self.rows = rows
        self.read = 0

    async def fetch(self, _statement: object, *bounds: bytes) -> list[tuple[bytes, int]]:
        if not bounds:
            return []
        first, end = bounds
        rows = [row for row in self.rows if first <= row[0] < end]
        self.read += len(rows)
        return rows


@pytest.mark.parametrize(("tenants", "read"), [(1, 2), (20, 1_040)])
async def test_search_of_few_tenants_reads_no_rows_of_others(tenants: int, read: int) -> None:
    own = [(START + bytes([number, 1]), 2 * number + visit) for number in range(tenants) for visit in range(2)]
    neighbour = START + b"\xf0\x01"
    session = PersonRows([*own, *((neighbour, 1_000 + number) for number in range(1_000))])
    found = await listings.keys_of_person(cast("Any", session), frozenset(person for person, _ in own))
    assert found == set(range(2 * tenants))
    assert session.read == read
