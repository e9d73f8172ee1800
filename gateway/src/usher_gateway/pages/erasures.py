"""The list of erasures, and one erasure: its progress, its receipt, and the form that ends it."""

import json
from typing import Any

from aiohttp import web

from usher_gateway.pages import receipt_page, requests
from usher_gateway.pages.api import Api, ApiProblemError, Form, Values
from usher_gateway.pages.requests import Download
from usher_gateway.words import listings, person_words

_RUNNING = {"pending", "in_progress"}
# Statuses that read better than their names in OpenDSR.
_STATUSES = {"pending": "waiting", "in_progress": "in progress"}


async def list_erasures(api: Api, _: web.Request) -> Values:
    """Return the list's values."""
    rows = (await api.get("/api/persons/erasures"))["rows"]
    return {"title": "Erasures", "rows": [_with_words(row) for row in rows]}


async def show(api: Api, request: web.Request) -> Values:
    """Return one erasure's values."""
    row = await api.get(_path(request))
    return {
        "title": f"Erasure, {_with_words(row)['status_text']}",
        "erasure": row,
        "reloads": row["status"] in _RUNNING,
        "fields": ", ".join([person_words.FIELDS.get(field, field) for field in row["fields"]]),
        "tenants": listings.counted(row["tenants"], "tenant"),
        "deliveries": receipt_page.deliveries(row),
        "copies": receipt_page.copies(row) if row["completedAt"] else [],
    }


async def cancel(api: Api, request: web.Request, form: Form) -> str | tuple[str, Values]:
    """Ask before an erasure ends early; with ``confirm``, end it."""
    page = f"/ui/erasures/{requests.path_id(request)}"
    if "confirm" in form:
        await api.post(f"{_path(request)}/cancel", {})
        return page
    return "confirm.html", {
        "title": "Cancel an erasure",
        "sentences": ["No more visits of the person are erased. Erased ones stay erased."],
        "button": "Cancel the erasure",
        "action": f"{page}/cancel",
        "back": page,
    }


async def download_json(api: Api, request: web.Request) -> Download:
    """Return the signed receipt, as `usher person receipt ID -o json` prints it."""
    receipt = await _receipt(api, request)
    content = json.dumps(receipt, indent=2, ensure_ascii=False).encode() + b"\n"
    return Download(f"receipt-{receipt['id']}.json", content, "application/json")


async def download_page(api: Api, request: web.Request) -> Download:
    """Return the signed receipt's page, as `usher person receipt ID --html` writes it."""
    receipt = await _receipt(api, request)
    return Download(f"receipt-{receipt['id']}.html", receipt_page.render(receipt).encode(), "text/html")


def _path(request: web.Request) -> str:
    return f"/api/persons/erasures/{requests.path_id(request)}"


async def _receipt(api: Api, request: web.Request) -> Any:
    receipt = await api.get(_path(request))
    if "signature" not in receipt:
        raise ApiProblemError(409, "the erasure has not ended, so it has no receipt yet", "wait until it has ended")
    return receipt


def _with_words(row: listings.Row) -> listings.Row:
    return row | {"status_text": _STATUSES.get(row["status"], row["status"])}
