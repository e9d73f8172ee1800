"""Links for customers: a link shows one tenant's pages, read-only, in one browser and for some days.

A link's address has a token with 256 random bits, and the store has its digest. The first browser that opens it
gets a cookie, which has the link's id in a seal. The cookie proves nothing by itself: each page looks the link up, so
that a link which is revoked or expired, or whose tenant is gone, shows nothing from the next request on.
"""

import enum
from collections.abc import Callable
from typing import NamedTuple

from usher_gateway import documents, model
from usher_gateway.access.audit import Actor, AuditLog
from usher_gateway.access.seal import Seals
from usher_gateway.access.tokens import Caller, Scope, digest_of, seal_caller
from usher_gateway.store.base import Link
from usher_gateway.store.records import Records

_SESSION = "link"
_USE_EVERY = 60 * model.MICROSECONDS  # How exact the last use of a link is: each record of it is a commit


class LinkState(enum.Enum):
    """A link's present state."""

    Unknown = "unknown"
    """No link has this token."""
    Unopened = "unopened"
    Open = "open"
    Expired = "expired"
    Revoked = "revoked"
    """Also a link whose tenant is gone."""


class LinkCookie(NamedTuple):
    """The content of a link's cookie."""

    value: str
    seconds: int
    """How long it is good for."""


class LinkSessions:
    """Opens links, and finds those that browsers have opened.

    Args:
        store: keeps them.
        seals: this install's seals.
        audit: records who opened links.
        snapshot: returns the configuration in force.
        now: returns microseconds.
    """

    def __init__(
        self,
        *,
        store: Records,
        seals: Seals,
        audit: AuditLog,
        snapshot: Callable[[], documents.Snapshot],
        now: Callable[[], int],
    ) -> None:
        self._store, self._seals, self._audit = store, seals, audit
        self._snapshot, self._now = snapshot, now
        self._tenants: tuple[documents.Snapshot | None, frozenset[str]] = None, frozenset()
        """The configuration that was asked last, and its tenants with a listener, as ``namespace/name``."""

    async def find(self, token: str) -> Link | None:
        """Return the link for a token; None if there is none."""
        return await self._store.find_link_by_digest(digest_of(token))

    async def open(self, link: Link, peer: str) -> LinkCookie | None:
        """Open a link for a browser at an address; return its cookie, or None if another request was faster."""
        selection, now = {"id": link.id, "tenant": link.tenant}, self._now()
        async with self._audit.change(Actor(_caller_of(link), peer), "open link", selection) as changed:
            changed.count = int(await self._store.open_link(link.id, now))
        if not changed.count:
            return None
        seconds = (link.expires_at - now) // model.MICROSECONDS
        return LinkCookie(self._seals.seal(_SESSION, link.id, seconds), seconds)

    async def of_cookie(self, cookie: str) -> Link | None:
        """Return the link for a cookie; None for another cookie."""
        identifier = self._seals.open(_SESSION, cookie)
        return None if identifier is None else await self._store.find_link(identifier)

    async def record_use(self, link: Link) -> None:
        """Record that a customer looks at an open link's pages."""
        now = self._now()
        if link.used_at < now - _USE_EVERY:
            await self._store.use_link(link.id, now)

    def token(self, link: Link) -> str:
        """Return an API token, valid for a minute, that shows what the link shows."""
        return seal_caller(self._seals, _caller_of(link))

    def state_of(self, link: Link | None) -> LinkState:
        """Return what a link is good for now."""
        if link is None:
            return LinkState.Unknown
        if link.revoked_at or not self.is_in_force(link.tenant):
            return LinkState.Revoked
        if self._now() >= link.expires_at:
            return LinkState.Expired
        return LinkState.Open if link.opened_at else LinkState.Unopened

    def is_in_force(self, tenant: str) -> bool:
        """Return whether a tenant, as ``namespace/name``, has a listener."""
        snapshot, tenants = self._tenants
        if snapshot is not self._snapshot():
            snapshot = self._snapshot()
            tenants = frozenset({listener.tenant_key for listener in snapshot.listeners.values()})
            self._tenants = snapshot, tenants
        return tenant in tenants


def _caller_of(link: Link) -> Caller:
    scopes = {Scope.StatusRead, Scope.VisitsInitials} if link.shows_visits else {Scope.StatusRead}
    return Caller(f"link {link.id}", frozenset(scopes), frozenset({link.tenant}), is_link=True)
