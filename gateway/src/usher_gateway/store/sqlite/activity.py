"""The activity of listeners: when they were used, as their conditions need it after a restart."""

import sqlite3
from collections.abc import Mapping

import msgspec

from usher_gateway import model
from usher_gateway.store.base import ListenerActivity
from usher_gateway.store.sqlite.transaction import Transaction

_READ = (
    "select namespace, tenant, listener.listener, last_arrival_at, first_visits, retired_arrivals"
    " from activity join listeners listener on listener.number = activity.listener"
)
_WRITE = "insert or replace into activity values (?, ?, ?, ?)"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, int]).decode


def read(connection: sqlite3.Connection) -> dict[model.ListenerName, ListenerActivity]:
    """Return the activity of every listener that was ever used."""
    return {
        model.ListenerName(namespace, tenant, listener): ListenerActivity(last, _decode(visits), _decode(retired))
        for namespace, tenant, listener, last, visits, retired in connection.execute(_READ)
    }


def save(transaction: Transaction, found: Mapping[model.ListenerName, ListenerActivity]) -> None:
    """Replace the activity of some listeners."""
    rows = [
        (
            transaction.names.listener(name),
            one.last_arrival_at,
            _encode(one.first_visits),
            _encode(one.retired_arrivals),
        )
        for name, one in found.items()
    ]
    transaction.connection.executemany(_WRITE, rows)
