"""The handlers for ``/api/links``, which create, show and revoke links for customers."""

import re
import secrets

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.access.problem import ProblemError
from usher_gateway.access.tokens import digest_of
from usher_gateway.admin import api, name_check
from usher_gateway.admin.parts import Parts
from usher_gateway.store.base import Filter, Link
from usher_gateway.store.jobs.links import KEPT_DAYS, MOST_OF_TENANT

_MOST_DAYS = 400
_ID_BYTES = 6  # Random bytes of an id, which is written in hexadecimal digits


class LinkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The ``POST /api/links`` body."""

    tenant: str
    """``namespace/name``."""
    days: int = 30
    last_visits: bool = False
    """Show the last visits too, with visitors' initials."""


async def list_links(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/links``, the newest first."""
    permitted = Filter(permitted=request[api.CALLER].permitted)
    links = await parts.store.list_links()
    rows = (_row(parts, link) for link in links if permitted.selects(*link.tenant.split("/")))
    return api.json_response({"rows": await api.encode_each(rows)})


async def create(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/links``: 201 with the link and its ``path``, which cannot be shown again."""
    with api.parsing():
        link_request = _parse(await request.read())
    namespace, _, tenant = link_request.tenant.partition("/")
    await name_check.check_names(parts, api.confine(request, Filter(namespace=namespace, tenant=tenant)))
    if not parts.links.is_in_force(link_request.tenant):
        hint = "a link needs a tenant that has a listener: see `usher tenants`"
        raise ProblemError(404, "UnknownName", f"the tenant `{link_request.tenant}` is not in the configuration", hint)
    if not await parts.store.has_room_for_link(link_request.tenant):
        detail = f"the tenant has {MOST_OF_TENANT} links, with those that ended within {KEPT_DAYS} days"
        hint = f"revoke those that nobody uses; they leave the list {KEPT_DAYS} days later"
        raise ProblemError(429, "TooManyLinks", detail, hint)
    token, now = secrets.token_urlsafe(32), parts.clock.now()
    link = Link(
        id=secrets.token_hex(_ID_BYTES),
        tenant=link_request.tenant,
        created_at=now,
        expires_at=now + link_request.days * model.DAY,
        shows_visits=link_request.last_visits,
    )
    selection = {"id": link.id, "tenant": link.tenant, "days": link_request.days, "lastVisits": link.shows_visits}
    async with parts.audit.change(api.actor_of(request), "create link", selection) as changed:
        await parts.store.add_link(link, digest_of(token))
        changed.count = 1
    return api.json_response({**_row(parts, link), "path": f"/my/open/{token}"}, 201)


async def revoke(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/links/{id}/revoke``: ``{"revoked": 1}``, or 0 if it was revoked before."""
    identifier = request.match_info["id"]
    # The store gets nothing else, because PostgreSQL refuses some texts.
    is_id = re.fullmatch(f"[0-9a-f]{{{2 * _ID_BYTES}}}", identifier)
    link = await parts.store.find_link(identifier) if is_id else None
    permitted = Filter(permitted=request[api.CALLER].permitted)
    if link is None or not permitted.selects(*link.tenant.split("/")):
        raise ProblemError(404, "NotFound", "there is no such link", "use an id from `usher link list`")
    async with parts.audit.change(
        api.actor_of(request), "revoke link", {"id": link.id, "tenant": link.tenant}
    ) as changed:
        changed.count = int(await parts.store.revoke_link(link.id, parts.clock.now()))
    return api.json_response({"revoked": changed.count})


def _row(parts: Parts, link: Link) -> dict[str, object]:
    return {
        "id": link.id,
        "tenant": link.tenant,
        "state": parts.links.state_of(link).value,
        "lastVisits": link.shows_visits,
        "createdAt": model.format_time(link.created_at),
        "expiresAt": model.format_time(link.expires_at),
        "openedAt": model.time_or_none(link.opened_at),
        "lastUsedAt": model.time_or_none(link.used_at),
        "revokedAt": model.time_or_none(link.revoked_at),
    }


def _parse(body: bytes) -> LinkRequest:
    """Parse the body that requests a link."""
    link_request = api.decode(body, LinkRequest, "a request for a link")
    if link_request.tenant.count("/") != 1 or not all(link_request.tenant.split("/")) or len(link_request.tenant) > 300:
        raise ValueError("tenant must be NAMESPACE/NAME")
    if not 1 <= link_request.days <= _MOST_DAYS:
        raise ValueError(f"days must be a number from 1 to {_MOST_DAYS}")
    return link_request
