"""Handlers over erasures: preview and start one, follow it, and give its signed receipt."""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.access.problem import ProblemError
from usher_gateway.admin import api, receipts
from usher_gateway.admin.parts import Parts
from usher_gateway.admin.person_lookup import PersonQuestion, find_person, oldest_arrival, parse, searched
from usher_gateway.store.base import Erasure, ErasureReport, ErasureRequest, ErasureState, Filter, ForwardedErasure


class EraseRequest(PersonQuestion, frozen=True):
    """The ``POST /api/persons/erase`` body."""

    forward: bool = False
    """Ask the destinations that have got visits of the person, and declare how, to erase the person too."""
    dry_run: bool = False


async def erase(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/persons/erase``: erase a person at all tenants or at one; with ``dryRun`` only count."""
    with api.parsing():
        question = await parse(request, EraseRequest)
    person = await find_person(parts, request, question)
    (field,) = person.fields
    if question.dry_run:
        report = await parts.store.preview_erasure(person.keys)
        await parts.audit.record_before_answer(
            api.actor_of(request), "find person", person.audited, sum(report.arrivals.values())
        )
        destinations = parts.erasure_forwarder.declaring(report, field) if question.forward else []
        found = {**_report_row(report, {}), **await searched(parts, person)}
        return api.json_response({**found, "forwardsTo": destinations})
    erasure_request = ErasureRequest(
        persons=tuple(sorted(person.keys)),
        tenants=person.tenants,
        fields=person.fields,
        reference=question.reference,
        requested_by=request[api.CALLER].name,
        since=await oldest_arrival(parts, request) or 0,
        store="SQLite" if parts.settings.store is None else "PostgreSQL",
        backup_days=parts.settings.backup_days,
    )
    selection = person.audited | {"tenants": len(person.tenants)}
    if question.forward:
        report = await parts.store.preview_erasure(person.keys)
        destinations = parts.erasure_forwarder.declaring(report, field)
        forwarding = selection | {"destinations": destinations}
        await parts.audit.record_before_answer(api.actor_of(request), "forward erasure", forwarding, len(destinations))
        forwarded = await parts.erasure_forwarder.forward(destinations, report, field, question.value.strip())
        erasure_request = msgspec.structs.replace(erasure_request, forwarded=forwarded)
    async with parts.audit.change(api.actor_of(request), "erase person", selection) as changed:
        erasure = await parts.store.start_erasure(erasure_request, parts.clock.now())
        changed.id, changed.count = erasure.id, 1
    parts.erasures.wake()
    return api.json_response(erasure_row(erasure), 202)


async def list_erasures(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/persons/erasures``: the newest ones; with ``id`` those whose id begins so."""
    with api.parsing():
        limit = api.parse_limit(request.query)
    prefix = request.query.get("id", "")

    def is_asked_for(erasure: Erasure) -> bool:
        return _may_see(request, erasure) and model.format_id(erasure.id).startswith(prefix)

    rows = [erasure_row(erasure) for erasure in await parts.store.list_erasures(is_asked_for)]
    return api.json_response({"rows": rows[:limit]})


async def show(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/persons/erasures/{id}``; once the request has ended, with its signed receipt."""
    return api.json_response(_receipt(parts, await _find_erasure(parts, request)))


async def cancel(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/persons/erasures/{id}/cancel``: end the request. Erased visits stay erased."""
    erasure = await _find_erasure(parts, request)
    async with parts.audit.change(
        api.actor_of(request), "cancel erasure", {"id": model.format_id(erasure.id)}
    ) as changed:
        changed.count = int(await parts.store.cancel_erasure(erasure, parts.clock.now()))
    if not changed.count:
        raise ProblemError(409, "HasEnded", "the erasure has ended")
    return api.json_response(_receipt(parts, await parts.store.find_erasure(erasure.id)))


def _receipt(parts: Parts, erasure: Erasure) -> dict[str, object]:
    row = erasure_row(erasure)
    return receipts.sign(row, parts.keys) if erasure.ended_at else row


async def _find_erasure(parts: Parts, request: web.Request) -> Erasure:
    with api.parsing():
        identifier = api.parse_id(request.match_info["id"])
    erasure = await parts.store.find_erasure(identifier)
    if not _may_see(request, erasure):
        raise model.NotFoundError("there is no such erasure", "use an id from `usher person requests`")
    return erasure


def _may_see(request: web.Request, erasure: Erasure) -> bool:
    """Return whether a caller may see an erasure: one that is limited, only if all its tenants are permitted.

    An erasure at no tenant is seen by who requested it, and by callers that are not limited.
    """
    caller = request[api.CALLER]
    if not erasure.request.tenants:
        return caller.permitted is None or caller.name == erasure.request.requested_by
    where = Filter(permitted=caller.permitted)
    names = [tenant.partition("/") for tenant in erasure.request.tenants]
    return all(where.selects(namespace, tenant) for namespace, _, tenant in names)


def erasure_row(erasure: Erasure) -> dict[str, object]:
    """Return an erasure as JSON, without personal data; once it has ended, this is what the receipt signs."""
    request = erasure.request
    return {
        "id": model.format_id(erasure.id),
        "reference": request.reference or None,
        "status": _STATUSES[erasure.state],
        "receivedAt": model.format_time(erasure.created_at),
        "completedAt": model.format_time(erasure.ended_at) if erasure.ended_at else None,
        "requestedBy": request.requested_by,
        "fields": request.fields,
        "tenants": len(request.tenants),
        "since": model.format_time(request.since) if request.since else None,
        "store": request.store or None,
        "backups": _backups_row(erasure),
        **_report_row(erasure.report, request.forwarded),
    }


def _backups_row(erasure: Erasure) -> dict[str, object] | None:
    """Return until when backups have what was erased; None while that is unknown."""
    days = erasure.request.backup_days
    if not days or not erasure.ended_at:
        return None
    return {"days": days, "goneBy": model.format_time(erasure.ended_at + days * model.DAY)}


def _report_row(report: ErasureReport, forwarded: Mapping[str, ForwardedErasure]) -> dict[str, object]:
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
                "forwarded": _forwarded_row(forwarded.get(destination)),
            }
            for destination, sent in sorted(report.sent_to.items())
        },
    }


def _forwarded_row(answer: ForwardedErasure | None) -> dict[str, object] | None:
    """Return how a destination answered; None: it was not asked."""
    if answer is None:
        return None
    return {"at": model.format_time(answer.at), "status": answer.status or None, "error": answer.error or None}


# OpenDSR names.
_STATUSES = {
    ErasureState.Pending: "pending",
    ErasureState.InProgress: "in_progress",
    ErasureState.Completed: "completed",
    ErasureState.Cancelled: "cancelled",
}
