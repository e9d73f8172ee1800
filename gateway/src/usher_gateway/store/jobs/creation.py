"""Deliveries that a release or a replay creates for stored arrivals."""

from collections.abc import Collection, Mapping
from typing import Any

from usher_gateway import model
from usher_gateway.store.encodings import FLAG_LATE, FLAG_TRUSTED, split_person_keys
from usher_gateway.store.session import Row, Session, columns
from usher_gateway.store.transaction import Transaction

LOCK_ARRIVALS = "select key from arrivals where key = any($1::bigint[]) order by key for no key update"

EXISTING_MARKS = "select mark from once_marks where mark = any($1::bytea[])"

# Insert and return the once-per marks that are new, after waiting for gateways that insert the same ones now.
ADD_MARKS = """
    insert into once_marks (mark, until) select mark, until from unnest($1::bytea[], $2::bigint[]) as new (mark, until)
    where true on conflict do nothing returning mark
"""

INSERT = """
    insert into deliveries
        (key, id, arrival, route, destination, hold, waiting, owner, due_at, created_at, started_at, expires_at, origin,
        replay)
    select key, id, arrival, route, destination, hold, hold <= 0, 0, $9, $9, $9, expires_at, $8, $10
    from unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[], $7::bigint[])
        as new (key, id, arrival, route, destination, hold, expires_at)
"""
_ARRIVALS = """
    select a.key, l.namespace, l.tenant, l.listener, received_at, visit_time, flags, fingerprint, visitor, persons,
        b.body, b.content_type, hops, reason, body_size
    from arrivals a join listeners l on l.number = a.listener
    join bodies b on b.key = a.key and b.body is not null
    where a.key = any($1::bigint[])
"""


async def stored_arrivals(session: Session, keys: Collection[int]) -> list[model.Arrival]:
    """Return the arrivals with given row keys whose bodies are stored, without plans, oldest first."""
    return [_arrival(row) for row in sorted(await session.fetch(_ARRIVALS, sorted(keys)), key=lambda row: row[0])]


def _arrival(row: Row) -> model.Arrival:
    key, namespace, tenant, listener, received_at, visit_time, flags, fingerprint, visitor, packed, *rest = row
    body, content_type, hops, reason, size = rest
    return model.Arrival(
        listener=model.ListenerName(namespace, tenant, listener),
        received_at=received_at,
        visit_time=visit_time,
        time_trusted=bool(flags & FLAG_TRUSTED),
        late=bool(flags & FLAG_LATE),
        fingerprint=fingerprint,
        visitor_key=visitor,
        person_keys=split_person_keys(packed),
        body=body,
        content_type=content_type or b"",
        hops=hops,
        body_days=0,
        window=0,
        redelivery=0,
        if_visit=(),
        if_repeat=(),
        quarantine=model.QuarantineReason(reason) if reason else None,
        body_size=size,
        key=key,
    )


async def add_marks(session: Session, until: Mapping[bytes, int]) -> set[bytes]:
    """Write once-per marks, in the order in which commits write them; return those that are new."""
    return {mark for (mark,) in await session.fetch(ADD_MARKS, *columns(sorted(until.items()), 2))}


def new_delivery(
    transaction: Transaction, arrival: int, route: int, *, hold: int = 0, expires_at: int = 0
) -> tuple[Any, ...]:
    """Return the values of a new delivery for INSERT, due at once or held."""
    key = transaction.ids.next_key()
    destination = transaction.destination_of_route(route)
    return (key, transaction.ids.id_of(key), arrival, route, destination, hold, expires_at)
