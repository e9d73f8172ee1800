"""Handlers over persons: find or export the visits of one person, suppress the person, and erase what is stored."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import api
from usher_gateway.admin.audit import AuditLog
from usher_gateway.admin.person_lookup import PersonChange, PersonLookup, PersonQuestion, parse
from usher_gateway.store.base import LONGEST_PAGE, Erasure, ErasureReport, ErasureRequest, ErasureState, Filter
from usher_gateway.store.records import Records

_EXPORTED_VISITS = 20
"""Visits in one answer of an export; each has a body of up to 256 KiB, and more if its class allows that."""


class FindRequest(PersonQuestion, frozen=True):
    """The body of ``POST /api/persons/find``."""

    cursor: str | None = None
    limit: int = 100


class ExportRequest(PersonChange, frozen=True):
    """The body of ``POST /api/persons/export``."""

    cursor: str | None = None


class EraseRequest(PersonChange, frozen=True):
    """The body of ``POST /api/persons/erase``."""

    dry_run: bool = False


class PersonHandlers:
    """The handlers of ``/api/persons``.

    Args:
        store: the store.
        lookup: finds the keys of a person.
        audit: records each search and each change.
        now: microseconds.
        wake: lets the gateway take the first step of an erasure at once.
        forget_cancelled: drops cancelled deliveries, by their row keys, from the lanes.
    """

    def __init__(
        self,
        *,
        store: Records,
        lookup: PersonLookup,
        audit: AuditLog,
        now: Callable[[], int],
        wake: Callable[[], None],
        forget_cancelled: Callable[[Sequence[int]], None],
    ) -> None:
        self._store, self._lookup, self._audit, self._now = store, lookup, audit, now
        self._wake, self._forget_cancelled = wake, forget_cancelled

    async def find(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/find`` with the arrivals of a person, newest first, of all tenants or of one.

        The audit log records that somebody looked for a person, by which field, and how many rows the answer has.
        """
        with api.parsing():
            question = await parse(request, FindRequest)
            limit = api.parse_limit({"limit": str(question.limit)})
        person = await self._lookup.person(request, question)
        with api.parsing():
            page = await self._store.of_person(person.keys, question.cursor, limit)
        suppressed_at = await self._store.tenants_suppressing(person.keys)
        await self._audit.record_look(request, "find person", person.audited, len(page.rows))
        sees_all = request[api.CALLER].permitted is None
        oldest = await self._store.oldest_arrival() if sees_all else None  # that of other tenants is not theirs to know
        return api.json_response(
            {
                "rows": page.rows,
                "nextCursor": page.next_cursor,
                "searchedAs": person.fields,
                "tenants": len(person.tenants),
                "suppressedAt": sorted(suppressed_at),
                "since": None if oldest is None else model.format_time(oldest),
            }
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/export`` with a part of what is stored of a person: visits, bodies, deliveries."""
        with api.parsing():
            question = await parse(request, ExportRequest)
        person = await self._lookup.person(request, question)
        with api.parsing():
            page = await self._store.of_person(person.keys, question.cursor, _EXPORTED_VISITS)
        exporting = {**person.audited, "reference": question.reference or None}
        await self._audit.record_look(request, "export person", exporting, len(page.rows))
        rows = [await self._exported(row) for row in page.rows]
        return api.json_response({"rows": rows, "nextCursor": page.next_cursor, "tenants": person.tenants})

    async def _exported(self, visit: Mapping[str, object]) -> Mapping[str, object]:
        """Return a visit with its body and its deliveries."""
        identifier = api.parse_id(str(visit["id"]))
        try:
            body, content_type = await self._store.body(identifier)
        except model.NotFoundError:
            exported: dict[str, object] = {"body": None}  # its retention has ended
        else:
            exported = {"body": _json_or_text(body), "contentType": content_type.decode("latin-1")}
        deliveries = await self._store.deliveries(Filter(visit=identifier), None, LONGEST_PAGE)
        return {**visit, **exported, "deliveries": deliveries.rows}

    async def suppress(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/suppress``: store and send nothing more of a person at all tenants or at one."""
        with api.parsing():
            question = await parse(request, PersonChange)
        person = await self._lookup.person(request, question)
        changing = {**person.audited, "reference": question.reference or None}
        async with self._audit.change(request, "suppress person", changing) as changed:
            changed.count = await self._store.suppress(person.keys, self._now(), self._forget_cancelled)
        return api.json_response({"tenants": len(person.tenants), "suppressed": changed.count})

    async def unsuppress(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/unsuppress``: store and send visits of a person again."""
        with api.parsing():
            question = await parse(request, PersonChange)
        person = await self._lookup.person(request, question)
        changing = {**person.audited, "reference": question.reference or None}
        async with self._audit.change(request, "unsuppress person", changing) as changed:
            changed.count = await self._store.unsuppress(person.keys)
        return api.json_response({"tenants": len(person.tenants), "unsuppressed": changed.count})

    async def list_suppressions(self, request: web.Request) -> web.StreamResponse:
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
            for suppressed in await self._store.suppressed_by_tenant()
            for namespace, _, tenant in [suppressed.tenant.partition("/")]
            if where.selects(namespace, tenant)
        ]
        return api.json_response({"rows": rows})

    async def erase(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/erase``: erase a person at all tenants or at one; with ``dryRun`` only count."""
        with api.parsing():
            question = await parse(request, EraseRequest)
        person = await self._lookup.person(request, question)
        if question.dry_run:
            report = await self._store.preview_erasure(person.keys)
            await self._audit.record_look(request, "find person", person.audited, sum(report.arrivals.values()))
            return api.json_response(_report_row(report))
        erasure_request = ErasureRequest(
            persons=tuple(sorted(person.keys)),
            tenants=person.tenants,
            fields=person.fields,
            reference=question.reference,
            requested_by=request[api.CALLER].name,
        )
        changing: dict[str, object] = {
            "fields": list(person.fields),
            "tenants": len(person.tenants),
            "reference": question.reference or None,
        }
        async with self._audit.change(request, "erase person", changing) as changed:
            erasure = await self._store.start_erasure(erasure_request, self._now())
            changing["id"], changed.count = model.format_id(erasure.id), 1
        self._wake()
        return api.json_response(erasure_row(erasure), 202)

    async def list_erasures(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/persons/erasures``: the newest ones; with ``id`` those whose id begins so."""
        prefix = request.query.get("id", "")
        rows = [erasure_row(each) for each in await self._store.list_erasures() if _may_see(request, each)]
        return api.json_response({"rows": [row for row in rows if str(row["id"]).startswith(prefix)]})

    async def show_erasure(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/persons/erasures/{id}``."""
        return api.json_response(erasure_row(await self._find_erasure(request)))

    async def cancel_erasure(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/erasures/{id}/cancel``: end the request. Erased visits stay erased."""
        erasure = await self._find_erasure(request)
        async with self._audit.change(request, "cancel erasure", {"id": model.format_id(erasure.id)}) as changed:
            changed.count = int(await self._store.cancel_erasure(erasure, self._now()))
        if not changed.count:
            raise api.ProblemError(409, "HasEnded", "the erasure has ended")
        return api.json_response(erasure_row(await self._store.find_erasure(erasure.id)))

    async def _find_erasure(self, request: web.Request) -> Erasure:
        with api.parsing():
            erasure = await self._store.find_erasure(api.parse_id(request.match_info["id"]))
        if not _may_see(request, erasure):
            raise model.NotFoundError("there is no such erasure", "use an id from `usher person requests`")
        return erasure


def _may_see(request: web.Request, erasure: Erasure) -> bool:
    """Return whether a caller may see an erasure: one that is limited, only if all its tenants are permitted."""
    where = Filter(permitted=request[api.CALLER].permitted)
    names = [tenant.partition("/") for tenant in erasure.request.tenants]
    return all(where.selects(namespace, tenant) for namespace, _, tenant in names)


def erasure_row(erasure: Erasure) -> dict[str, object]:
    """Return an erasure as JSON: its receipt, once it is completed. It has no personal data."""
    wanted = erasure.request
    return {
        "id": model.format_id(erasure.id),
        "reference": wanted.reference or None,
        "status": _STATUSES[erasure.state],
        "receivedAt": model.format_time(erasure.created_at),
        "completedAt": model.format_time(erasure.ended_at) if erasure.ended_at else None,
        "requestedBy": wanted.requested_by,
        "fields": wanted.fields,
        "tenants": len(wanted.tenants),
        **_report_row(erasure.report),
    }


def _report_row(report: ErasureReport) -> dict[str, object]:
    return {
        "arrivals": sum(report.arrivals.values()),
        "arrivalsByTenant": report.arrivals,
        "deliveries": report.deliveries,
        "sentTo": {
            destination: {
                "delivered": sent.delivered,
                "attempted": sent.attempted,
                "firstAt": model.format_time(sent.first_at) if sent.first_at else None,
                "lastAt": model.format_time(sent.last_at) if sent.last_at else None,
            }
            for destination, sent in sorted(report.sent_to.items())
        },
    }


def _json_or_text(body: bytes) -> object:
    """Return a body as JSON if it is some, or else as text, with U+FFFD for what is not UTF-8."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode(errors="replace")
    return msgspec.Raw(body)


_STATUSES = {
    ErasureState.Pending: "pending",
    ErasureState.InProgress: "in_progress",
    ErasureState.Completed: "completed",
    ErasureState.Cancelled: "cancelled",
}
"""Names of OpenDSR."""
