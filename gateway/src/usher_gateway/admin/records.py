"""Handlers over what the store recorded: visits, deliveries and quarantine, row by row."""

import asyncio
import collections
import datetime
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import api, listings, next_step, story
from usher_gateway.admin.audit import AuditLog
from usher_gateway.delivery.holds import HeldRoute
from usher_gateway.ingest import body_reading
from usher_gateway.ingest.pipeline import rebuild_arrival
from usher_gateway.ingest.registry import LiveListener
from usher_gateway.store.base import LONGEST_PAGE, Change, Filter, HoldsOf
from usher_gateway.store.records import Records

_RELEASE_SLICE = 20
"""How many quarantined arrivals are parsed between two turns of the event loop; each may take some milliseconds."""

Row = dict[str, object]


class _Released(msgspec.Struct):
    reasons: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    """Quarantine reason -> arrivals that are visits now."""
    deliveries: int = 0
    unfit: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    """Reason -> arrivals that are still not visits."""


class RecordHandlers:
    """The handlers of ``/api/visits``, ``/api/deliveries`` and ``/api/quarantine``."""

    def __init__(
        self,
        *,
        store: Records,
        now: Callable[[], int],
        listeners: Callable[[], Mapping[str, LiveListener]],
        forget_cancelled: Callable[[Sequence[int]], None],
        ask_store: Callable[[], None],
        holds_of: HoldsOf,
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
            forget_cancelled: Drops cancelled deliveries, by their row keys, from the lanes.
            ask_store: Lets the dispatcher look for due deliveries.
            holds_of: Returns what holds deliveries of a route now.
            keys: Keys with which listeners read bodies.
            check_names: Checks the names of a selection.
            destination: ``GatewayStatus.destination``.
            held_routes: Returns the routes of a listener whose deliveries are held.
            audit: Records each look at a body or an answer, and each change.
        """
        self._audit = audit
        self._store = store
        self._now = now
        self._listeners = listeners
        self._forget_cancelled = forget_cancelled
        self._ask_store = ask_store
        self._holds_of = holds_of
        self._keys = keys
        self._check_names = check_names
        self._destination = destination
        self._held_routes = held_routes
        self._releasing = asyncio.Lock()
        """Held during a release, so that two requests never count the same arrival."""

    def lister(self, listing: listings.Listing) -> api.Handler:
        """Return the handler of a listing."""

        async def list_rows(request: web.Request) -> web.StreamResponse:
            with api.parsing():
                where = api.parse_filter({**request.query, **listing.only}, "limit", "cursor")
                limit = api.parse_limit(request.query)
                api.check_reason(where.reason, listing.reasons)
                await self._check_names(where)
                page = await listing.page(self._store)(where, request.query.get("cursor"), limit)
            return api.json_response({"rows": page.rows, "nextCursor": page.next_cursor})

        return list_rows

    async def show_body(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits/{id}/body``. A body is personal data, so the audit log records each request."""
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        content, content_type = await self._store.body(identifier)
        await self._audit.record_look(request, "show body", {"id": request.match_info["id"]}, 1)
        text = "".join([letter for letter in content_type.decode("latin-1") if " " <= letter <= "~"])
        return api.raw_response(content, {"Usher-Content-Type": text})

    async def show_reading(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits/{id}/reading``: how the listener reads the body now, without personal values.

        ``reading`` is null and ``reason`` says why if the body or the listener is gone.
        """
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        rows = (await self._store.visits(Filter(ids=(identifier,)), None, 1)).rows
        try:
            content, content_type = await self._store.body(identifier)
        except model.NotFoundError as error:
            if not rows:
                raise
            return api.json_response({"reading": None, "reason": str(error)})
        row = rows[0]
        listener = self._listeners().get(f"{row['namespace']}/{row['listener']}")
        if listener is None or listener.name.tenant != row["tenant"]:
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
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        verdicts = await self._store.verdicts(identifier)
        rows = (await self._store.visits(Filter(ids=(identifier,)), None, 1)).rows
        if not rows:
            raise model.NotFoundError("the visit does not exist any more")  # retention deleted it just now
        deliveries = (await self._store.deliveries(Filter(visit=identifier), None, LONGEST_PAGE)).rows
        parts = [
            story.DeliveryPart(
                delivery,
                await self._store.attempts(model.parse_id(str(delivery["id"]))),
                self._next_step(delivery),
            )
            for delivery in reversed(deliveries)
        ]
        earlier = await self._store.earlier_visit(identifier) if rows[0]["countedAs"] == "Repeat" else None
        told = story.tell(rows[0], verdicts, parts, model.format_id(earlier) if earlier else None)
        return api.json_response(told)

    async def show_answer(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/deliveries/{id}/answer``. A destination's answer may be personal data too."""
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        content = await self._store.answer(identifier)
        await self._audit.record_look(request, "show answer", {"id": request.match_info["id"]}, 1)
        return api.raw_response(content, {})

    async def list_attempts(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/deliveries/{id}/attempts``: the last attempts, the oldest first, and what happens next."""
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        rows = [
            {
                "at": model.format_time(attempt.at),
                "status": attempt.status or None,
                "error": attempt.error or None,
                "milliseconds": attempt.milliseconds,
            }
            for attempt in await self._store.attempts(identifier)
        ]
        text = ""
        for delivery in (await self._store.deliveries(Filter(ids=(identifier,)), None, 1)).rows:
            text = self._next_step(delivery)
        return api.json_response({"rows": rows, "next": text})

    def _next_step(self, delivery: listings.Row) -> str:
        """Return what happens next with a delivery."""
        name = model.ListenerName(delivery["namespace"], delivery["tenant"], delivery["listener"])
        held_as = (delivery["route"], delivery["held"])
        details = [held.missing for held in self._held_routes(name) if (held.route, held.reason) == held_as]
        destination = self._destination(delivery["destination"])
        live = self._listeners().get(name.key)
        body_days = live.document.tenant.body_days if live is not None else 0
        return next_step.next_step(delivery, destination, self._now(), "".join(details), body_days)

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/redrive``."""
        return await self._change(
            request, "redrive", "redriven", lambda where: self._store.redrive(where, self._now(), self._holds_of)
        )

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/cancel``."""
        return await self._change(
            request, "cancel", "cancelled", lambda where: self._store.cancel(where, self._now(), self._forget_cancelled)
        )

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/retry``."""
        answer = await self._change(request, "retry", "retried", lambda where: self._store.retry(where, self._now()))
        self._ask_store()
        return answer

    async def _change(
        self, request: web.Request, change: Change, counted: str, apply: Callable[[Filter], Awaitable[int]]
    ) -> web.StreamResponse:
        """Change the selected deliveries; with ``dryRun`` only count them by reason."""
        with api.parsing():
            selection, audited, where = await self._read_selection(request, listings.DELIVERY_REASONS)
            if selection.dry_run:
                return _preview_response({counted: 0}, await self._store.preview(change, where, self._now()))
            count = await apply(where)
        await self._audit.record_change(request, change, audited, count)
        return api.json_response({counted: count})

    async def release(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/quarantine/release``: deliver what is a visit now, and give the reasons for the rest."""
        with api.parsing():
            selection, audited, where = await self._read_selection(request, listings.QUARANTINE_REASONS)
            async with self._releasing:
                released = await self._release(where, is_preview=selection.dry_run)
        if selection.dry_run:
            nothing = {"released": 0, "deliveries": 0, "unfit": released.unfit}
            return _preview_response(nothing, released.reasons)
        count = sum(released.reasons.values())
        await self._audit.record_change(request, "release", audited, count)
        return api.json_response({"released": count, "deliveries": released.deliveries, "unfit": released.unfit})

    async def _release(self, where: Filter, *, is_preview: bool) -> _Released:
        result, after = _Released(), 0
        while quarantined := await self._store.quarantined(where, _RELEASE_SLICE, after):
            after = quarantined[-1].key
            fit = []
            for arrival in quarantined:
                parsed = self._parse_again(arrival)
                if isinstance(parsed, model.Arrival):
                    fit.append(parsed)
                    assert arrival.quarantine is not None
                    result.reasons[arrival.quarantine.name] += 1
                else:
                    result.unfit[parsed] += 1
            if not is_preview:
                result.deliveries += await self._store.release(fit, self._now())
        return result

    def _parse_again(self, arrival: model.Arrival) -> model.Arrival | str:
        """Parse an arrival by its listener as it is now; return the reason if it is still not a visit."""
        listener = self._listeners().get(arrival.listener.key)
        if listener is None or listener.name != arrival.listener:
            return "ListenerNotFound"
        parsed = rebuild_arrival(listener, arrival, self._now())
        return parsed if isinstance(parsed, model.Arrival) else parsed.name

    async def _read_selection(
        self, request: web.Request, reasons: frozenset[str]
    ) -> tuple[api.Selection, dict[str, object], Filter]:
        """Return the selection, what the audit log records of it, and its store filter.

        ``reasons``: those that the selection may have.
        """
        selection = api.parse_selection(await request.read(), api.Selection)
        where = api.filter_from_selection(selection)
        api.check_reason(where.reason, reasons)
        await self._check_names(where)
        return selection, api.audited(selection), where


def _preview_response(nothing: Row, reasons: Mapping[str, int]) -> web.StreamResponse:
    """Answer a request with ``dryRun``: what it would change, in all and by reason."""
    return api.json_response({**nothing, "selected": sum(reasons.values()), "reasons": reasons})
