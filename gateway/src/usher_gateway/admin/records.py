"""Handlers over stored rows: list visits, deliveries and quarantine, show bodies, redrive, replay and release."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import api
from usher_gateway.ingest.pipeline import rebuild_arrival
from usher_gateway.ingest.registry import LiveListener
from usher_gateway.store.base import Filter, ListingPage, Store

_RELEASE_SLICE = 20
"""How many quarantined arrivals are parsed between two turns of the event loop; each may take some milliseconds."""

_ListRows = Callable[[Filter, str | None, int], Awaitable[ListingPage]]


class _Released(msgspec.Struct):
    arrivals: int = 0
    deliveries: int = 0
    unfit: dict[str, int] = msgspec.field(default_factory=dict)
    """Reason -> arrivals that are still not visits."""


class RecordHandlers:
    """The handlers of ``/api/visits``, ``/api/deliveries`` and ``/api/quarantine``."""

    def __init__(
        self,
        *,
        store: Store,
        now: Callable[[], int],
        listeners: Callable[[], Mapping[str, LiveListener]],
    ) -> None:
        """``now`` returns microseconds; ``listeners`` returns the listeners in force by ``namespace/name``."""
        self._store, self._now, self._listeners = store, now, listeners
        self._releasing = asyncio.Lock()
        """Held during a release, so that two requests never count the same arrival."""

    async def list_visits(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits``: the ledger's arrivals with their verdicts."""
        return await self._list(self._store.visits, request)

    async def list_deliveries(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/deliveries``."""
        return await self._list(self._store.deliveries, request)

    async def list_quarantined(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/quarantine``."""
        return await self._list(self._store.visits, request, counted_as="Quarantined")

    async def _list(
        self, list_rows: _ListRows, request: web.Request, counted_as: str | None = None
    ) -> web.StreamResponse:
        with api.parsing():
            where = api.parse_filter(request.query, "limit", "cursor")
            paging = api.parse_paging(request.query)
            if counted_as is not None:
                where = msgspec.structs.replace(where, counted_as=counted_as)
            page = await list_rows(where, paging.cursor, paging.limit)
        return api.json_response({"rows": page.rows, "nextCursor": page.next_cursor})

    async def show_body(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits/{id}/body``. A body is personal data, so the audit log records each request."""
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        content, content_type = await self._store.body(identifier)
        api.audit(request, "show body", {"id": request.match_info["id"]}, 1)
        text = "".join([letter for letter in content_type.decode("latin-1") if " " <= letter <= "~"])
        return api.raw_response(content, {"Usher-Content-Type": text})

    async def show_answer(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/deliveries/{id}/answer``. A destination's answer may be personal data too."""
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        content = await self._store.answer(identifier)
        api.audit(request, "show answer", {"id": request.match_info["id"]}, 1)
        return api.raw_response(content, {})

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/redrive``."""
        with api.parsing():
            selection, where = await _read_selection(request)
            count = await self._store.redrive(where, self._now())
        api.audit(request, "redrive", selection, count)
        return api.json_response({"redriven": count})

    async def replay(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/visits/replay``."""
        with api.parsing():
            selection, where = await _read_selection(request)
            count = await self._store.replay(where, self._now())
        api.audit(request, "replay", selection, count)
        return api.json_response({"replayed": count})

    async def release(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/quarantine/release``: deliver what is a visit now, and give the reasons for the rest."""
        with api.parsing():
            selection, where = await _read_selection(request)
            async with self._releasing:
                released = await self._release(where)
        api.audit(request, "release", selection, released.arrivals)
        return api.json_response(
            {"released": released.arrivals, "deliveries": released.deliveries, "unfit": released.unfit}
        )

    async def _release(self, where: Filter) -> _Released:
        result, after = _Released(), 0
        while found := await self._store.quarantined(where, _RELEASE_SLICE, after):
            after = found[-1].key
            fit = []
            for arrival in found:
                parsed = self._parse_again(arrival)
                if isinstance(parsed, model.Arrival):
                    fit.append(parsed)
                else:
                    result.unfit[parsed] = result.unfit.get(parsed, 0) + 1
            result.deliveries += await self._store.release(fit, self._now())
            result.arrivals += len(fit)
        return result

    def _parse_again(self, arrival: model.Arrival) -> model.Arrival | str:
        """Parse an arrival by its listener as it is now; return the reason if it is still not a visit."""
        listener = self._listeners().get(arrival.listener.key)
        if listener is None or listener.name != arrival.listener:
            return "ListenerNotFound"
        parsed = rebuild_arrival(listener, arrival, self._now())
        return parsed if isinstance(parsed, model.Arrival) else parsed.name


async def _read_selection(request: web.Request) -> tuple[dict[str, object], Filter]:
    """Return the selection as the audit log records it, and as a store filter."""
    selection = api.parse_selection(await request.read())
    audited = {name: value for name, value in msgspec.to_builtins(selection).items() if value}
    if "ids" in audited:
        audited["ids"] = len(selection.ids)
    return audited, api.filter_from_selection(selection)
