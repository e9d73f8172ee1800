"""Redrive: deliveries that failed for good are sent again. The page counts them first by reason, and asks."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from usher_gateway.pages import requests
from usher_gateway.pages.api import Api, ApiProblemError, Form, Values

_LOOKED_AT = 1_000  # The most urgent tenants that are looked at

_FILTERS = ("tenant", "destination")


async def show(api: Api, request: web.Request) -> Values:
    """Return the values. Query: ``tenant``, ``destination``, ``since``, ``until``, or a ``delivery`` id.

    With a selection the page counts what would be redriven; nothing changes.
    """
    filters, moments = requests.texts(request, *_FILTERS, "delivery"), requests.times(request, "since", "until")
    values = {
        "title": "Redrive deliveries",
        "filters": dict.fromkeys((*_FILTERS, "delivery"), "") | filters,
        "times": {"since": "", "until": ""} | requests.field_times(request, moments),
        "chosen": filters | moments,
        "preview": None,
        "done": None,
    }
    if not values["chosen"]:
        return values | {"with_dead": await _tenants_with_dead(api)}
    preview = await api.post("/api/deliveries/redrive", _selection(filters | moments) | {"dryRun": True})
    return values | {"preview": preview, "reasons": sorted(preview["reasons"].items())}


async def start(api: Api, _: web.Request, form: Form) -> str | tuple[str, Values]:
    """Make the selected deliveries due again, and say how many; after a single one go to its visit.

    Raises:
        ApiProblemError: nothing is selected, which the API takes for all dead deliveries.
    """
    names = (*_FILTERS, "delivery", "since", "until")
    chosen = {name: form[name].strip() for name in names if form.get(name, "").strip()}
    if not chosen:
        raise ApiProblemError(400, "no delivery was selected", "go back, and choose a tenant, a destination or a time")
    answer = await api.post("/api/deliveries/redrive", _selection(chosen))
    if "delivery" in chosen and (rows := (await api.get("/api/deliveries", {"id": chosen["delivery"]}))["rows"]):
        return f"/ui/visits/{rows[0]['visit']}"
    return "redrive.html", {
        "title": "Redrive deliveries",
        "filters": dict.fromkeys((*_FILTERS, "delivery"), ""),
        "times": {"since": "", "until": ""},
        "preview": None,
        "done": answer["redriven"],
        "chosen": {"tenant": "", "destination": ""} | chosen,
    }


async def _tenants_with_dead(api: Api) -> list[tuple[str, int]]:
    """Return the tenants whose deliveries failed for good, with how many, most first."""
    troubled = await api.get("/api/tenants", {"order": "urgency", "troubled": "true", "limit": str(_LOOKED_AT)})
    counts = [(f"{row['namespace']}/{row['name']}", row["dead"]) for row in troubled["rows"] if row["dead"]]
    return sorted(counts, key=lambda pair: -pair[1])


def _selection(chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return the body for a request that redrives dead deliveries."""
    selection: dict[str, Any] = {name: value for name, value in chosen.items() if name != "delivery"}
    if "delivery" in chosen:
        selection["ids"] = [chosen["delivery"]]
    return selection | {"state": "dead"}
