"""Finding the arrivals of one person by keyed hashes: in memory for the youngest, then segment by segment."""

import sqlite3
from collections.abc import Callable, Sequence

from usher_gateway.store.sqlite import tail, walk, writer


def split(packed: bytes) -> tuple[bytes, ...]:
    """Person keys, 8 bytes each."""
    return tuple([packed[start : start + 8] for start in range(0, len(packed), 8)])


def add(batch_writer: writer.Writer, arrival: int, keys: Sequence[bytes]) -> None:
    """Note, inside a transaction, person keys of an arrival that is in the ledger already."""
    ledger_tail, connection = batch_writer.tail, batch_writer.connection
    folding = ledger_tail.folding
    if ledger_tail.growing.size and arrival >= ledger_tail.growing.first_key:
        for person in keys:
            ledger_tail.growing.add_person(person, arrival)
        return
    if folding is not None and arrival >= folding.first_key:
        segment = folding.first_key
        for person in keys:  # its bucket may have been folded already: so into memory and into the table
            folding.add_person(person, arrival)
    else:
        segment = segment_of(connection, arrival)
    values = [(segment, tail.short_key(person), arrival) for person in keys]
    connection.executemany("insert or ignore into persons values (?, ?, ?)", values)


def segment_of(connection: sqlite3.Connection, arrival: int) -> int:
    """The segment that an arrival's persons were folded into; 0 if none."""
    statement = "select segment from person_segments where segment <= ? order by segment desc limit 1"
    row = connection.execute(statement, (arrival,)).fetchone()
    return int(row[0]) if row else 0


def in_memory(keys: Sequence[bytes], found: set[int]) -> Callable[[writer.Writer], None]:
    """A job that finds arrivals (row keys) that are not folded yet: the tail is the writer's own."""

    def job(batch_writer: writer.Writer) -> None:
        for key in keys:
            found.update(batch_writer.tail.arrivals_of(key))

    return job


def folded(connection: sqlite3.Connection, keys: Sequence[bytes]) -> set[int]:
    """Arrivals (row keys) of all segments."""
    statement = "select p.arrival from person_segments s join persons p on p.segment = s.segment where p.person = ?"
    return {arrival for key in keys for (arrival,) in connection.execute(statement, (tail.short_key(key),))}


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
