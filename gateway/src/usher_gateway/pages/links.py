"""Links for customers: the list, the form that creates one, and the form that revokes one."""

from typing import Any

from aiohttp import web

from usher_gateway.pages import requests
from usher_gateway.pages.api import Api, ApiProblemError, Form, Row, Values
from usher_gateway.pages.rendering import time_text

_REVOCABLE = {"unopened", "open"}


async def list_links(api: Api, request: web.Request) -> Values:
    """Return the list's values. Query: ``tenant``, which the form has already."""
    return await _listed(api, requests.texts(request, "tenant").get("tenant", ""))


async def create(api: Api, request: web.Request, form: Form) -> tuple[str, Values]:
    """Create a link, and show its address: the gateway keeps only its digest. A wrong form is shown again."""
    try:
        link = await _create(api, form)
    except ApiProblemError as error:
        if error.status not in {400, 404}:
            raise
        entered = {"tenant": form.get("tenant", ""), "days": form.get("days", ""), "shows_visits": "lastVisits" in form}
        return "links.html", {**await _listed(api, ""), **entered, "problem": error, "status": error.status}
    return "links.html", {**await _listed(api, ""), "created": link, "url": request[requests.ORIGIN] + link["path"]}


async def _create(api: Api, form: Form) -> Row:
    """Create a link. Its tenant may be a name that only one tenant has."""
    days, tenant = form.get("days", ""), form.get("tenant", "").strip()
    if not (days.isascii() and days.isdecimal()):
        raise ApiProblemError(400, "the days are no number", "enter a number from 1 to 400")
    if tenant and "/" not in tenant:
        rows = (await api.get("/api/tenants", {"tenant": tenant}))["rows"]
        if len(rows) == 1:
            tenant = f"{rows[0]['namespace']}/{tenant}"
    link_request = {"tenant": tenant, "days": int(days[:9]), "lastVisits": "lastVisits" in form}
    link: Row = await api.post("/api/links", link_request)
    return link


async def revoke(api: Api, request: web.Request, form: Form) -> str | tuple[str, Values]:
    """Ask before a link ends; with ``confirm``, end it."""
    identifier = request.match_info["id"]
    links = [row for row in (await api.get("/api/links"))["rows"] if row["id"] == identifier]
    if not links:
        raise ApiProblemError(404, "there is no such link", "use one of the list")
    if "confirm" in form:
        await api.post(f"/api/links/{links[0]['id']}/revoke", {})
        return "/ui/links"
    link, zone = links[0], requests.viewer_zone(request)
    opened = f"was opened at {time_text(link['openedAt'], zone)}" if link["openedAt"] else "was not opened yet"
    return "confirm.html", {
        "title": "Revoke a link",
        "sentences": [
            f"The link {identifier} shows {link['tenant']}.",
            f"It was created at {time_text(link['createdAt'], zone)}, and {opened}.",
            f"It ends at {time_text(link['expiresAt'], zone)}.",
            "From now on it shows nothing, also in the browser that opened it.",
            "This cannot be taken back. You can create another link.",
        ],
        "button": "Revoke the link",
        "action": f"/ui/links/{identifier}/revoke",
        "back": "/ui/links",
    }


async def _listed(api: Api, tenant: str) -> dict[str, Any]:
    rows = (await api.get("/api/links"))["rows"]
    return {
        "title": "Links for customers",
        "rows": [row | {"is_revocable": row["state"] in _REVOCABLE} for row in rows],
        "tenant": tenant,
        "days": "30",
        "shows_visits": False,
        "created": None,
        "problem": None,
    }
