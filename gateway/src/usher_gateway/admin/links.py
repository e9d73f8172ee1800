"""Links for customers: who opens one sees the pages of one tenant, read-only, in one browser and for some days.

The address of a link has a token of 256 random bits, of which the store has the digest. The first browser that opens it
gets a cookie, which has the link's id in a seal. The cookie proves nothing by itself: each page looks the link up, so
that a link which is revoked or expired, or whose tenant is gone, shows nothing from the next request on.
"""

import enum
import hashlib
import secrets
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from aiohttp import web

from usher_gateway import documents, model
from usher_gateway.admin import api
from usher_gateway.admin.audit import AuditLog
from usher_gateway.admin.seal import Seals
from usher_gateway.admin.tokens import Caller, Scope, seal_caller
from usher_gateway.store.base import Filter, Link
from usher_gateway.store.records import Records

_DAY = 86_400 * model.MICROSECONDS
_MOST_DAYS = 400
_SESSION = "link"
_USE_EVERY = 60 * model.MICROSECONDS
"""How exact the last use of a link is: each record of it is a commit."""


class LinkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of ``POST /api/links``."""

    tenant: str
    """``namespace/name``."""
    days: int = 30
    last_visits: bool = False
    """Show the last visits too, with the initials of visitors."""


class LinkState(enum.Enum):
    """The present state of a link."""

    Unknown = "unknown"
    """No link has this token."""
    Unopened = "unopened"
    Open = "open"
    Expired = "expired"
    Revoked = "revoked"
    """Also a link whose tenant is gone."""


class LinkCookie(NamedTuple):
    """The content of the cookie of a link."""

    value: str
    seconds: int
    """How long it is good for."""


class LinkSessions:
    """Opens links, and finds those that browsers have opened.

    Args:
        store: keeps them.
        seals: of this install.
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

    async def find(self, token: str) -> Link | None:
        """Return the link of a token; None if there is none."""
        return await self._store.find_link_by_digest(_digest(token))

    async def open(self, request: web.Request, link: Link) -> LinkCookie | None:
        """Open a link; return the cookie of its browser, or None if another request was faster."""
        selection, now = {"id": link.id, "tenant": link.tenant}, self._now()
        async with self._audit.change(request, "open link", selection, who=_caller_of(link).name) as changed:
            changed.count = int(await self._store.open_link(link.id, now))
        if not changed.count:
            return None
        seconds = (link.expires_at - now) // model.MICROSECONDS
        return LinkCookie(self._seals.seal(_SESSION, link.id, seconds), seconds)

    async def of_cookie(self, cookie: str) -> Link | None:
        """Return the link of a cookie; None for another cookie."""
        identifier = self._seals.open(_SESSION, cookie)
        return None if identifier is None else await self._store.find_link(identifier)

    async def record_use(self, link: Link) -> None:
        """Record that a customer looks at the pages of an open link."""
        now = self._now()
        if link.used_at < now - _USE_EVERY:
            await self._store.use_link(link.id, now)

    def token(self, link: Link) -> str:
        """Return a token of a minute for the API that shows what the link shows."""
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
        listeners = self._snapshot().listeners.values()
        return any(f"{listener.namespace}/{listener.tenant.name}" == tenant for listener in listeners)


class LinkHandlers:
    """The handlers of ``/api/links``, which create, show and revoke links.

    Args:
        store: keeps them.
        sessions: know the state of a link.
        audit: records who created and revoked links.
        check_names: checks the names of a request.
        now: returns microseconds.
    """

    def __init__(
        self,
        *,
        store: Records,
        sessions: LinkSessions,
        audit: AuditLog,
        check_names: api.CheckNames,
        now: Callable[[], int],
    ) -> None:
        self._store, self._sessions, self._audit, self._now = store, sessions, audit, now
        self._check_names = check_names

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/links``, the newest first."""
        permitted = Filter(permitted=request[api.CALLER].permitted)
        rows = [self._row(link) for link in await self._store.links() if permitted.selects(*link.tenant.split("/"))]
        return api.json_response({"rows": rows})

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/links``: 201 with the link and its ``path``, which cannot be shown again."""
        with api.parsing():
            asked = _parse(await request.read())
        namespace, _, tenant = asked.tenant.partition("/")
        await self._check_names(api.confine(request, Filter(namespace=namespace, tenant=tenant)))
        if not self._sessions.is_in_force(asked.tenant):
            hint = "a link needs a tenant that has a listener: see `usher tenants`"
            raise api.ProblemError(404, "UnknownName", f"the tenant `{asked.tenant}` is not in the configuration", hint)
        token, now = secrets.token_urlsafe(32), self._now()
        link = Link(
            id=secrets.token_hex(6),
            tenant=asked.tenant,
            created_at=now,
            expires_at=now + asked.days * _DAY,
            shows_visits=asked.last_visits,
        )
        selection = {"id": link.id, "tenant": link.tenant, "days": asked.days, "lastVisits": link.shows_visits}
        async with self._audit.change(request, "create link", selection) as changed:
            await self._store.add_link(link, _digest(token))
            changed.count = 1
        return api.json_response({**self._row(link), "path": f"/my/open/{token}"}, 201)

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/links/{id}/revoke``: ``{"revoked": 1}``, or 0 if it was revoked before."""
        link = await self._store.find_link(request.match_info["id"])
        permitted = Filter(permitted=request[api.CALLER].permitted)
        if link is None or not permitted.selects(*link.tenant.split("/")):
            raise api.ProblemError(404, "NotFound", "there is no such link", "use an id from `usher link list`")
        async with self._audit.change(request, "revoke link", {"id": link.id, "tenant": link.tenant}) as changed:
            changed.count = int(await self._store.revoke_link(link.id, self._now()))
        return api.json_response({"revoked": changed.count})

    def _row(self, link: Link) -> dict[str, object]:
        return {
            "id": link.id,
            "tenant": link.tenant,
            "state": self._sessions.state_of(link).value,
            "lastVisits": link.shows_visits,
            "createdAt": model.format_time(link.created_at),
            "expiresAt": model.format_time(link.expires_at),
            "openedAt": model.time_or_none(link.opened_at),
            "lastUsedAt": model.time_or_none(link.used_at),
            "revokedAt": model.time_or_none(link.revoked_at),
        }


def _caller_of(link: Link) -> Caller:
    scopes = {Scope.StatusRead, Scope.VisitsInitials} if link.shows_visits else {Scope.StatusRead}
    return Caller(f"link {link.id}", frozenset(scopes), frozenset({link.tenant}))


def _parse(body: bytes) -> LinkRequest:
    """Parse the body of a request for a link.

    Raises:
        ValueError: it is not valid.
    """
    try:
        asked = msgspec.json.decode(body or b"{}", type=LinkRequest)
    except UnicodeDecodeError:
        raise ValueError("the body is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"the body is not a request for a link: {error}") from error
    if asked.tenant.count("/") != 1 or not all(asked.tenant.split("/")) or len(asked.tenant) > 300:
        raise ValueError("tenant must be NAMESPACE/NAME")
    if not 1 <= asked.days <= _MOST_DAYS:
        raise ValueError(f"days must be a number from 1 to {_MOST_DAYS}")
    return asked


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
