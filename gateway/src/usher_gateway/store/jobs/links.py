"""Links: each opens one tenant's pages to a customer, in one browser. The store has a digest of the token."""

from collections.abc import Collection

from usher_gateway import model
from usher_gateway.store.base import Link
from usher_gateway.store.session import Row, Session
from usher_gateway.store.transaction import Transaction

KEPT_DAYS = 30  # How long a link is listed after its end

MOST_OF_TENANT = 1_000  # Links of a tenant that are listed


_COLUMNS = "id, tenant, created_at, expires_at, shows_visits, opened_at, used_at, revoked_at"
_ADD = """
    insert into links (id, tenant, digest, created_at, expires_at, shows_visits) values ($1, $2, $3, $4, $5, $6)
"""
_LIST = f"select {_COLUMNS} from links order by created_at desc, id"  # noqa: S608
_COUNT = "select count(*) from links where tenant = $1"
_FIND = f"select {_COLUMNS} from links where id = $1"  # noqa: S608
_FIND_BY_DIGEST = f"select {_COLUMNS} from links where digest = $1"  # noqa: S608
_OPEN = """
    update links set opened_at = $2, used_at = $2
    where id = $1 and opened_at = 0 and revoked_at = 0 and expires_at > $2
"""
_USE = "update links set used_at = $2 where id = $1 and used_at < $2"
_REVOKE = "update links set revoked_at = $2 where id = $1 and revoked_at = 0"
_TENANTS = "select distinct tenant from links where revoked_at = 0 and created_at < $1"
_REVOKE_OF_TENANTS = """
    update links set revoked_at = $2 where tenant = any($1::text[]) and revoked_at = 0 and created_at < $3
"""
_DELETE_ENDED = """
    delete from links where id in
        (select id from links where expires_at < $1 or (revoked_at > 0 and revoked_at < $1) order by id limit $2)
"""


async def add(transaction: Transaction, link: Link, digest: bytes) -> None:
    """Add a link that was not opened yet; ``digest``: its token's."""
    values = (link.id, link.tenant, digest, link.created_at, link.expires_at, int(link.shows_visits))
    await transaction.session.execute(_ADD, *values)


async def listed(session: Session) -> list[Link]:
    """Return all links, the newest first."""
    return [_link(row) for row in await session.fetch(_LIST)]


async def has_room(session: Session, tenant: str) -> bool:
    """Return whether a tenant, as ``namespace/name``, may have one more link."""
    ((count,),) = await session.fetch(_COUNT, tenant)
    return int(count) < MOST_OF_TENANT


async def find(session: Session, identifier: str) -> Link | None:
    """Return a link by its id."""
    return next((_link(row) for row in await session.fetch(_FIND, identifier)), None)


async def find_by_digest(session: Session, digest: bytes) -> Link | None:
    """Return a link by its token's digest."""
    return next((_link(row) for row in await session.fetch(_FIND_BY_DIGEST, digest)), None)


async def open_once(transaction: Transaction, identifier: str, now: int) -> bool:
    """Record that a link was opened; return False if it was opened before, is revoked or has expired.

    If two transactions do it at once, one gets True.
    """
    return await transaction.session.execute(_OPEN, identifier, now) > 0


async def record_use(transaction: Transaction, identifier: str, now: int) -> None:
    """Record that a link's pages were asked for."""
    await transaction.session.execute(_USE, identifier, now)


async def revoke(transaction: Transaction, identifier: str, now: int) -> bool:
    """Revoke a link for good; return False if it was revoked before."""
    return await transaction.session.execute(_REVOKE, identifier, now) > 0


async def revoke_of_gone(session: Session, now: int, tenants: Collection[str]) -> int:
    """Revoke the links to tenants that are gone; return how many.

    A tenant that comes back under the same name may be another customer, so its old links must not work again. A link
    from the last hour stays, because another gateway may know a new tenant earlier than this one.

    Args:
        session: a transaction's.
        now: microseconds.
        tenants: in the configuration, ``namespace/name``.
    """
    since = now - model.HOUR
    gone = sorted({tenant for (tenant,) in await session.fetch(_TENANTS, since)} - set(tenants))
    return await session.execute(_REVOKE_OF_TENANTS, gone, now, since) if gone else 0


async def delete_old(session: Session, now: int, limit: int) -> int:
    """Delete links whose end is long ago; return how many."""
    return await session.execute(_DELETE_ENDED, now - KEPT_DAYS * model.DAY, limit)


def _link(row: Row) -> Link:
    identifier, tenant, created_at, expires_at, shows_visits, *times = row
    return Link(identifier, tenant, created_at, expires_at, bool(shows_visits), *times)
