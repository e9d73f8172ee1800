"""``/api/visits``, ``/api/deliveries``, ``/api/quarantine``: pages of the store, and single bodies for operators."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from usher_gateway.admin import audit, problems, questions
from usher_gateway.admin import context as contexts
from usher_gateway.store.base import Filter, ListingPage

_List = Callable[[Filter, str | None, int], Awaitable[ListingPage]]


async def visits(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/visits``: arrivals of the ledger with their verdicts."""
    return await _page(context.store.visits, request)


async def deliveries(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/deliveries``."""
    return await _page(context.store.deliveries, request)


async def quarantine(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/quarantine``."""
    return await _page(context.store.visits, request, counted_as="Quarantined")


async def _page(list_rows: _List, request: web.Request, counted_as: str | None = None) -> web.StreamResponse:
    with problems.asking():
        where = questions.filter_of(request.query, "limit", "cursor")
        paging = questions.paging_of(request.query)
        if counted_as is not None:
            where = msgspec.structs.replace(where, counted_as=counted_as)
        page = await list_rows(where, paging.cursor, paging.limit)
    return problems.answer({"rows": page.rows, "nextCursor": page.next_cursor})


async def body(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/visits/{id}/body``: personal data, so each look is written down."""
    with problems.asking():
        identifier = questions.parse_id(request.match_info["id"])
    content, content_type = await context.store.body(identifier)
    audit.note(request, "show body", {"id": request.match_info["id"]}, 1)
    text = "".join([letter for letter in content_type.decode("latin-1") if " " <= letter <= "~"])
    return problems.raw(content, {"Usher-Content-Type": text})


async def answer(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/deliveries/{id}/answer``: what a destination said may be personal data too."""
    with problems.asking():
        identifier = questions.parse_id(request.match_info["id"])
    content = await context.store.answer(identifier)
    audit.note(request, "show answer", {"id": request.match_info["id"]}, 1)
    return problems.raw(content, {})
