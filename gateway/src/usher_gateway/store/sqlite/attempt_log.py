"""The log of a delivery's last attempts: records of one length, so that a statement can append and cut them."""

import sqlite3
import struct
from collections.abc import Mapping

from usher_gateway import model
from usher_gateway.store.base import AttemptRecord
from usher_gateway.store.sqlite import database

KEPT_ATTEMPTS = 10
"""Attempts of a delivery that are kept."""

_RECORD = struct.Struct(">qHI24s")
"""Time, HTTP status, milliseconds and error code (ASCII, padded with zero bytes)."""

_APPEND = (
    "on conflict (delivery) do update set"
    f" log = substr(cast(log || excluded.log as blob), -{KEPT_ATTEMPTS * _RECORD.size})"
)


def pack(settlement: model.Settlement) -> bytes:
    """Return the record of an attempt."""
    return _RECORD.pack(
        settlement.at,
        settlement.status,
        min(settlement.milliseconds, 0xFFFF_FFFF),
        settlement.error.encode("ascii", "replace"),
    )


def append(connection: sqlite3.Connection, records: Mapping[int, bytes]) -> None:
    """Append one record each to the logs of deliveries, by the row keys of the deliveries."""
    database.insert_rows(connection, "insert into attempts", "(?,?)", sorted(records.items()), _APPEND)


def read(connection: sqlite3.Connection, delivery: bytes) -> list[AttemptRecord]:
    """Return the last attempts of a delivery, the oldest first (``Store.attempts``)."""
    key = model.key_of(delivery)
    if connection.execute("select 1 from deliveries where key = ? and id = ?", (key, delivery)).fetchone() is None:
        raise model.NotFoundError("there is no such delivery")
    row = connection.execute("select log from attempts where delivery = ?", (key,)).fetchone()
    return [
        AttemptRecord(at, status, error.rstrip(b"\0").decode("ascii"), milliseconds)
        for at, status, milliseconds, error in _RECORD.iter_unpack(row[0] if row else b"")
    ]
