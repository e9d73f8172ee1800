"""The audit log: who looked at persons and bodies, and who changed what."""

import datetime
import json
from collections.abc import Mapping

from aiohttp import web

from usher_gateway.access.audit import ACTIONS
from usher_gateway.pages import requests
from usher_gateway.pages.api import Api, Values
from usher_gateway.pages.rendering import time_text
from usher_gateway.words import listings

_SHOWN = 50


async def show(api: Api, request: web.Request) -> Values:
    """Return the values. Query: ``who``, ``action``, ``since``, ``until`` and ``cursor``."""
    filters, moments = requests.texts(request, "who", "action"), requests.times(request, "since", "until")
    cursor = requests.texts(request, "cursor")
    answer = await api.get("/api/audit", {**filters, **moments, **cursor, "limit": str(_SHOWN)})
    return {
        "title": "Audit log",
        "rows": [_with_links(row, filters | moments, requests.viewer_zone(request)) for row in answer["rows"]],
        "filters": {"who": "", "action": ""} | filters,
        "actions": sorted(ACTIONS),
        "today": requests.link("/ui/audit", filters, since=_midnight(request)),
        "times": {"since": "", "until": ""} | requests.field_times(request, moments),
        **requests.page_links("/ui/audit", filters | moments, cursor, answer["nextCursor"]),
    }


def _midnight(request: web.Request) -> str:
    """Return when the viewer's day began, as the form field has it."""
    return f"{datetime.datetime.now(requests.viewer_zone(request)):%Y-%m-%d}T00:00"


def _with_links(row: listings.Row, chosen: Mapping[str, str], zone: datetime.tzinfo) -> listings.Row:
    """Return an entry with its selection in words, and with links to other entries of its caller and of its action."""
    return row | {
        "selected": _selection(row["selection"], zone),
        "of_who": requests.link("/ui/audit", {**chosen, "who": row["who"]}),
        "of_action": requests.link("/ui/audit", {**chosen, "action": row["action"]}),
    }


def _selection(selection: Mapping[str, object], zone: datetime.tzinfo) -> str:
    """Return what an entry selected, such as ``fields email, tenants 2``; times are in the zone."""
    times = {name: time_text(str(selection[name]), zone) for name in ("since", "until") if selection.get(name)}
    return ", ".join([f"{name} {_text(value)}" for name, value in {**selection, **times}.items() if value is not None])


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join([_text(item) for item in value])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
