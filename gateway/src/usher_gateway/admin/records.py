"""Handlers that show what the store recorded: visits, deliveries and quarantine, row by row."""

import collections
import contextlib
import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import api, listings, next_step, story
from usher_gateway.admin.audit import AuditLog
from usher_gateway.delivery.held_routes import HeldRoute
from usher_gateway.ingest import body_reading
from usher_gateway.ingest.registry import LiveListener
from usher_gateway.store.base import LONGEST_PAGE, Filter
from usher_gateway.store.records import Records

Row = dict[str, object]

_HOUR = 3_600 * model.MICROSECONDS
_DAY = 24 * _HOUR

_INITIALS = 20
"""Visits that are shown with initials."""


class RecordHandlers:
    """The handlers that list visits, deliveries and quarantine, and show one of them."""

    def __init__(
        self,
        *,
        store: Records,
        now: Callable[[], int],
        listeners: Callable[[], Mapping[str, LiveListener]],
        keys: model.Keys,
        check_names: api.CheckNames,
        destination: Callable[[str], Mapping[str, object] | None],
        held_routes: Callable[[model.ListenerName], Iterable[HeldRoute]],
        audit: AuditLog,
    ) -> None:
        """Take the parts of the gateway that records need.

        Args:
            store: The store.
            now: Returns microseconds.
            listeners: Returns the listeners in force by ``namespace/name``.
            keys: Keys with which listeners read bodies.
            check_names: Checks the names of a selection.
            destination: ``GatewayStatus.destination``.
            held_routes: Returns the routes of a listener whose deliveries are held.
            audit: Records each look at a body or an answer.
        """
        self._audit = audit
        self._store = store
        self._now = now
        self._listeners = listeners
        self._keys = keys
        self._check_names = check_names
        self._destination = destination
        self._held_routes = held_routes

    def lister(self, listing: listings.Listing) -> api.Handler:
        """Return the handler of a listing."""

        async def list_rows(request: web.Request) -> web.StreamResponse:
            with api.parsing():
                where = api.read_filter(request, listing.only)
                limit = api.parse_limit(request.query)
                api.check_reason(where.reason, listing.reasons)
                where = await self._check_names(where)
                page = await listing.page(self._store)(where, request.query.get("cursor"), limit)
            if listing is listings.DELIVERIES:
                self._add_waits(page.rows)
            else:
                await self._add_companies(page.rows)
            return api.json_response({"rows": page.rows, "nextCursor": page.next_cursor})

        return list_rows

    async def _add_companies(self, rows: list[listings.Row]) -> None:
        """Add which other company the bodies of arrivals name, and which it should be, as far as that still exists."""
        for row in rows:
            listener = self._listener_of(row)
            row["expectedCompany"] = None
            if not row["isOtherCompany"] or listener is None:
                continue
            row["expectedCompany"] = listener.document.tenant.company_id or None
            if row["bodyKept"]:
                with contextlib.suppress(model.NotFoundError):  # retention deleted it since
                    content, content_type = await self._store.body(model.parse_id(str(row["id"])))
                    text = content_type.decode("utf-8", "surrogateescape")
                    row["otherCompany"] = body_reading.read_company(listener, content, text) or None

    def _listener_of(self, row: listings.Row) -> LiveListener | None:
        """Return the listener of an arrival; None if it is not in force any more."""
        listener = self._listeners().get(f"{row['namespace']}/{row['listener']}")
        return listener if listener is not None and listener.name.tenant == row["tenant"] else None

    def _add_waits(self, rows: list[listings.Row]) -> None:
        """Add what deliveries wait for (a circuit or their lane), until when, and what held ones lack."""
        waiting = {row["destination"] for row in rows if row["state"] == "pending" and not row["held"]}
        health = {key: self._destination(key) or {} for key in waiting}
        for row in rows:
            is_waiting = row["state"] == "pending" and not row["held"]
            destination = health[row["destination"]] if is_waiting else {}
            is_open = destination.get("circuit") == "Open" and row["dueAt"]
            is_in_lane = is_waiting and not row["dueAt"]
            row["waitsFor"] = "CircuitOpen" if is_open else "Lane" if is_in_lane else None
            row["retriedUntil"] = next_step.retried_until(row, destination) if destination else None
            row["nextAttemptAt"] = max(row["dueAt"], str(destination["nextTrialAt"])) if is_open else row["dueAt"]
            row["missing"] = self._missing(row) if row["held"] else None

    async def show_body(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits/{id}/body``. A body is personal data, so the audit log records each request."""
        identifier, row = await self._find_visit(request)
        content, content_type = await self._store.body(identifier)
        await self._audit.record_before_answer(request, "show body", _audited(row), 1)
        text = "".join([letter for letter in content_type.decode("latin-1") if " " <= letter <= "~"])
        return api.raw_response(content, {"Usher-Content-Type": text})

    async def list_initials(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits/initials``: the newest visits, each with its visitor's initials.

        ``initials`` is empty if the body is gone or has no name. The audit log records each request.
        """
        with api.parsing():
            where = api.read_filter(request, {"countedAs": "Visit"})
            where = await self._check_names(where)
            page = await self._store.visits(where, None, _INITIALS)
        await self._audit.record_before_answer(request, "show initials", {"tenant": where.tenant or ""}, len(page.rows))
        rows = [
            {name: row[name] for name in ("namespace", "tenant", "listener", "receivedAt")}
            | {"initials": await self._initials(row)}
            for row in page.rows
        ]
        return api.json_response({"rows": rows})

    async def count_delivered(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/deliveries/delivered``: how many deliveries of the last 24 hours each destination took.

        Of these, the newest 1,000 are counted; ``areMore``: there are others; ``lastHour``: of the last hour.
        """
        with api.parsing():
            where = await self._check_names(api.read_filter(request))
        delivered = msgspec.structs.replace(where, state="delivered", since=self._now() - _DAY)
        page = await self._store.deliveries(delivered, None, LONGEST_PAGE)
        hour_ago = model.format_time(self._now() - _HOUR)
        of_day = collections.Counter(row["destination"] for row in page.rows)
        of_hour = collections.Counter(row["destination"] for row in page.rows if str(row["createdAt"]) >= hour_ago)
        rows = [
            {"destination": name, "delivered": count, "lastHour": of_hour[name]}
            for name, count in sorted(of_day.items())
        ]
        return api.json_response({"rows": rows, "areMore": page.next_cursor is not None})

    async def _initials(self, row: Row) -> str:
        listener = self._listeners().get(f"{row['namespace']}/{row['listener']}")
        if listener is None or listener.name.tenant != row["tenant"]:
            return ""
        try:
            content, content_type = await self._store.body(model.parse_id(str(row["id"])))
        except model.NotFoundError:
            return ""
        return body_reading.read_initials(listener.document, content, content_type.decode("latin-1"))

    async def show_reading(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits/{id}/reading``: how the listener reads the body now, without personal values.

        ``reading`` is null and ``reason`` says why if the body or the listener is gone.
        """
        identifier, row = await self._find_visit(request)
        try:
            content, content_type = await self._store.body(identifier)
        except model.NotFoundError as error:
            return api.json_response({"reading": None, "reason": str(error)})
        listener = self._listener_of(row)
        if listener is None:
            return api.json_response({"reading": None, "reason": "the listener is not in force any more"})
        received_at = datetime.datetime.fromisoformat(str(row["receivedAt"])).timestamp()
        reading = body_reading.read_body(
            listener,
            content,
            content_type.decode("utf-8", "surrogateescape"),
            int(received_at * model.MICROSECONDS),
            self._keys,
        )
        return api.json_response({"reading": reading, "reason": ""})

    async def show_story(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits/{id}/story``: what happened with an arrival, and what happens next."""
        identifier, row = await self._find_visit(request)
        await self._add_companies([row])
        verdicts = await self._store.verdicts(identifier)
        deliveries = (await self._store.deliveries(Filter(visit=identifier), None, LONGEST_PAGE)).rows
        parts = [
            story.DeliveryPart(
                delivery,
                await self._store.attempts(model.parse_id(str(delivery["id"]))),
                self._next_step(delivery, deliveries),
            )
            for delivery in reversed(deliveries)
        ]
        earlier = await self._store.earlier_visit(identifier) if row["countedAs"] == "Repeat" else None
        earlier_rows = (await self._store.visits(Filter(ids=(earlier,)), None, 1)).rows if earlier else []
        live = self._listeners().get(f"{row['namespace']}/{row['listener']}")
        window_seconds = live.document.window_seconds if live is not None else None
        return api.json_response(story.tell(row, verdicts, parts, next(iter(earlier_rows), None), window_seconds))

    async def show_answer(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/deliveries/{id}/answer``. A destination's answer may be personal data too."""
        identifier, row = await self._find_delivery(request)
        content = await self._store.answer(identifier)
        await self._audit.record_before_answer(request, "show answer", _audited(row), 1)
        return api.raw_response(content, {})

    async def list_attempts(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/deliveries/{id}/attempts``: the last attempts, the oldest first, and what happens next."""
        identifier, delivery = await self._find_delivery(request)
        rows = [
            {
                "at": model.format_time(attempt.at),
                "status": attempt.status or None,
                "error": attempt.error or None,
                "milliseconds": attempt.milliseconds,
            }
            for attempt in await self._store.attempts(identifier)
        ]
        visit = model.parse_id(str(delivery["visit"]))
        step = self._next_step(delivery, (await self._store.deliveries(Filter(visit=visit), None, LONGEST_PAGE)).rows)
        return api.json_response({"rows": rows, "next": step.text, "command": step.command})

    async def _find_visit(self, request: web.Request) -> tuple[bytes, listings.Row]:
        """Return the id and the row of the arrival that a request is about, if the caller may see it.

        Raises:
            NotFoundError: there is none; it says the same of one that the caller may not see.
        """
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        rows = (await self._store.visits(api.confine(request, Filter(ids=(identifier,))), None, 1)).rows
        if not rows:
            raise model.NotFoundError("there is no such visit", "use an id from `usher visits list`")
        return identifier, rows[0]

    async def _find_delivery(self, request: web.Request) -> tuple[bytes, listings.Row]:
        """Return the id and the row of the delivery that a request is about, as `_find_visit` does."""
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        rows = (await self._store.deliveries(api.confine(request, Filter(ids=(identifier,))), None, 1)).rows
        if not rows:
            raise model.NotFoundError("there is no such delivery", "use an id from `usher deliveries list`")
        return identifier, rows[0]

    def _next_step(self, delivery: listings.Row, of_visit: Sequence[listings.Row]) -> next_step.Step:
        """Return what happens next with a delivery. ``of_visit``: the deliveries of its visit, the newest first."""
        destination = self._destination(delivery["destination"])
        live = self._listeners().get(f"{delivery['namespace']}/{delivery['listener']}")
        body_days = live.document.tenant.body_days if live is not None else 0
        routes = live.document.routes if live is not None else ()
        when = "".join([route.when for route in routes if route.name == delivery["route"]])
        later = [each for each in of_visit if each["id"] > delivery["id"] and each["route"] == delivery["route"]]
        replayed = [each for each in later if each["origin"] == "Replayed" and each["state"] != "cancelled"]
        if delivery["state"] == "dead" and replayed:
            return next_step.sent_again(replayed[0])
        return next_step.next_step(delivery, destination, self._now(), self._missing(delivery), body_days, when)

    def _missing(self, delivery: listings.Row) -> str:
        """Return which Secret a held delivery waits for, or how its expression failed; ``""`` if that is not known."""
        name = model.ListenerName(delivery["namespace"], delivery["tenant"], delivery["listener"])
        held_as = (delivery["route"], delivery["held"])
        return "".join([held.missing for held in self._held_routes(name) if (held.route, held.reason) == held_as])


def _audited(row: listings.Row) -> Row:
    """Return what the audit log records of a look at a row."""
    return {name: row[name] for name in ("id", "namespace", "tenant")}
