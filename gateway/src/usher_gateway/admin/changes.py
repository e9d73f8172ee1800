"""Handlers that change stored rows: redrive, cancel and retry of deliveries, release of quarantined arrivals."""

import asyncio
import collections
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import api, listings
from usher_gateway.admin.audit import AuditLog, Changed
from usher_gateway.ingest.pipeline import rebuild_arrival
from usher_gateway.ingest.registry import LiveListener
from usher_gateway.store.base import UNRELEASED, Change, Filter, HoldsOf
from usher_gateway.store.records import Records

_RELEASE_SLICE = 20
"""How many quarantined arrivals are parsed between two turns of the event loop; each may take some milliseconds."""

_SUPPRESSED = "Suppressed"
"""Why an arrival of a suppressed person stays in quarantine."""

Row = dict[str, object]


class _Released(msgspec.Struct):
    reasons: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    """Quarantine reason -> arrivals that are visits now."""
    deliveries: int = 0
    unfit: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    """Reason -> arrivals that are still not visits, or whose person is suppressed."""


class ChangeHandlers:
    """The handlers that change deliveries, and release quarantined arrivals.

    Args:
        store: has the rows.
        now: microseconds.
        listeners: returns the listeners in force by ``namespace/name``.
        forget_cancelled: drops cancelled deliveries, by their row keys, from the lanes.
        ask_store: lets the dispatcher look for due deliveries.
        holds_of: returns what holds deliveries of a route now.
        check_names: checks the names of a selection.
        audit: records each change.
    """

    def __init__(
        self,
        *,
        store: Records,
        now: Callable[[], int],
        listeners: Callable[[], Mapping[str, LiveListener]],
        forget_cancelled: Callable[[Sequence[int]], None],
        ask_store: Callable[[], None],
        holds_of: HoldsOf,
        check_names: api.CheckNames,
        audit: AuditLog,
    ) -> None:
        self._store, self._now, self._listeners = store, now, listeners
        self._forget_cancelled, self._ask_store, self._holds_of = forget_cancelled, ask_store, holds_of
        self._check_names, self._audit = check_names, audit
        self._releasing = asyncio.Lock()
        """Held during a release, so that two requests never count the same arrival."""

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/redrive``."""
        return await self._change(
            request,
            "redrive",
            "redriven",
            lambda where, changed: self._store.redrive(where, self._now(), self._holds_of, changed.deliveries.extend),
        )

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/cancel``."""
        return await self._change(
            request,
            "cancel",
            "cancelled",
            lambda where, _: self._store.cancel(where, self._now(), self._forget_cancelled),
        )

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/retry``."""
        answer = await self._change(request, "retry", "retried", lambda where, _: self._store.retry(where, self._now()))
        self._ask_store()
        return answer

    async def _change(
        self, request: web.Request, change: Change, counted: str, apply: Callable[[Filter, Changed], Awaitable[int]]
    ) -> web.StreamResponse:
        """Change the selected deliveries; with ``dryRun`` only count them by reason."""
        with api.parsing():
            selection, audited, where = await self._read_selection(request, listings.DELIVERY_REASONS)
            if selection.dry_run:
                preview = await self._store.preview(change, where, self._now())
                more = {
                    "destinations": preview.destinations,
                    "tenants": preview.tenants,
                    "leftOut": preview.left_out,
                    "heldAgain": preview.held_again,
                }
                return _preview_response({counted: 0, **more}, preview.reasons)
        async with self._audit.change(request, change, audited) as changed:
            with api.parsing():  # the store refuses states that cannot be changed so
                changed.count = await apply(where, changed)
        return api.json_response({counted: changed.count})

    async def release(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/quarantine/release``: deliver what is a visit now, and give the reasons for the rest."""
        with api.parsing():
            selection, audited, where = await self._read_selection(request, listings.QUARANTINE_REASONS)
            if where.state not in {None, UNRELEASED}:
                raise ValueError(f"state must be {UNRELEASED}: only such arrivals can be released")
            async with self._releasing:
                released = _Released()
                if selection.dry_run:
                    await self._release(where, released, is_preview=True)
                    return _preview_response(
                        {"released": 0, "deliveries": 0, "unfit": released.unfit}, released.reasons
                    )
                async with self._audit.change(request, "release", audited) as changed:
                    with api.parsing():  # the store refuses filters of deliveries
                        await self._release(where, released, is_preview=False)
                    changed.count = sum(released.reasons.values())
        answer = {"released": changed.count, "deliveries": released.deliveries, "unfit": released.unfit}
        return api.json_response(answer)

    async def _release(self, where: Filter, result: _Released, *, is_preview: bool) -> None:
        """Release slice after slice, and count what is done in ``result``."""
        after = 0
        while quarantined := await self._store.quarantined(where, _RELEASE_SLICE, after):
            after = quarantined[-1].key
            parsed = [(arrival, self._parse_again(arrival)) for arrival in quarantined]
            visits = [visit for _, visit in parsed if isinstance(visit, model.Arrival)]
            suppressed = await self._store.suppressed({person for visit in visits for person in visit.person_keys})
            fit = []
            for arrival, visit in parsed:
                if not isinstance(visit, model.Arrival):
                    result.unfit[visit] += 1
                elif not suppressed.isdisjoint(visit.person_keys):
                    result.unfit[_SUPPRESSED] += 1
                else:
                    fit.append(visit)
                    assert arrival.quarantine is not None
                    result.reasons[arrival.quarantine.name] += 1
            if not is_preview:
                result.deliveries += await self._store.release(fit, self._now())

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
        where = api.confine(request, api.filter_from_selection(selection))
        api.check_reason(where.reason, reasons)
        where = await self._check_names(where)
        return selection, api.audited(selection, where), where


def _preview_response(nothing: Row, reasons: Mapping[str, int]) -> web.StreamResponse:
    """Answer a request with ``dryRun``: what it would change, in all and by reason."""
    return api.json_response({**nothing, "selected": sum(reasons.values()), "reasons": reasons})
