"""Parameters that pages read from requests, and files that they answer with."""

import dataclasses
import datetime
import re
from collections.abc import Mapping

from aiohttp import web
from yarl import URL

from usher_gateway import model
from usher_gateway.admin.usage import parse_zone
from usher_gateway.pages.api import Api, ApiProblemError

ZONE_COOKIE = "usher_zone"

# The pages' scheme and host as the browser knows them, such as `https://usher.example.com`.
ORIGIN: web.RequestKey[str] = web.RequestKey("origin", str)


@dataclasses.dataclass(frozen=True)
class Download:
    """A file for the browser to save."""

    name: str
    content: bytes
    content_type: str


def find_zone(name: str) -> datetime.tzinfo:
    """Return a time zone by its name; UTC if there is none."""
    try:
        return parse_zone(name)
    except ValueError:
        return datetime.UTC


def viewer_zone(request: web.Request) -> datetime.tzinfo:
    """Return the time zone that the viewer has set."""
    return find_zone(request.cookies.get(ZONE_COOKIE, "UTC"))


async def tenant_zone(api: Api, tenant: str) -> datetime.tzinfo | None:
    """Return a tenant's time zone: ``namespace/name`` or a name; None if it is not in force, or not the only one.

    Raises:
        ApiProblemError: the tenant does not exist, and has no counts.
    """
    names = {row["timeZone"] for row in (await api.get("/api/tenants", {"tenant": tenant}))["rows"]}
    name = names.pop() if len(names) == 1 else None
    return find_zone(name) if name else None


def path_id(request: web.Request) -> str:
    """Return the id in a page's path.

    Raises:
        ApiProblemError: it is not an id.
    """
    try:
        return model.format_id(model.parse_id(request.match_info["id"]))
    except ValueError:
        raise ApiProblemError(404, "there is no such page", "follow a link of a list") from None


def page_number(request: web.Request) -> int:
    """Return the query parameter ``page``; 1 if it is not a number from 1 to 9999."""
    text = request.query.get("page", "")
    return max(1, int(text)) if re.fullmatch(r"\d{1,4}", text, re.ASCII) else 1


def texts(request: web.Request, *names: str) -> dict[str, str]:
    """Return those query parameters that are not empty."""
    values = {name: request.query.get(name, "").strip() for name in names}
    return {name: value for name, value in values.items() if value}


def times(request: web.Request, *names: str) -> dict[str, str]:
    """Return query parameters that are times, in the API's form. One without an offset is in the viewer's zone.

    Raises:
        ApiProblemError: a value is not a time.
    """
    zone = viewer_zone(request)
    parsed = {}
    for name, text in texts(request, *names).items():
        try:
            moment = datetime.datetime.fromisoformat(text)
            local = moment if moment.tzinfo else moment.replace(tzinfo=zone)
            local.astimezone(datetime.UTC).astimezone(zone)
        except (ValueError, OverflowError):
            raise ApiProblemError(400, f"{name} is not a time", "write it like 2026-11-25 12:00") from None
        parsed[name] = local.isoformat()
    return parsed


def field_times(request: web.Request, moments: Mapping[str, str]) -> dict[str, str]:
    """Return times from `times` as form fields have them: without an offset, in the viewer's zone."""
    zone = viewer_zone(request)
    return {
        name: datetime.datetime.fromisoformat(text).astimezone(zone).replace(tzinfo=None).isoformat(timespec="minutes")
        for name, text in moments.items()
    }


def page_links(
    path: str, parameters: Mapping[str, str], cursor: Mapping[str, str], next_cursor: str | None
) -> dict[str, str]:
    """Return the paths ``first`` and ``next`` for the macro `pager`; empty for a page that does not exist.

    ``cursor``: the present page's parameter.
    """
    return {
        "first": link(path, parameters) if cursor else "",
        "next": link(path, parameters, cursor=next_cursor) if next_cursor else "",
    }


def link(path: str, parameters: Mapping[str, str], **more: str | None) -> str:
    """Return a path with a query; parameters that are None or empty are left out."""
    query = {name: value for name, value in {**parameters, **more}.items() if value}
    return str(URL(path).with_query(query))
