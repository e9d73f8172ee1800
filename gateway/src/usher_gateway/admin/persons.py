"""Handlers over persons: find or export one person's visits, and suppress the person."""

from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import api, status
from usher_gateway.admin.parts import Parts
from usher_gateway.admin.person_lookup import Person, PersonQuestion, find_person, oldest_arrival, parse, searched
from usher_gateway.store.base import LONGEST_PAGE, Filter

# An answer of an export ends after this many visits, or with the one that makes its bodies larger than these bytes.
_EXPORTED_VISITS = 20
_EXPORTED_BYTES = 1024 * 1024


class FindRequest(PersonQuestion, frozen=True):
    """The ``POST /api/persons/find`` body."""

    cursor: str | None = None
    limit: int = 100


class ExportRequest(PersonQuestion, frozen=True):
    """The ``POST /api/persons/export`` body."""

    cursor: str | None = None


class SuppressRequest(PersonQuestion, frozen=True):
    """The ``POST /api/persons/suppress`` body."""

    dry_run: bool = False


async def find(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/persons/find`` with a person's arrivals, newest first, at all tenants or at one.

    The audit log records that somebody looked for a person, by which field, and how many rows the answer has.
    """
    with api.parsing():
        question = await parse(request, FindRequest, may_guess=True)
        limit = api.parse_limit({"limit": str(question.limit)})
    person = await find_person(parts, request, question)
    with api.parsing():
        page = await parts.store.of_person(person.keys, question.cursor, limit)
    await parts.audit.record_before_answer(api.actor_of(request), "find person", person.audited, len(page.rows))
    oldest = await oldest_arrival(parts, request)
    return api.json_response(
        {
            "rows": page.rows,
            "nextCursor": page.next_cursor,
            **await searched(parts, person),
            "since": None if oldest is None else model.format_time(oldest),
            "refusing": await status.refusing_listeners(parts, person.where),
        }
    )


async def export(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/persons/export`` with a part of what is stored about a person: visits, bodies, deliveries."""
    with api.parsing():
        question = await parse(request, ExportRequest)
    person = await find_person(parts, request, question)
    rows: list[Mapping[str, object]] = []
    cursor, size = question.cursor, 0
    while len(rows) < _EXPORTED_VISITS and size < _EXPORTED_BYTES:
        with api.parsing():
            page = await parts.store.of_person(person.keys, cursor, 1)
        for visit in page.rows:
            row, length = await _exported(parts, visit)
            rows.append(row)
            size += length
        cursor = page.next_cursor
        if cursor is None:
            break
    await parts.audit.record_before_answer(api.actor_of(request), "export person", person.audited, len(rows))
    return api.json_response({"rows": rows, "nextCursor": cursor, **await searched(parts, person)})


async def _exported(parts: Parts, visit: Mapping[str, object]) -> tuple[Mapping[str, object], int]:
    """Return a visit with its body and its deliveries, and the body's length."""
    identifier = api.parse_id(str(visit["id"]))
    try:
        body, content_type = await parts.store.body(identifier)
    except model.NotFoundError:
        body = b""  # its retention has ended
        exported: dict[str, object] = {"body": None}
    else:
        exported = {"body": _json_or_text(body), "contentType": content_type.decode("latin-1")}
    deliveries = await parts.store.deliveries(Filter(visit=identifier), None, LONGEST_PAGE)
    return {**visit, **exported, "deliveries": deliveries.rows}, len(body)


async def suppress(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/persons/suppress``: store and send nothing more about a person at all tenants or at one.

    With ``dryRun`` only count what would change.
    """
    with api.parsing():
        question = await parse(request, SuppressRequest)
    person = await find_person(parts, request, question)
    if question.dry_run:
        report = await parts.store.preview_erasure(person.keys)
        await parts.audit.record_before_answer(
            api.actor_of(request), "find person", person.audited, sum(report.arrivals.values())
        )
        suppressed_at = await parts.store.tenants_suppressing(person.keys)
        suppressed, cancelled = len(person.tenants) - len(suppressed_at), report.deliveries.get("pending", 0)
    else:
        suppressed, cancelled = await _suppress(parts, request, person)
        report = await parts.store.preview_erasure(person.keys)
    counts = {"suppressed": suppressed, "cancelled": cancelled, "stored": sum(report.arrivals.values())}
    about = {"searchedAs": person.fields, "tenants": len(person.tenants)}
    return api.json_response({**about, **counts, "arrivalsByTenant": report.arrivals})


async def _suppress(parts: Parts, request: web.Request, person: Person) -> tuple[int, int]:
    """Suppress a person; return at how many tenants that is new, and how many deliveries were cancelled."""
    cancelled: list[int] = []

    def forget(keys: Sequence[int]) -> None:
        cancelled.extend(keys)
        parts.dispatcher.forget_cancelled(keys)

    async with parts.audit.change(api.actor_of(request), "suppress person", person.audited) as changed:
        changed.count = await parts.store.suppress(person.keys, parts.clock.now(), forget)
    return changed.count, len(cancelled)


async def unsuppress(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/persons/unsuppress``: store and send a person's visits again."""
    with api.parsing():
        question = await parse(request, PersonQuestion)
    person = await find_person(parts, request, question)
    async with parts.audit.change(api.actor_of(request), "unsuppress person", person.audited) as changed:
        changed.count = await parts.store.unsuppress(person.keys)
    return api.json_response({"tenants": len(person.tenants), "unsuppressed": changed.count})


async def list_suppressions(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/persons/suppressions``: each tenant that has suppressed persons, and how many."""
    where = Filter(permitted=request[api.CALLER].permitted)
    rows = [
        {
            "namespace": namespace,
            "tenant": tenant,
            "persons": suppressed.persons,
            "firstAt": model.format_time(suppressed.first_at),
            "lastAt": model.format_time(suppressed.last_at),
        }
        for suppressed in await parts.store.suppressed_by_tenant()
        for namespace, _, tenant in [suppressed.tenant.partition("/")]
        if where.selects(namespace, tenant)
    ]
    return api.json_response({"rows": rows})


def _json_or_text(body: bytes) -> object:
    """Return a body as JSON if it is some, or else as text, or as base64 if it is not UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"base64": body}  # msgspec encodes bytes so. Source: RFC 4648 §4
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return text
    return msgspec.Raw(body)
