"""The log of a delivery's last attempts: records of one length, so that a statement can append and cut them."""

import sqlite3
from collections.abc import Mapping

from usher_gateway import model
from usher_gateway.store.base import AttemptRecord
from usher_gateway.store.encodings import ATTEMPTS_BYTES, unpack_attempts
from usher_gateway.store.sqlite import database

_APPEND = f"on conflict (delivery) do update set log = substr(cast(log || excluded.log as blob), -{ATTEMPTS_BYTES})"


def append(connection: sqlite3.Connection, records: Mapping[int, bytes]) -> None:
    """Append one record each to the logs of deliveries, by the row keys of the deliveries."""
    database.insert_rows(connection, "insert into attempts", "(?,?)", sorted(records.items()), _APPEND)


def read(connection: sqlite3.Connection, delivery: bytes) -> list[AttemptRecord]:
    """Return the last attempts of a delivery, the oldest first (``Store.attempts``)."""
    key = model.key_of(delivery)
    if connection.execute("select 1 from deliveries where key = ? and id = ?", (key, delivery)).fetchone() is None:
        raise model.NotFoundError("there is no such delivery")
    row = connection.execute("select log from attempts where delivery = ?", (key,)).fetchone()
    return unpack_attempts(row[0] if row else b"")
