"""The audit log: who looked at persons and bodies, and who changed what."""

from collections.abc import Mapping

import msgspec

from usher_gateway import model
from usher_gateway.store.base import LONGEST_PAGE, AuditEntry, AuditFilter
from usher_gateway.store.jobs import scopes
from usher_gateway.store.session import Row, Session
from usher_gateway.store.transaction import Transaction

KEPT_DAYS = 750  # How long an entry stays: about as long as meters

_ADD = """
    insert into audit_entries (key, id, at, who, action, selection, count, peer)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_ENTRIES = """
    select key, at, who, action, selection, count, peer, id from audit_entries where key = any($1::bigint[])
"""
_DELETE_OLD = """
    delete from audit_entries where key in (select key from audit_entries where at < $1 order by key limit $2)
"""


async def add(transaction: Transaction, entry: AuditEntry) -> None:
    """Add an entry to the audit log; it is durable afterwards."""
    key = transaction.ids.next_key()
    selection = msgspec.json.encode(entry.selection)
    values = (entry.at, entry.who, entry.action, selection, entry.count, entry.peer)
    await transaction.session.execute(_ADD, key, transaction.ids.id_of(key), *values)


async def entries(
    session: Session, where: AuditFilter, cursor: str | None, limit: int
) -> tuple[list[AuditEntry], str | None]:
    """Return a page of the audit log, newest first, and the next page's cursor; None at the end.

    A page for one tenant may be short, because it has only the tenant's entries from the longest page: selections
    are not indexed.

    Raises:
        ValueError: the cursor is invalid.
    """
    scope = scopes.RowScope("audit_entries")
    if where.who is not None:
        scope.add("who = {}", where.who)
    if where.action is not None:
        scope.add("action = {}", where.action)
    if where.reference is not None:  # a quote inside of a value is escaped, so these bytes are the member itself
        scope.add("position({} in selection) > 0", msgspec.json.encode({"reference": where.reference})[1:-1])
    await scope.add_period(session, "at", where.since, where.until)
    keys, below = await scopes.newest(session, scope, cursor, limit if where.tenant is None else LONGEST_PAGE)
    rows = {row[0]: row for row in await session.fetch(_ENTRIES, keys)}
    page = {key: _entry(rows[key]) for key in keys if key in rows}
    if where.tenant is not None:
        page = {key: entry for key, entry in page.items() if _is_about(where.tenant, entry.selection)}
    if len(page) > limit:
        keys = list(page)[:limit]
        return [page[key] for key in keys], scopes.cursor_of(keys[-1])
    return list(page.values()), scopes.cursor_of(below)


def _is_about(tenant: str, selection: Mapping[str, object]) -> bool:
    """Return whether a selection names a tenant; one that names no namespace may mean any namespace's tenant."""
    namespace, _, name = tenant.rpartition("/")
    named_namespace, _, named = str(selection.get("tenant") or "").rpartition("/")
    named_namespace = named_namespace or str(selection.get("namespace") or "")
    return name == named and (not namespace or named_namespace in {"", namespace})


def _entry(row: Row) -> AuditEntry:
    _, at, who, action, selection, count, peer, identifier = row
    return AuditEntry(at, who, action, msgspec.json.decode(selection), count, peer, bytes(identifier))


async def delete_old(session: Session, now: int, limit: int) -> int:
    """Delete entries whose time is over; return how many."""
    return await session.execute(_DELETE_OLD, now - KEPT_DAYS * model.DAY, limit)
