"""Handlers that show what the store recorded, row by row: visits, deliveries, quarantine and the audit log."""

import collections
import contextlib
import datetime
from collections.abc import Sequence

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.access import audit
from usher_gateway.admin import api, name_check, status
from usher_gateway.admin.parts import Parts
from usher_gateway.ingest import body_reading
from usher_gateway.ingest.registry import LiveListener
from usher_gateway.store.base import LONGEST_PAGE, AuditEntry, AuditFilter, Filter
from usher_gateway.words import listings, next_step, story

_INITIALS = 20  # Visits that are shown with initials

# Selection parts that lead to a person's request, a replay or a row, and so come first.
_FIRST_AUDITED = frozenset({"reference", "id"})


async def list_rows(listing: listings.Listing, parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer a request for a listing's rows."""
    with api.parsing():
        where = api.read_filter(request, listing.only)
        limit = api.parse_limit(request.query)
        api.check_reason(where.reason, api.REASONS[listing.path])
        where = await name_check.check_names(parts, where)
        page = await listing.page(parts.store)(where, request.query.get("cursor"), limit)
    if listing is listings.DELIVERIES:
        _add_waits(parts, page.rows)
    else:
        await _add_companies(parts, page.rows)
    return api.json_response({"rows": page.rows, "nextCursor": page.next_cursor})


async def _add_companies(parts: Parts, rows: list[listings.Row]) -> None:
    """Add which other company arrivals' bodies name, and which it should be, as far as that still exists."""
    for row in rows:
        listener = _listener_of(parts, row)
        row["expectedCompany"] = None
        if not row["isOtherCompany"] or listener is None:
            continue
        row["expectedCompany"] = listener.document.tenant.company_id or None
        if row["bodyKept"]:
            with contextlib.suppress(model.NotFoundError):  # retention deleted it since
                content, content_type = await parts.store.body(model.parse_id(str(row["id"])))
                text = content_type.decode("utf-8", "surrogateescape")
                row["otherCompany"] = body_reading.read_company(listener, content, text) or None


def _listener_of(parts: Parts, row: listings.Row) -> LiveListener | None:
    """Return an arrival's listener; None if it is not in force any more."""
    listener = parts.registry.listeners.get(f"{row['namespace']}/{row['listener']}")
    return listener if listener is not None and listener.name.tenant == row["tenant"] else None


def _add_waits(parts: Parts, rows: list[listings.Row]) -> None:
    """Add what deliveries wait for (a circuit or their lane), until when, and what held ones lack."""
    waiting = {row["destination"] for row in rows if row["state"] == "pending" and not row["held"]}
    health = {key: status.destination_state(parts, key) or {} for key in waiting}
    for row in rows:
        is_waiting = row["state"] == "pending" and not row["held"]
        destination = health[row["destination"]] if is_waiting else {}
        is_open = destination.get("circuit") == "Open" and row["dueAt"]
        is_in_lane = is_waiting and not row["dueAt"]
        row["waitsFor"] = "CircuitOpen" if is_open else "Lane" if is_in_lane else None
        row["retriedUntil"] = next_step.retried_until(row, destination) if destination else None
        row["nextAttemptAt"] = max(row["dueAt"], str(destination["nextTrialAt"])) if is_open else row["dueAt"]
        row["missing"] = _missing(parts, row) if row["held"] else None


async def show_body(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/visits/{id}/body``. A body is personal data, so the audit log records each request."""
    identifier, row = await _find_visit(parts, request)
    content, content_type = await parts.store.body(identifier)
    await parts.audit.record_before_answer(api.actor_of(request), "show body", _audited(row), 1)
    text = "".join([letter for letter in content_type.decode("latin-1") if " " <= letter <= "~"])
    return api.raw_response(content, {"Usher-Content-Type": text})


async def list_initials(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/visits/initials``: the newest visits, each with its visitor's initials.

    ``initials`` is empty if the body is gone or has no name. The audit log records each request.
    """
    with api.parsing():
        where = api.read_filter(request, {"countedAs": "Visit"})
        where = await name_check.check_names(parts, where)
        page = await parts.store.visits(where, None, _INITIALS)
    await parts.audit.record_before_answer(
        api.actor_of(request), "show initials", {"tenant": where.tenant or ""}, len(page.rows)
    )
    rows = [
        {name: row[name] for name in ("namespace", "tenant", "listener", "receivedAt")}
        | {"initials": await _initials(parts, row)}
        for row in page.rows
    ]
    return api.json_response({"rows": rows})


async def count_delivered(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/deliveries/delivered``: how many deliveries each destination took in the last 24 hours.

    The newest 1,000 are counted; ``areMore``: there are others; ``lastHour``: in the last hour.
    """
    with api.parsing():
        where = await name_check.check_names(parts, api.read_filter(request))
    delivered = msgspec.structs.replace(where, state="delivered", since=parts.clock.now() - model.DAY)
    page = await parts.store.deliveries(delivered, None, LONGEST_PAGE)
    hour_ago = model.format_time(parts.clock.now() - model.HOUR)
    of_day = collections.Counter(row["destination"] for row in page.rows)
    of_hour = collections.Counter(row["destination"] for row in page.rows if str(row["createdAt"]) >= hour_ago)
    rows = [
        {"destination": name, "delivered": count, "lastHour": of_hour[name]} for name, count in sorted(of_day.items())
    ]
    return api.json_response({"rows": rows, "areMore": page.next_cursor is not None})


async def _initials(parts: Parts, row: api.Row) -> str:
    listener = parts.registry.listeners.get(f"{row['namespace']}/{row['listener']}")
    if listener is None or listener.name.tenant != row["tenant"]:
        return ""
    try:
        content, content_type = await parts.store.body(model.parse_id(str(row["id"])))
    except model.NotFoundError:
        return ""
    return body_reading.read_initials(listener.document, content, content_type.decode("latin-1"))


async def show_reading(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/visits/{id}/reading``: how the listener reads the body now, without personal values.

    ``reading`` is null and ``reason`` says why if the body or the listener is gone.
    """
    identifier, row = await _find_visit(parts, request)
    try:
        content, content_type = await parts.store.body(identifier)
    except model.NotFoundError as error:
        return api.json_response({"reading": None, "reason": str(error)})
    listener = _listener_of(parts, row)
    if listener is None:
        return api.json_response({"reading": None, "reason": "the listener is not in force any more"})
    received_at = datetime.datetime.fromisoformat(str(row["receivedAt"])).timestamp()
    reading = body_reading.read_body(
        listener,
        content,
        content_type.decode("utf-8", "surrogateescape"),
        int(received_at * model.MICROSECONDS),
        parts.keys,
    )
    return api.json_response({"reading": reading, "reason": ""})


async def show_story(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/visits/{id}/story``: what happened with an arrival, and what happens next."""
    identifier, row = await _find_visit(parts, request)
    await _add_companies(parts, [row])
    verdicts = await parts.store.verdicts(identifier)
    deliveries = (await parts.store.deliveries(Filter(visit=identifier), None, LONGEST_PAGE)).rows
    delivery_parts = [
        story.DeliveryPart(
            delivery,
            await parts.store.attempts(model.parse_id(str(delivery["id"]))),
            _next_step(parts, delivery, deliveries),
        )
        for delivery in reversed(deliveries)
    ]
    earlier = await parts.store.earlier_visit(identifier) if row["countedAs"] == "Repeat" else None
    earlier_rows = (await parts.store.visits(Filter(ids=(earlier,)), None, 1)).rows if earlier else []
    live = parts.registry.listeners.get(f"{row['namespace']}/{row['listener']}")
    window_seconds = live.document.window_seconds if live is not None else None
    return api.json_response(story.tell(row, verdicts, delivery_parts, next(iter(earlier_rows), None), window_seconds))


async def show_answer(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/deliveries/{id}/answer``. A destination's answer may be personal data too."""
    identifier, row = await _find_delivery(parts, request)
    content = await parts.store.answer(identifier)
    await parts.audit.record_before_answer(api.actor_of(request), "show answer", _audited(row), 1)
    return api.raw_response(content, {})


async def list_attempts(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/deliveries/{id}/attempts``: the last attempts, the oldest first, and what happens next."""
    identifier, delivery = await _find_delivery(parts, request)
    rows = [
        {
            "at": model.format_time(attempt.at),
            "status": attempt.status or None,
            "error": attempt.error or None,
            "milliseconds": attempt.milliseconds,
        }
        for attempt in await parts.store.attempts(identifier)
    ]
    visit = model.parse_id(str(delivery["visit"]))
    step = _next_step(parts, delivery, (await parts.store.deliveries(Filter(visit=visit), None, LONGEST_PAGE)).rows)
    return api.json_response({"rows": rows, "next": step.text, "command": step.command})


async def _find_visit(parts: Parts, request: web.Request) -> tuple[bytes, listings.Row]:
    """Return the id and the row of a request's arrival. One that the caller may not see seems not to exist."""
    with api.parsing():
        identifier = api.parse_id(request.match_info["id"])
    rows = (await parts.store.visits(api.confine(request, Filter(ids=(identifier,))), None, 1)).rows
    if not rows:
        raise model.NotFoundError("there is no such visit", "use an id from `usher visits list`")
    return identifier, rows[0]


async def _find_delivery(parts: Parts, request: web.Request) -> tuple[bytes, listings.Row]:
    """Return the id and the row of the delivery that a request is about, as `_find_visit` does."""
    with api.parsing():
        identifier = api.parse_id(request.match_info["id"])
    rows = (await parts.store.deliveries(api.confine(request, Filter(ids=(identifier,))), None, 1)).rows
    if not rows:
        raise model.NotFoundError("there is no such delivery", "use an id from `usher deliveries list`")
    return identifier, rows[0]


def _next_step(parts: Parts, delivery: listings.Row, of_visit: Sequence[listings.Row]) -> next_step.Step:
    """Return what happens next with a delivery. ``of_visit``: its visit's deliveries, the newest first."""
    destination = status.destination_state(parts, delivery["destination"])
    live = parts.registry.listeners.get(f"{delivery['namespace']}/{delivery['listener']}")
    body_days = live.document.tenant.body_days if live is not None else 0
    routes = live.document.routes if live is not None else ()
    when = "".join([route.when for route in routes if route.name == delivery["route"]])
    later = [row for row in of_visit if row["id"] > delivery["id"] and row["route"] == delivery["route"]]
    replayed = [row for row in later if row["origin"] == "Replayed" and row["state"] != "cancelled"]
    if delivery["state"] == "dead" and replayed:
        return next_step.sent_again(replayed[0])
    return next_step.next_step(delivery, destination, parts.clock.now(), _missing(parts, delivery), body_days, when)


def _missing(parts: Parts, delivery: listings.Row) -> str:
    """Return which Secret a held delivery waits for, or how its expression failed; ``""`` if that is not known."""
    name = model.ListenerName(delivery["namespace"], delivery["tenant"], delivery["listener"])
    held_as = (delivery["route"], delivery["held"])
    return "".join(
        [
            held_route.missing
            for held_route in parts.held_routes.of(name)
            if (held_route.route, held_route.reason) == held_as
        ]
    )


def _audited(row: listings.Row) -> api.Row:
    """Return what the audit log records when a caller looks at a row."""
    return {name: row[name] for name in ("id", "namespace", "tenant")}


async def list_audit_entries(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/audit``: the newest entries first."""
    with api.parsing():
        for name in ("who", "reference", "tenant"):
            if not request.query.get(name, "").isprintable():
                raise ValueError(f"{name} has characters that no name has")
        action = request.query.get("action")
        if action is not None and action not in audit.ACTIONS:
            raise ValueError(f"there is no such action: there are {', '.join(audit.ACTIONS)}")
        since, until = request.query.get("since"), request.query.get("until")
        where = AuditFilter(
            since=None if since is None else api.parse_time(since),
            until=None if until is None else api.parse_time(until),
            who=request.query.get("who"),
            action=action,
            reference=request.query.get("reference"),
            tenant=request.query.get("tenant"),
        )
        limit = api.parse_limit(request.query)
        entries, cursor = await parts.store.audit_entries(where, request.query.get("cursor"), limit)
    return api.json_response({"rows": [_audit_row(entry) for entry in entries], "nextCursor": cursor})


def _audit_row(entry: AuditEntry) -> dict[str, object]:
    names = sorted(entry.selection, key=lambda name: name not in _FIRST_AUDITED)
    return {
        "id": model.format_id(entry.id),
        "at": model.format_time(entry.at),
        "who": entry.who,
        "action": entry.action,
        "count": entry.count,
        "selection": {name: entry.selection[name] for name in names},
        "peer": entry.peer or None,
    }
