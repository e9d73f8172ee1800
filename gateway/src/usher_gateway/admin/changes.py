"""Handlers that change stored rows: redrive, cancel and retry deliveries, release quarantined arrivals."""

import collections
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.access.audit import Changed
from usher_gateway.admin import api, name_check, status
from usher_gateway.admin.parts import Parts
from usher_gateway.ingest.pipeline import rebuild_arrival
from usher_gateway.store.base import UNRELEASED, Change, Filter

# How many quarantined arrivals are parsed between two event loop turns; each may take some milliseconds.
_RELEASE_SLICE = 20

# Why a change leaves out all deliveries in a selection.
_LEFT_OUT: Mapping[Change, str] = {
    "redrive": "their bodies are deleted, their time limits are over, a replay sent them since, or their persons are"
    " suppressed: `usher deliveries show ID` says that of one",
    "retry": "they are held, are due already, or wait for the next trial of a destination",
}

_LOOKED_AT = 100  # The newest deliveries that explain why a change concerns none
_SUPPRESSED = "Suppressed"  # Why an arrival of a suppressed person stays in quarantine


class _Released(msgspec.Struct):
    reasons: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    """Quarantine reason -> arrivals that are visits now."""
    deliveries: int = 0
    unfit: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    """Reason -> arrivals that are still not visits, or whose person is suppressed."""


async def redrive(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/deliveries/redrive``."""
    return await _change(
        parts,
        request,
        "redrive",
        "redriven",
        lambda where, changed: parts.store.redrive(
            where, parts.clock.now(), parts.hold_reviewer.current_holds, changed.deliveries.extend
        ),
    )


async def cancel(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/deliveries/cancel``."""
    return await _change(
        parts,
        request,
        "cancel",
        "cancelled",
        lambda where, _: parts.store.cancel(where, parts.clock.now(), parts.dispatcher.forget_cancelled),
    )


async def retry(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/deliveries/retry``."""
    answer = await _change(
        parts, request, "retry", "retried", lambda where, _: parts.store.retry(where, parts.clock.now())
    )
    parts.dispatcher.ask_store()
    return answer


async def _change(
    parts: Parts, request: web.Request, change: Change, counted: str, apply: Callable[[Filter, Changed], Awaitable[int]]
) -> web.StreamResponse:
    """Change the selected deliveries; with ``dryRun`` only count them by reason."""
    with api.parsing():
        selection, audited, where = await _read_selection(parts, request, api.REASONS["/api/deliveries"])
        if selection.dry_run:
            preview = await parts.store.preview(change, where, parts.clock.now())
            more: api.Row = {
                "destinations": preview.destinations,
                "tenants": preview.tenants,
                "leftOut": preview.left_out,
                "warnings": [] if change == "cancel" else status.delivery_warnings(parts, preview.destinations),
            }
            why_none = "" if preview.reasons else await _why_none(parts, where, change, preview.left_out)
            return _preview_response({counted: 0, **more}, preview.reasons, why_none)
    async with parts.audit.change(api.actor_of(request), change, audited) as changed:
        with api.parsing():  # the store refuses states that cannot be changed so
            changed.count = await apply(where, changed)
    return api.json_response({counted: changed.count})


async def release(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/quarantine/release``: deliver what is a visit now, and give the reasons for the rest."""
    with api.parsing():
        selection, audited, where = await _read_selection(parts, request, api.REASONS["/api/quarantine"])
        if where.state not in {None, UNRELEASED}:
            raise ValueError(f"state must be {UNRELEASED}: only such arrivals can be released")
        released = _Released()
        if selection.dry_run:
            await _release(parts, where, released, is_preview=True)
            nothing = {"released": 0, "deliveries": 0, "unfit": released.unfit}
            why_none = "" if released.unfit else "the selection has no arrival in quarantine that is not released"
            return _preview_response(nothing, released.reasons, "" if released.reasons else why_none)
        async with parts.audit.change(api.actor_of(request), "release", audited) as changed:
            with api.parsing():  # the store refuses filters of deliveries
                await _release(parts, where, released, is_preview=False)
            changed.count = sum(released.reasons.values())
    answer = {"released": changed.count, "deliveries": released.deliveries, "unfit": released.unfit}
    return api.json_response(answer)


async def _release(parts: Parts, where: Filter, result: _Released, *, is_preview: bool) -> None:
    """Release slice after slice, and count what is done in ``result``.

    Requests take turns by the slice, so that each counts only what it released itself, and none waits long for others.
    """
    after: int | None = 0
    while after is not None:
        async with parts.releasing:
            after = await _release_slice(parts, where, after, result, is_preview=is_preview)


async def _release_slice(parts: Parts, where: Filter, after: int, result: _Released, *, is_preview: bool) -> int | None:
    """Release the arrivals behind a row key; return the key of the last one, or None if there was none."""
    quarantined = await parts.store.quarantined(where, _RELEASE_SLICE, after)
    parsed = [(arrival, _parse_again(parts, arrival)) for arrival in quarantined]
    readings = [*quarantined, *[visit for _, visit in parsed if isinstance(visit, model.Arrival)]]
    suppressed = await parts.store.suppressed({person for reading in readings for person in reading.person_keys})
    fit = []
    for arrival, visit in parsed:
        if not isinstance(visit, model.Arrival):
            result.unfit[visit] += 1
        elif not suppressed.isdisjoint((*arrival.person_keys, *visit.person_keys)):
            result.unfit[_SUPPRESSED] += 1
        else:
            fit.append(visit)
            assert arrival.quarantine is not None
            result.reasons[arrival.quarantine.name] += 1
    if not is_preview:
        result.deliveries += await parts.store.release(fit, parts.clock.now())
    return quarantined[-1].key if quarantined else None


def _parse_again(parts: Parts, arrival: model.Arrival) -> model.Arrival | str:
    """Parse an arrival by its listener as it is now; return the reason if it is still not a visit."""
    listener = parts.registry.listeners.get(arrival.listener.key)
    if listener is None or listener.name != arrival.listener:
        return "ListenerNotFound"
    parsed = rebuild_arrival(listener, arrival, parts.clock.now())
    return parsed if isinstance(parsed, model.Arrival) else parsed.name


async def _read_selection(
    parts: Parts, request: web.Request, reasons: frozenset[str]
) -> tuple[api.Selection, dict[str, object], Filter]:
    """Return the selection, what the audit log records of it, and its store filter.

    ``reasons``: those that the selection may have.
    """
    selection = api.parse_selection(await request.read(), api.Selection)
    where = api.confine(request, api.filter_from_selection(selection))
    api.check_reason(where.reason, reasons)
    where = await name_check.check_names(parts, where)
    return selection, api.audited(selection, where), where


async def _why_none(parts: Parts, where: Filter, change: Change, left_out: int) -> str:
    """Return why a change would change no selected delivery."""
    if left_out and change in _LEFT_OUT:
        return _LEFT_OUT[change]
    page = await parts.store.deliveries(msgspec.structs.replace(where, state=None), None, _LOOKED_AT)
    if not page.rows:
        return "the selection has no delivery"
    results = sorted({f"held {row['held']}" if row["held"] else str(row["state"]) for row in page.rows})
    return f"the newest deliveries of the selection are: {', '.join(results)}"


def _preview_response(nothing: api.Row, reasons: Mapping[str, int], why_none: str) -> web.StreamResponse:
    """Answer a request with ``dryRun``: what it would change, in all and by reason, or why it would change nothing."""
    return api.json_response(
        {**nothing, "selected": sum(reasons.values()), "reasons": reasons, "whyNone": why_none or None}
    )
