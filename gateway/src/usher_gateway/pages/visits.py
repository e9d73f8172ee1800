"""The list of visits, and one visit's story: its deliveries, its body if the token permits that, and its replay."""

import contextlib
from collections.abc import Sequence

import msgspec
from aiohttp import web

from usher_gateway.pages import requests
from usher_gateway.pages.api import Api, ApiProblemError, Form, Row, Values, all_of
from usher_gateway.words import listings, replay_words

_SHOWN = 50
_INDENTED_BYTES = 16 * 1024  # Longest JSON that is indented: a deeply nested one becomes up to 2,000 times longer
_SHOWN_BYTES = 64 * 1024  # How much of a body is shown, because each line takes time in the event loop
_ATTEMPTS_OF = 20  # Deliveries of one visit whose attempts are shown

_FILTERS = ("tenant", "listener", "route", "destination", "countedAs", "reason")
_REASONS = sorted(listings.VISIT_REASONS)
_KINDS = ("visit", "repeat", "redelivery", "quarantined")

_VISIT_CELLS = dict(listings.VISITS.columns)

_IGNORABLE = {
    "ignoreOncePer": "also what the route's oncePer rule allows no more",
    "ignoreExpiry": "also what is past its time limit",
    "ignorePause": "also for routes that are paused or in shadow mode now",
}


async def list_visits(api: Api, request: web.Request) -> Values:
    """Return the list's values. Query: the filters for ``usher visits list``, and ``cursor``."""
    filters, moments = requests.texts(request, *_FILTERS), requests.times(request, "since", "until")
    cursor = requests.texts(request, "cursor")
    answer = await api.get("/api/visits", {**filters, **moments, **cursor, "limit": str(_SHOWN)})
    return {
        "title": "Visits",
        "rows": with_cells(answer["rows"]),
        "filters": dict.fromkeys(_FILTERS, "") | filters,
        "times": {"since": "", "until": ""} | requests.field_times(request, moments),
        "is_filtered": bool(filters or moments),
        "kinds": _KINDS,
        "reasons": _REASONS,
        "is_newest": not (cursor or moments or filters.keys() - {"tenant"}),
        **requests.page_links("/ui/visits", filters | moments, cursor, answer["nextCursor"]),
    }


def with_cells(rows: Sequence[listings.Row]) -> list[listings.Row]:
    """Return visit rows with ``counted`` and ``results`` in words, as `usher visits list` has them."""
    return [row | {"counted": _VISIT_CELLS["COUNTED"](row), "results": _VISIT_CELLS["VERDICTS"](row)} for row in rows]


async def show(api: Api, request: web.Request) -> Values:
    """Return one visit's values."""
    identifier = requests.path_id(request)
    path = f"/api/visits/{identifier}"
    of_id, story, reading, listed = await all_of(
        api.get("/api/visits", {"id": identifier}),
        api.get(f"{path}/story"),
        api.get(f"{path}/reading"),
        api.get("/api/deliveries", {"visit": identifier}),
    )
    deliveries = list(reversed(listed["rows"]))
    attempts = await all_of(
        *[api.get(f"/api/deliveries/{delivery['id']}/attempts") for delivery in deliveries[:_ATTEMPTS_OF]]
    )
    (visit,) = with_cells(of_id["rows"])
    zone = await requests.tenant_zone(api, f"{visit['namespace']}/{visit['tenant']}")
    return {
        "title": f"{visit['countedAs']} at {listings.listener_key(visit)}",
        "visit": visit,
        "tenant_zone": zone if str(zone) != str(requests.viewer_zone(request)) else None,
        "events": story["events"],
        "next": [step for step in story["next"] if not step["delivery"]],
        "deliveries": [
            delivery | {"result": listings.delivery_result(delivery), "tried": tried, "next": _next(delivery, tried)}
            for delivery, tried in zip(deliveries, attempts, strict=False)
        ],
        "without_attempts": len(deliveries) - len(attempts),
        "reading": reading["reading"],
        "no_reading": reading["reason"],
    }


def _next(delivery: listings.Row, tried: Row) -> str:
    """Return what happens next with a delivery; a dead one has a link instead of a command."""
    text: str = tried["next"]
    return text.replace(f"`{tried['command']}`", "A redrive") if delivery["state"] == "dead" else text


async def show_body(api: Api, request: web.Request, _: Form) -> tuple[str, Values]:
    """Show a visit's body; the API records that in the audit log."""
    identifier = requests.path_id(request)
    body = await api.get_bytes(f"/api/visits/{identifier}/body")
    values = {"title": "Body of a visit", "id": identifier, "lines": _lines(body), "is_cut": len(body) > _SHOWN_BYTES}
    return "body.html", values


def _lines(body: bytes) -> list[str]:
    """Return a body's lines. JSON is indented, unless that could make it a thousand times longer."""
    if len(body) <= _INDENTED_BYTES:
        with contextlib.suppress(
            msgspec.DecodeError, UnicodeDecodeError, RecursionError
        ):  # the last one: nested deeply
            return msgspec.json.format(body).decode().splitlines()
    return body[:_SHOWN_BYTES].decode(errors="replace").splitlines()


async def replay(api: Api, request: web.Request, form: Form) -> str | tuple[str, Values]:
    """Count what one visit's replay would deliver; with ``confirm``, start it."""
    identifier = requests.path_id(request)
    ignored = {name: name in form for name in _IGNORABLE}
    selection = {"ids": [identifier], **ignored}
    if "confirm" not in form:
        preview = await api.post("/api/replays", selection | {"dryRun": True})
        return "replay_visit.html", {
            "title": "Replay of a visit",
            "id": identifier,
            "results": sorted(preview["reasons"].items()),
            "selected": preview["selected"],
            "left_out": replay_words.left_out(preview["leftOut"]),
            "ignorable": [(name, text, ignored[name]) for name, text in _IGNORABLE.items()],
        }
    results = [name.removeprefix("result-") for name in form if name.startswith("result-")]
    if not results:
        raise ApiProblemError(400, "no result was chosen", "go back, and choose what to replay")
    states = ",".join([result for result in results if result in replay_words.STATES])
    reasons = ",".join([result for result in results if result not in replay_words.STATES])
    chosen = {name: value for name, value in (("state", states), ("reason", reasons)) if value}
    started = await api.post("/api/replays", selection | chosen)
    return f"/ui/replays/{started['id']}"
