"""The activity of listeners: when they were used, as their conditions need it after a restart."""

from collections.abc import Mapping

import msgspec

from usher_gateway import model
from usher_gateway.store.base import ListenerActivity
from usher_gateway.store.session import Session, columns
from usher_gateway.store.transaction import Transaction

_READ = """
    select namespace, tenant, l.listener, last_arrival_at, first_visits, retired_arrivals
    from activity join listeners l on l.number = activity.listener
"""
_LOCK = """
    select listener, last_arrival_at, first_visits, retired_arrivals from activity
    where listener = any($1::bigint[]) order by listener for update
"""
_WRITE = """
    insert into activity (listener, last_arrival_at, first_visits, retired_arrivals)
    select * from unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[]) where true
    on conflict (listener) do update set last_arrival_at = excluded.last_arrival_at,
        first_visits = excluded.first_visits, retired_arrivals = excluded.retired_arrivals
"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, int]).decode


async def read(session: Session) -> dict[model.ListenerName, ListenerActivity]:
    """Return the activity of every listener that was ever used."""
    return {
        model.ListenerName(namespace, tenant, listener): ListenerActivity(last, _decode(visits), _decode(retired))
        for namespace, tenant, listener, last, visits, retired in await session.fetch(_READ)
    }


async def save(transaction: Transaction, activity: Mapping[model.ListenerName, ListenerActivity]) -> None:
    """Add the activity of some listeners to what the gateways have saved."""
    new = {transaction.listener(name): used for name, used in activity.items()}
    merged = dict(new)
    for listener, last, visits, retired in await transaction.session.fetch(_LOCK, sorted(new)):
        merged[listener] = _merged(ListenerActivity(last, _decode(visits), _decode(retired)), new[listener])
    rows = [
        (listener, used.last_arrival_at, _encode(used.first_visits), _encode(used.retired_arrivals))
        for listener, used in sorted(merged.items())
    ]
    await transaction.session.execute(_WRITE, *columns(rows, 4))


def _merged(saved: ListenerActivity, new: ListenerActivity) -> ListenerActivity:
    """Return the activity at several gateways: the first visit and the last arrivals of all."""
    visits = dict(saved.first_visits)
    for address, at in new.first_visits.items():
        visits[address] = min(at, visits.get(address, at))
    retired = dict(saved.retired_arrivals)
    for address, at in new.retired_arrivals.items():
        retired[address] = max(at, retired.get(address, at))
    return ListenerActivity(max(saved.last_arrival_at, new.last_arrival_at), visits, retired)
