"""The handlers for ``/api/replays``: deliver again what routes skipped, delivered, or could not deliver."""

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.access.problem import ProblemError
from usher_gateway.access.tokens import Scope
from usher_gateway.admin import api, name_check, status
from usher_gateway.admin.parts import Parts
from usher_gateway.store.base import (
    Filter,
    Replay,
    ReplayPreview,
    ReplayReport,
    ReplayRequest,
    ReplaySample,
    ReplayState,
)
from usher_gateway.store.jobs.replays import MOST_RECENT, MOST_RUNNING
from usher_gateway.words import listings, replay_words

_DEFAULT_PER_SECOND = 20
_MOST_PER_SECOND = 1_000

_RESULTS = frozenset([*listings.SKIP_REASONS, *replay_words.STATES])  # All that a replay may select

# Result -> what replaying it means for the route's filter.
_FILTER_NOTES = {
    "Filter": "The filter `when` is not asked again: a replay sends what it excluded, whatever it says now.",
    "cancelled": "The filter `when` is not asked again of cancelled deliveries, except of those that were cancelled "
    "while it failed.",
}


class ReplaySelection(api.Selection, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The ``POST /api/replays`` body. ``reason`` and ``state`` may have several values, with commas between."""

    per_second: int = _DEFAULT_PER_SECOND
    ignore_once_per: bool = False
    ignore_expiry: bool = False
    ignore_pause: bool = False


async def start(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/replays``: start a replay; with ``dryRun`` only count and show what it would deliver."""
    with api.parsing():
        selection = api.parse_selection(await request.read(), ReplaySelection)
        replay_request = await _parse(parts, request, selection)
        if not (selection.dry_run or selection.reason or selection.state):
            raise ValueError(
                "name what to replay: skip reasons in `reason`, such as Paused,Filter, or states in `state`"
            )
    if selection.dry_run:
        preview = await _preview(parts, replay_request)
        row = _preview_row(preview) | {
            "warnings": [
                *status.delivery_warnings(parts, preview.destinations),
                *[note for result, note in _FILTER_NOTES.items() if preview.report.results.get(result)],
            ],
            "whyNone": None if preview.report.created else await _why_none(parts, replay_request, preview),
        }
        if Scope.VisitsRead not in request[api.CALLER].scopes:
            row["sample"] = []
        return api.json_response(row)
    await _check_room(parts, replay_request)
    async with parts.audit.change(
        api.actor_of(request), "replay", api.audited(selection, replay_request.where)
    ) as changed:
        replay = await parts.store.start_replay(replay_request, parts.clock.now())
        changed.id, changed.count = replay.id, 1
    parts.replays.wake()
    return api.json_response(_row(replay), 201)


async def _preview(parts: Parts, replay_request: ReplayRequest) -> ReplayPreview:
    return await parts.store.preview_replay(
        replay_request,
        parts.clock.now(),
        mark_of_route=parts.pipeline.mark_of_route,
        is_paused=parts.route_documents.is_paused,
    )


async def _why_none(parts: Parts, replay_request: ReplayRequest, preview: ReplayPreview) -> str:
    """Return why a replay would create nothing."""
    if any(_left_out(preview.report).values()) or preview.waiting or preview.held:
        return "all that could be replayed is left out"
    whole_preview = await _preview(parts, msgspec.structs.replace(replay_request, results=_RESULTS))
    results = ", ".join(sorted(whole_preview.report.results))
    return f"the selection has only: {results}" if results else "the selection has nothing that can be replayed"


async def _parse(parts: Parts, request: web.Request, selection: ReplaySelection) -> ReplayRequest:
    """Return a selection's request; one without a reason and a state selects all that can be replayed."""
    reasons, states = (
        [name for name in (text or "").split(",") if name] for text in (selection.reason, selection.state)
    )
    for reason in reasons:
        api.check_reason(reason, listings.SKIP_REASONS)
    if unknown := set(states) - set(replay_words.STATES):
        raise ValueError(f"state must be of {', '.join(replay_words.STATES)}, not {min(unknown)[:50]!r}")
    if not 1 <= selection.per_second <= _MOST_PER_SECOND:
        raise ValueError(f"perSecond must be a number from 1 to {_MOST_PER_SECOND}")
    where = api.filter_from_selection(msgspec.structs.replace(selection, reason=None, state=None))
    if where.visit is not None or where.replay is not None:
        raise ValueError("visit and replay select deliveries; select visits with their ids")
    if where.since is not None and where.until is not None and where.since >= where.until:
        raise ValueError("since is not before until, so the selection has no visit")
    if where == Filter() and not selection.all and not reasons:
        raise ValueError('select visits, or send {"all": true} for every one')
    where = api.confine(request, where)
    where = await name_check.check_names(parts, where)
    return ReplayRequest(
        where=where,
        results=frozenset([*reasons, *states]) or _RESULTS,
        per_second=selection.per_second,
        ignores_once_per=selection.ignore_once_per,
        ignores_expiry=selection.ignore_expiry,
        ignores_pause=selection.ignore_pause,
        started_by=request[api.CALLER].name,
    )


async def list_replays(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/replays``: the newest ones; with ``id`` those whose id begins so."""
    with api.parsing():
        limit = api.parse_limit(request.query)
    prefix = request.query.get("id", "")

    def is_asked_for(replay: Replay) -> bool:
        return _may_see(request, replay) and model.format_id(replay.id).startswith(prefix)

    rows = [_row(replay) for replay in await parts.store.list_replays(is_asked_for)]
    return api.json_response({"rows": rows[:limit]})


async def show(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/replays/{id}``."""
    return api.json_response(_row(await _find(parts, request)))


async def cancel(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/replays/{id}/cancel``: end a replay, and cancel its waiting deliveries."""
    replay = await _find(parts, request)
    async with parts.audit.change(
        api.actor_of(request), "cancel replay", {"id": model.format_id(replay.id)}
    ) as changed:
        await parts.store.cancel_replay(replay, parts.clock.now())
        changed.count = await parts.store.cancel(
            Filter(replay=replay.id), parts.clock.now(), parts.dispatcher.forget_cancelled
        )
    return await _answer(parts, replay)


async def resume(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/replays/{id}/resume``: let a cancelled replay go on where it was."""
    replay = await _find(parts, request)
    await _check_room(parts, replay.request)
    async with parts.audit.change(
        api.actor_of(request), "resume replay", {"id": model.format_id(replay.id)}
    ) as changed:
        changed.count = int(await parts.store.resume_replay(replay, parts.clock.now()))
    if not changed.count:
        raise _not_cancelled(await parts.store.find_replay(replay.id))
    parts.replays.wake()
    return await _answer(parts, replay)


async def _check_room(parts: Parts, replay_request: ReplayRequest) -> None:
    if not await parts.store.has_room_for_replay(replay_request, parts.clock.now()):
        detail = (
            f"{MOST_RUNNING} replays of the tenant, or of the token's tenants, have not ended, or a limited token has "
            f"started {MOST_RECENT:,} in 30 days"
        )
        raise ProblemError(429, "TooManyReplays", detail, "select more visits at once, and see `usher replays`")


async def _find(parts: Parts, request: web.Request) -> Replay:
    with api.parsing():
        identifier = api.parse_id(request.match_info["id"])
    replay = await parts.store.find_replay(identifier)
    if not _may_see(request, replay):
        raise model.NotFoundError("there is no such replay", "use an id from `usher replays`")
    return replay


async def _answer(parts: Parts, replay: Replay) -> web.StreamResponse:
    return api.json_response(_row(await parts.store.find_replay(replay.id)))


def _may_see(request: web.Request, replay: Replay) -> bool:
    """Return whether a caller may see a replay: a limited one, only replays that were limited to the same or less."""
    permitted, replayed = Filter(permitted=request[api.CALLER].permitted), replay.request.where.permitted
    if replayed is None:
        return permitted.permitted is None
    return all(permitted.selects(*limit.split("/")) for limit in replayed)


def _not_cancelled(replay: Replay) -> ProblemError:
    """Return the error for a replay that cannot be resumed, with the state that it has."""
    hint, cancelled = "", replay.deliveries.get("cancelled", 0)
    if replay.state is ReplayState.Done and cancelled:
        short = model.format_id(replay.id)[: listings.SHORT_ID]
        count = listings.counted(cancelled, "cancelled delivery")
        hint = f"`usher deliveries redrive --replay {short} --state cancelled` starts its {count} again"
    state = "runs" if replay.state is ReplayState.Running else f"is {replay.state.name.lower()}"
    return ProblemError(409, "NotCancelled", f"only a cancelled replay can be resumed, and this one {state}", hint)


def _preview_row(preview: ReplayPreview) -> api.Row:
    return {
        "selected": preview.report.created,
        "reasons": preview.report.results,
        "destinations": preview.destinations,
        "tenants": preview.tenants,
        "leftOut": {**_left_out(preview.report), "waiting": preview.waiting, "held": preview.held},
        "complete": preview.is_complete,
        "sample": [_sample_row(sample) for sample in preview.sample],
    }


def _sample_row(sample: ReplaySample) -> api.Row:
    listener = sample.route.listener
    return {
        "visit": model.format_id(sample.visit),
        "receivedAt": model.format_time(sample.received_at),
        "namespace": listener.namespace,
        "tenant": listener.tenant,
        "listener": listener.listener,
        "route": sample.route.route,
        "destination": sample.route.destination,
        "result": sample.result,
    }


def _left_out(report: ReplayReport) -> dict[str, int]:
    return {
        "replayedBefore": report.replayed_before,
        "withoutBody": report.without_body,
        "oncePer": report.once_per,
        "expired": report.expired,
        "paused": report.paused,
        "suppressed": report.suppressed,
    }


def _row(replay: Replay) -> api.Row:
    return {
        "id": model.format_id(replay.id),
        "state": replay.state.name.lower(),
        "startedAt": model.format_time(replay.created_at),
        "startedBy": replay.request.started_by,
        "endedAt": model.format_time(replay.ended_at) if replay.ended_at else None,
        "created": replay.report.created,
        "reasons": replay.report.results,
        "leftOut": _left_out(replay.report),
        "deliveries": replay.deliveries,
        "reachedAt": model.format_time(replay.reached_at) if replay.reached_at else None,
        "perSecond": replay.request.per_second,
        "ignored": [
            name
            for name, is_ignored in (
                ("oncePer", replay.request.ignores_once_per),
                ("expiry", replay.request.ignores_expiry),
                ("pause", replay.request.ignores_pause),
            )
            if is_ignored
        ],
        "selection": _selection_row(replay.request),
    }


def _selection_row(request: ReplayRequest) -> api.Row:
    """Return what a replay selects; many ids as their number."""
    where = request.where
    row: api.Row = {
        name: getattr(where, name)
        for name in ("namespace", "tenant", "listener", "route", "destination")
        if getattr(where, name) is not None
    }
    row |= {
        name: model.format_time(at) for name, at in (("since", where.since), ("until", where.until)) if at is not None
    }
    if where.ids:
        row["ids"] = len(where.ids)
    return row | {"results": sorted(request.results)}
