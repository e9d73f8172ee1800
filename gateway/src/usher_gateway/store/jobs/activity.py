"""The activity of listeners and destinations, as their conditions need it after a restart."""

from collections.abc import Mapping

import msgspec

from usher_gateway import model
from usher_gateway.store.base import DestinationActivity, ListenerActivity
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
_TRIED = DestinationActivity.__struct_fields__
_READ_DESTINATIONS = f"select destination, {', '.join(_TRIED)} from destination_activity"  # noqa: S608
# Save the activity of destinations. Among several gateways, the one with the newest change wins.
_WRITE_DESTINATIONS = f"""
    insert into destination_activity as saved (destination, {", ".join(_TRIED)})
    select * from unnest($1::text[], $2::bytea[], $3::smallint[], $4::text[], $5::smallint[], $6::bigint[],
        $7::bigint[], $8::bigint[], $9::bigint[]) where true
    on conflict (destination) do update set {", ".join([f"{name} = excluded.{name}" for name in _TRIED])}
    where excluded.url_digest <> saved.url_digest
        or greatest(excluded.failed_at, excluded.recovered_at) >= greatest(saved.failed_at, saved.recovered_at)
"""  # noqa: S608 - names of columns

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, int]).decode


async def read(session: Session) -> dict[model.ListenerName, ListenerActivity]:
    """Return the activity of every listener that was ever used."""
    return {
        model.ListenerName(namespace, tenant, listener): ListenerActivity(last, _decode(visits), _decode(retired))
        for namespace, tenant, listener, last, visits, retired in await session.fetch(_READ)
    }


async def read_destinations(session: Session) -> dict[str, DestinationActivity]:
    """Return the activity of every destination that was ever tried, by ``namespace/name``."""
    return {
        key: DestinationActivity(bytes(digest), bool(has_succeeded), *values)
        for key, digest, has_succeeded, *values in await session.fetch(_READ_DESTINATIONS)
    }


async def save(
    transaction: Transaction,
    listeners: Mapping[model.ListenerName, ListenerActivity],
    destinations: Mapping[str, DestinationActivity] = {},
) -> None:
    """Save the activity of some listeners and destinations (``namespace/name``)."""
    if listeners:
        await _save_listeners(transaction, listeners)
    if destinations:  # unless another gateway has saved something newer
        rows = [(key, *msgspec.structs.astuple(tried)) for key, tried in sorted(destinations.items())]
        await transaction.session.execute(_WRITE_DESTINATIONS, *columns(rows, 1 + len(_TRIED)))


async def _save_listeners(transaction: Transaction, activity: Mapping[model.ListenerName, ListenerActivity]) -> None:
    """Add some listeners' activity to what the gateways have saved."""
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
    """Return the activity at several gateways: the first visit and the last arrivals at any gateway."""
    visits = dict(saved.first_visits)
    for address, at in new.first_visits.items():
        visits[address] = min(at, visits.get(address, at))
    retired = dict(saved.retired_arrivals)
    for address, at in new.retired_arrivals.items():
        retired[address] = max(at, retired.get(address, at))
    return ListenerActivity(max(saved.last_arrival_at, new.last_arrival_at), visits, retired)
