"""The activity of listeners: when they were used, as their conditions need it after a restart."""

from collections.abc import Mapping

import msgspec

from usher_gateway import model
from usher_gateway.store.base import ListenerActivity
from usher_gateway.store.postgresql.connections import Connection
from usher_gateway.store.postgresql.transaction import Transaction, columns

_READ = """
    select namespace, tenant, l.listener, last_arrival_at, first_visits, retired_arrivals
    from activity join listeners l on l.number = activity.listener
"""
_LOCK = """
    select listener, last_arrival_at, first_visits, retired_arrivals from activity
    where listener = any($1) order by listener for update
"""
_WRITE = """
    insert into activity select * from unnest($1::integer[], $2::bigint[], $3::bytea[], $4::bytea[])
    on conflict (listener) do update set last_arrival_at = excluded.last_arrival_at,
        first_visits = excluded.first_visits, retired_arrivals = excluded.retired_arrivals
"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, int]).decode


async def read(connection: Connection) -> dict[model.ListenerName, ListenerActivity]:
    """Return the activity of every listener that was ever used."""
    return {
        model.ListenerName(namespace, tenant, listener): ListenerActivity(last, _decode(visits), _decode(retired))
        for namespace, tenant, listener, last, visits, retired in await connection.fetch(_READ)
    }


async def save(transaction: Transaction, found: Mapping[model.ListenerName, ListenerActivity]) -> None:
    """Add the activity of some listeners, whose names were prepared, to what the gateways have saved."""
    connection = transaction.connection
    numbers = {transaction.listener(name): one for name, one in found.items()}
    merged = dict(numbers)
    for listener, last, visits, retired in await connection.fetch(_LOCK, sorted(numbers)):
        merged[listener] = _merged(ListenerActivity(last, _decode(visits), _decode(retired)), numbers[listener])
    rows = [
        (listener, one.last_arrival_at, _encode(one.first_visits), _encode(one.retired_arrivals))
        for listener, one in sorted(merged.items())
    ]
    await connection.execute(_WRITE, *columns(rows, 4))


def _merged(saved: ListenerActivity, new: ListenerActivity) -> ListenerActivity:
    """Return the activity at several gateways: the first visit and the last arrivals of all."""
    visits = dict(saved.first_visits)
    for address, at in new.first_visits.items():
        visits[address] = min(at, visits.get(address, at))
    retired = dict(saved.retired_arrivals)
    for address, at in new.retired_arrivals.items():
        retired[address] = max(at, retired.get(address, at))
    return ListenerActivity(max(saved.last_arrival_at, new.last_arrival_at), visits, retired)
