"""Suppressions: persons about whom nothing is stored or sent any more, until somebody takes that back.

A row is a person key, so one value at one tenant. Each transaction that stores visits, or makes deliveries from stored
ones, looks up the rows that concern it. So a suppression is in force at all gateways once its own commit has ended.
"""

from collections.abc import Collection, Iterable, Mapping

from usher_gateway.store.base import SuppressedTenant
from usher_gateway.store.encodings import split_person_keys
from usher_gateway.store.session import Session, columns
from usher_gateway.store.transaction import Transaction

_FIND = "select person from suppressed where person = any($1::bytea[])"
_FIND_TENANTS = "select tenant from suppressed where person = any($1::bytea[])"
_ADD = """
    insert into suppressed (person, tenant, since)
    select person, tenant, $3 from unnest($1::bytea[], $2::text[]) as new (person, tenant)
    where true on conflict do nothing
"""
_REMOVE = "delete from suppressed where person = any($1::bytea[])"
_COUNT = "select tenant, count(*), min(since), max(since) from suppressed group by tenant order by tenant"

_PERSONS = "select key, persons from arrivals where key = any($1::bigint[])"


async def among(session: Session, persons: Iterable[bytes]) -> set[bytes]:
    """Return which of some person keys are suppressed."""
    return {bytes(person) for (person,) in await session.fetch(_FIND, sorted(set(persons)))}


async def suppressed_arrivals(session: Session, keys: Collection[int]) -> set[int]:
    """Return which of some stored arrivals, by row key, have a suppressed person."""
    rows = await session.fetch(_PERSONS, sorted(set(keys)))
    persons_by_arrival = {key: split_person_keys(packed) for key, packed in rows}
    suppressed = await among(session, [person for persons in persons_by_arrival.values() for person in persons])
    return {key for key, persons in persons_by_arrival.items() if not suppressed.isdisjoint(persons)}


async def tenants_of(session: Session, persons: Collection[bytes]) -> set[str]:
    """Return the tenants, as ``namespace/name``, at which some person keys are suppressed."""
    return {tenant for (tenant,) in await session.fetch(_FIND_TENANTS, sorted(persons))}


async def by_tenant(session: Session) -> list[SuppressedTenant]:
    """Return each tenant that has suppressed persons."""
    return [SuppressedTenant(*row) for row in await session.fetch(_COUNT)]


async def add(transaction: Transaction, tenants: Mapping[bytes, str], now: int) -> int:
    """Suppress person keys, each with its tenant (``namespace/name``); return how many were not suppressed before."""
    return await transaction.session.execute(_ADD, *columns(sorted(tenants.items()), 2), now)


async def remove(transaction: Transaction, persons: Collection[bytes]) -> int:
    """Store and send visits for some person keys again; return how many were suppressed."""
    return await transaction.session.execute(_REMOVE, sorted(persons))
