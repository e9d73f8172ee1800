"""The page about one listener: help to set it up in Purple's portal, its faults and its routes."""

import datetime
from typing import Any, NamedTuple

from aiohttp import web

from usher_gateway.pages import attention
from usher_gateway.pages.api import Api, Form, Row, Values, find_row
from usher_gateway.pages.attention import HOLDS, ago
from usher_gateway.pages.rendering import quote_key

_WHY_REFUSED = {
    "SourceNotAllowed": "`allowedSources` does not have this source",
    "Unauthenticated": "its credentials are missing or wrong",
    "AuthenticationUnresolved": "the Secret with the credentials is missing",
}

_AFTER_REFUSALS = {
    "AuthenticationUnresolved": attention.MEND_CREDENTIALS,
    "SourceNotAllowed": "Correct `allowedSources` if this source is Purple's.",
    "Unauthenticated": "Enter the same credentials in the portal and in the Secret.",
}


class Fault(NamedTuple):
    """A listener's fault."""

    sentence: str
    step: str
    """The next step."""
    path: str = ""
    """The page URL that the next step names; empty: none."""


class Progress(NamedTuple):
    """How far a listener's set-up in the portal is."""

    check: str
    """A sentence about the portal's check, or why none can succeed; empty once visits arrive."""
    visits: str
    """A sentence about visits, or the next step, until the first visit has arrived at each URL."""
    is_waiting: bool


async def show(api: Api, request: web.Request) -> Values:
    """Return the values. Query: ``still`` (the page does not reload itself)."""
    values = await _values(api, request)
    return {**values, "reloads": values["progress"].is_waiting and "still" not in request.query}


async def show_urls(api: Api, request: web.Request, _: Form) -> tuple[str, Values]:
    """Show the page with the whole URLs, which are credentials. The audit log has an entry."""
    values = await _values(api, request)
    urls = await api.get(f"/api/listeners/{quote_key(values['key'])}/urls")
    return "listener.html", {**values, "urls": urls["rows"]}


async def _values(api: Api, request: web.Request) -> dict[str, Any]:
    names = {"namespace": request.match_info["namespace"], "listener": request.match_info["name"]}
    answer = await api.get("/api/listeners", names)
    listener, now = find_row(answer["rows"], "listener", request), datetime.datetime.fromisoformat(answer["now"])
    key = f"{listener['namespace']}/{listener['name']}"
    return {
        "title": f"Listener {key}",
        "key": key,
        "listener": listener,
        "tenant": f"{listener['namespace']}/{listener['tenant']}",
        "progress": progress(listener, now),
        "faults": fault_sentences(listener, now),
        "nothing_yet": attention.nothing_yet(listener),
        "routes": [{**route, "filter": (route["when"] or "").splitlines()} for route in listener["routes"]],
        "urls": None,
        "reloads": False,
    }


def progress(listener: Row, now: datetime.datetime) -> Progress:
    """Return how far a listener's set-up is. ``listener``: a ``GET /api/listeners`` row."""
    verified, addresses = len(listener["verifiedAddresses"]), len(listener["addressIds"])
    if verified >= addresses:
        return Progress("", "", is_waiting=False)
    for fault in ("Refusing", "AuthenticationUnresolved"):
        if fault in listener["faults"]:
            description = _fault(fault, listener, now)
            return Progress(description.sentence, description.step, is_waiting=True)
    if listener["lastProbe"]:
        check = f"The portal's check arrived {ago(listener['lastProbe'], now)} ago."
    else:
        check = "Waiting for the portal's check."
    visits = "Waiting for the first visit."
    if verified:
        visits = f"Visits arrived at {verified} of {addresses} URLs. Waiting for the first visit at the others."
    return Progress(check, visits, is_waiting=True)


def fault_sentences(listener: Row, now: datetime.datetime) -> list[Fault]:
    """Return a listener's faults, the most urgent first. Waiting for the first visit is not a fault."""
    faults: list[Fault] = []
    for fault in listener["faults"]:
        if fault == "DeliveriesHeld":
            faults += [_held(held_route) for held_route in listener["heldDeliveries"]]
        elif fault != "Unverified":
            faults.append(_fault(fault, listener, now))
    return faults


def _held(held_route: Row) -> Fault:
    cause, end = HOLDS.get(held_route["reason"], (held_route["reason"], "A correction"))
    missing = f" ({held_route['missing']})" if held_route["missing"] else ""
    return Fault(f"Route {held_route['route']} holds deliveries, because {cause}{missing}.", f"{end} ends that.")


def _fault(fault: str, listener: Row, now: datetime.datetime) -> Fault:
    match fault:
        case "Refusing":
            reason = listener["refusedReason"]
            source = f" from {listener['unexpectedSource']}" if reason == "SourceNotAllowed" else ""
            since = f" for {ago(listener['refusedSince'], now)}" if listener["refusedSince"] else ""
            cause = f", because {_WHY_REFUSED[reason]}" if reason in _WHY_REFUSED else ""
            return Fault(
                f"Every arrival{source} is refused{since}{cause} ({reason}).",
                _AFTER_REFUSALS.get(reason, "Purple disables the webhook if this lasts: look the reason up."),
            )
        case "AuthenticationUnresolved":
            return Fault(f"The credentials are missing: {listener['missing']}.", attention.MEND_CREDENTIALS)
        case "Quarantining":
            reason = f" ({listener['quarantinedReason']})" if listener["quarantinedReason"] else ""
            share = f"{listener['quarantinedShare']:.0%}"
            return Fault(
                f"{share} of the arrivals of the last 15 minutes are no valid visits{reason}.",
                attention.quarantine_step(listener["quarantinedReason"], listener["quarantinedSource"]),
                attention.quarantine_path(f"{listener['namespace']}/{listener['tenant']}", listener["name"]),
            )
        case "Silent":
            allowed = attention.duration(listener["silentAfterSeconds"])
            last = f" for {ago(listener['lastArrival'], now)}" if listener["lastArrival"] else ""
            return Fault(f"No arrival{last}; at most {allowed} would be usual.", attention.CHECK_WEBHOOK)
    sentence, step = attention.FAULTS.get(fault, (f"{fault}.", ""))
    fact = _fact(fault, listener)
    return Fault(f"{sentence.removesuffix('.')} ({fact})." if fact else sentence, step)


def _fact(fault: str, listener: Row) -> str:
    """Return what is known about one listener's fault that has a constant sentence; empty: nothing."""
    match fault:
        case "CompanyMismatch" if listener["otherCompany"]:
            return f"{listener['otherCompany']} instead of {listener['companyID']}"
        case "ExpressionTooSlow":
            return " and ".join([degraded["route"] for degraded in listener["degradedRoutes"]])
        case "UnexpectedSource":
            return f"the last one from {listener['unexpectedSource']}"
    return ""
