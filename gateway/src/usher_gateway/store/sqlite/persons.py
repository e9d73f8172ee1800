"""Finding the arrivals of one person by keyed hashes: segment by segment, and the youngest in the ledger itself."""

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from usher_gateway.store.sqlite import walk

if TYPE_CHECKING:
    from usher_gateway.store.sqlite import writer


def split(packed: bytes) -> tuple[bytes, ...]:
    """Person keys, 8 bytes each."""
    return tuple([packed[start : start + 8] for start in range(0, len(packed), 8)])


SEGMENT_ARRIVALS = 1_024
"""Arrivals per segment: one statement sorts and appends their keys in a few milliseconds, without the interpreter."""

_FOLD = """
    insert or ignore into persons
    select ?1, substr(persons, 1 + 8 * place.number, 8), key
    from arrivals, (select 0 number union all select 1 union all select 2 union all select 3) place
    where key > ?2 and key <= ?3 and length(persons) > 8 * place.number
    order by 2, 3
"""


def fold(batch_writer: "writer.Writer") -> None:
    """Append the person keys of the youngest arrivals as a segment, inside the running transaction."""
    connection = batch_writer.connection
    before = folded_to(connection)
    first, last = connection.execute("select min(key), max(key) from arrivals where key > ?", (before,)).fetchone()
    if last is None:
        return
    connection.execute(_FOLD, (first, before, last))
    connection.execute("insert into person_segments values (?, ?, ?)", (first, first, last))
    connection.execute("insert or replace into meta values ('persons_to', ?)", (str(last),))


def folded_to(connection: sqlite3.Connection) -> int:
    """The arrival (row key) up to which person keys are in segments; those of younger ones are in the ledger alone."""
    row = connection.execute("select value from meta where name = 'persons_to'").fetchone()
    return int(row[0]) if row else 0


def add(batch_writer: "writer.Writer", arrival: int, keys: Sequence[bytes]) -> None:
    """Note, inside a transaction, person keys of an arrival that is in the ledger already."""
    connection = batch_writer.connection
    if arrival <= folded_to(connection):
        values = [(segment_of(connection, arrival), person, arrival) for person in keys]
        connection.executemany("insert or ignore into persons values (?, ?, ?)", values)


def segment_of(connection: sqlite3.Connection, arrival: int) -> int:
    """The segment that an arrival's persons were folded into; 0 if none."""
    statement = "select segment from person_segments where segment <= ? order by segment desc limit 1"
    row = connection.execute(statement, (arrival,)).fetchone()
    return int(row[0]) if row else 0


def arrivals_of(connection: sqlite3.Connection, keys: Sequence[bytes]) -> set[int]:
    """Arrivals (row keys) in which one of the keys occurs: those of all segments, and the youngest one by one."""
    statement = "select p.arrival from person_segments s join persons p on p.segment = s.segment where p.person = ?"
    found = {arrival for key in keys for (arrival,) in connection.execute(statement, (key,))}
    wanted = set(keys)
    statement = "select key, persons from arrivals where key > ?"
    youngest = connection.execute(statement, (folded_to(connection),))
    return found | {arrival for arrival, packed in youngest if wanted.intersection(split(packed))}


def ids(
    connection: sqlite3.Connection, arrivals: set[int], names: tuple[str, str], keys: Sequence[bytes]
) -> list[bytes]:
    """Ids of those arrivals that are a tenant's (namespace, tenant) and hold one of the keys, newest first."""
    numbers = walk.listener_numbers(connection, *names, None) or set()
    statement = "select key, id, listener, persons from arrivals where key in ({})"
    found = walk.columns_by_key(connection, statement, list(arrivals))
    wanted = set(keys)
    return [
        found[key][1]
        for key in sorted(found, reverse=True)
        if found[key][2] in numbers and wanted.intersection(split(found[key][3]))
    ]
