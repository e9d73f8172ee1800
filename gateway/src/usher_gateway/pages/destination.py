"""The page about one destination: its health, its newest deliveries, and a marked sample for it."""

import datetime

from aiohttp import web

from usher_gateway.pages import requests
from usher_gateway.pages.api import Api, Form, Row, Values, all_of, find_row
from usher_gateway.pages.rendering import path_to
from usher_gateway.words import listings, states

_SHOWN = 20  # Deliveries on one page

# `health` in `GET /api/destinations` -> what it means.
HEALTH = {
    "Healthy": "It takes deliveries.",
    "NotTried": "Nothing was sent to its present URL yet.",
    "Failing": "Its last attempts failed. Usher tries the deliveries again.",
    "CircuitOpen": "It failed many times in a row. Usher tries one delivery a minute there, and the others wait.",
    "TokenFailed": "Its token endpoint issues no token.",
    "SecretNotFound": "A Secret is missing, so its deliveries are held.",
    "AddressForbidden": "Its address is not allowed. The administrator of Usher can allow it.",
    "Gone": "It answered 410: its URL does not exist any more.",
}

_CIRCUITS = {
    "Closed": "closed: Usher sends deliveries as they come",
    "Open": "open: Usher sends one delivery a minute",
    "Recovering": "recovering: Usher sends more at once with each success",
}

# Attempt's error -> an answer rule's effect.
_RULES = {
    "RetriedByRule": "A rule of `http.answers` says: try again.",
    "ThrottledByRule": "A rule of `http.answers` says: try again, and send fewer.",
    "RejectedByRule": "A rule of `http.answers` says: dead.",
    "RuleFailed": "A rule of `http.answers` cannot be evaluated.",
}

_REDIRECTION_FROM = 300


async def show(api: Api, request: web.Request) -> Values:
    """Return the values. Query: ``tenant`` and ``state`` for the listed deliveries, and ``cursor`` (older ones)."""
    namespace = request.match_info["namespace"]
    destination = find_row(
        (await api.get("/api/destinations", {"namespace": namespace}))["rows"], "destination", request
    )
    key = f"{namespace}/{destination['name']}"
    filters, cursor = requests.texts(request, "tenant", "state"), requests.texts(request, "cursor")
    deliveries, delivered = await all_of(
        api.get("/api/deliveries", {"destination": key, "limit": str(_SHOWN), **filters, **cursor}),
        api.get("/api/deliveries", {"destination": key, "state": "delivered", "limit": "1"}),
    )
    return {
        "title": f"Destination {key}",
        "key": key,
        "now": datetime.datetime.now(datetime.UTC).isoformat(),
        "destination": destination,
        "meaning": meaning(destination),
        "circuit": _CIRCUITS.get(destination.get("circuit", ""), "-"),
        "limits": limit_sentences(destination["limits"]) if "limits" in destination else [],
        "last_success": next((row["settledAt"] for row in delivered["rows"]), None),
        "backlogs": sorted(destination["backlogByTenant"].items(), key=lambda pair: -pair[1]),
        "deliveries": [
            {**row, "result": listings.delivery_result(row), "rule": rule_effect(row)} for row in deliveries["rows"]
        ],
        "filters": filters,
        **requests.page_links(path_to("destinations", key), filters, cursor, deliveries["nextCursor"]),
        "sample": None,
    }


async def send_sample(api: Api, request: web.Request, _: Form) -> tuple[str, Values]:
    """Send the marked sample, and show the page with the request and the answer."""
    values = await show(api, request)
    answer = await api.post("/api/destinations/test", {"destination": values["key"]})
    sample = {
        **answer,
        "came_to": f"{states.SAMPLE_OUTCOMES[answer['outcome']].capitalize()}.",
        "body": answer["request"]["body"].splitlines(),
        "answer": answer["answer"].splitlines(),
    }
    return "destination.html", {**values, "sample": sample}


def meaning(destination: Row) -> str:
    """Return what a destination's health means. ``destination``: a ``GET /api/destinations`` row."""
    if destination["isRejecting"]:
        return "It rejects deliveries: they fail for good at the first attempt."
    return HEALTH.get(destination.get("health", ""), "It is not in force.")


def limit_sentences(limits: Row) -> list[str]:
    """Return the limits of a destination's manifest in words. ``limits``: from ``GET /api/destinations``."""
    sentences = [f"At most {listings.counted(limits['concurrency'], 'attempt')} at the same time."]
    if limits["requests"]:
        shared = f", together with others that share `{limits['sharedBy']}`" if limits["sharedBy"] else ""
        requests = listings.counted(limits["requests"], "request")
        sentences.append(f"At most {requests} in {limits['perSeconds']} s{shared}.")
    else:
        sentences.append("No limit of requests by time.")
    hours = limits["retryMaxAgeSeconds"] / 3600
    longest = listings.counted(round(hours / 24), "day") if hours >= 48 else listings.counted(round(hours), "hour")
    return [*sentences, f"An attempt may take {limits['timeoutSeconds']} s. Usher tries a delivery for {longest}."]


def rule_effect(delivery: Row) -> str:
    """Return what an answer rule made of a delivery's last answer; empty if none decided."""
    if delivery["state"] == "delivered" and (delivery["status"] or 0) >= _REDIRECTION_FROM:
        return "A rule of `http.answers` says: delivered."
    return _RULES.get(delivery["error"] or "", "")
