"""The handler for ``/api/try``: what changed manifests would do with stored visits.

The caller's expressions read bodies, so even counts can tell what is in one. That is why a try needs its own scope, and
why the audit log records each.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
from aiohttp import web

from usher_gateway import documents, model, resources
from usher_gateway.access.problem import ProblemError
from usher_gateway.access.tokens import Caller, Scope
from usher_gateway.admin import api, name_check
from usher_gateway.admin.parts import Parts
from usher_gateway.admin.try_limits import MAX_MANIFEST_BYTES
from usher_gateway.delivery.masked_diff import ValueMask
from usher_gateway.delivery.tries import ConfiguredListener, DiffBudget, ListenerComparison, RouteResult
from usher_gateway.model import Counter
from usher_gateway.resources import conditions, manifests
from usher_gateway.resources.overlay import Overlay, overlay_documents
from usher_gateway.store.base import Filter

_MAX_DIFFS = 20  # Most differences that a caller may ask for, per route
_MAX_DIFFS_IN_ALL = 100  # Most differences of one request, of all its routes together
_MAX_VISITS = 10_000  # Most visits that a caller may ask for, per listener
_TRY_SECONDS = 20.0  # How long a request tries visits
_PAGE = 20  # Rows of visits read at once, without bodies
_BATCH_BYTES = 5 * 1024 * 1024  # Most bytes of bodies read at once, unless a single body has more

_SHOWN_PROBLEMS = 5

_NAMED_LISTENERS = 20  # Most listeners that an entry of the audit log names

_TRIED = {model.CountedAs.Visit.name, model.CountedAs.Repeat.name}


_VisitRow = dict[str, Any]  # A row of ``Store.visits``


class _TryQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    manifests: list[dict[str, object]]
    """Objects as in a manifest file. Secrets are not needed, and should not be sent."""
    since: str
    until: str | None = None
    namespace: str | None = None
    tenant: str | None = None
    listener: str | None = None
    limit: int = 1_000
    """Most visits per listener, the newest first."""
    diffs: int = 0
    """For how many visits per route the answer shows how requests differ."""
    show_values: bool = False
    """Show differences with personal data: needs the scope ``bodies:read``."""


class ListenerResult(msgspec.Struct, rename="camel", kw_only=True):
    """A change's effect on one listener."""

    namespace: str
    tenant: str
    listener: str
    in_force: bool
    """False: the listener is new, so it does nothing before the change."""
    tried: int = 0
    without_body: int = 0
    """Visits that cannot be tried, because their bodies' retention has ended."""
    in_period: int = 0
    """All visits and repeats in the period; from the meters if the try did not look at all."""
    ended_by: Literal["", "limit", "time"] = ""
    """Why older visits were not looked at; ``""``: all were."""
    oldest: str | None = None
    """When the oldest tried visit arrived."""
    dedupe_ignored: bool
    """The change also concerns ``dedupe``, which is not tried."""
    routes: list[RouteResult] = []


async def run(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/try``: evaluate changed manifests on stored visits. Nothing is sent or stored."""
    with api.parsing():
        question = _parse(await _read(request))
        where = api.filter_from_selection(
            api.Selection(
                namespace=question.namespace,
                tenant=question.tenant,
                listener=question.listener,
                since=question.since,
                until=question.until,
            )
        )
    where = api.confine(request, where)
    caller = request[api.CALLER]
    if question.show_values and Scope.BodiesRead not in caller.scopes:
        detail = f"the token `{caller.name}` may not see values: it lacks the scope {Scope.BodiesRead.value}"
        raise ProblemError(403, "Forbidden", detail, "leave out showValues, or use a token with this scope")
    async with parts.try_turns.turn(caller.permitted):
        overlay = await _overlay(parts, question.manifests, caller)
        keys = [key for key in overlay.changed_listeners if _is_selected(overlay.changed.listeners[key], where)]
        if not keys:
            await name_check.check_names(parts, where)
        results, end = [], time.monotonic() + _TRY_SECONDS
        budget = DiffBudget(_MAX_DIFFS_IN_ALL)
        for index, key in enumerate(keys):
            seconds_left = max(0.0, end - time.monotonic())
            own_end = time.monotonic() + seconds_left / (len(keys) - index)
            results.append(await _try_listener(parts, overlay, key, where, question, budget=budget, end=own_end))
    period = {
        "since": model.format_time(where.since or 0),
        "until": model.format_time(parts.clock.now() if where.until is None else where.until),
    }
    selection = {"listeners": keys[:_NAMED_LISTENERS], **period, "showValues": question.show_values}
    await parts.audit.record_before_answer(
        api.actor_of(request), "try", selection, sum(result.tried for result in results)
    )
    return api.json_response({**period, "listeners": results})


async def _overlay(parts: Parts, objects: list[dict[str, object]], caller: Caller) -> Overlay:
    """Lay the caller's manifests over the configuration in force."""
    text = msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": objects})
    loaded = await asyncio.to_thread(manifests.load_manifests, text, "manifests")
    tried = [loaded_object.resource for loaded_object in loaded.objects]
    _check_permitted(tried, caller)
    sources = ((source, where) for resource in tried for _, source, where in resource.expressions)
    await parts.try_turns.compiling.prepare(sources, has_pauses=False)
    overlay = await asyncio.to_thread(overlay_documents, _visible(parts.state.snapshot, caller), tried)
    problems = [
        *loaded.problems,
        *manifests.locate(
            overlay.findings,
            {loaded_object.resource.identity: loaded_object for loaded_object in loaded.objects},
            loaded,
        ),
    ]
    if conditions.has_errors(problems):
        errors = [problem for problem in problems if problem.severity == "error"]
        first_errors = "; ".join(
            [f"{problem.resource}: {problem.path}: {problem.message}" for problem in errors[:_SHOWN_PROBLEMS]]
        )
        raise ProblemError(400, "ManifestsRejected", first_errors, "`usher check` lists every problem with its line")
    return overlay


async def _try_listener(
    parts: Parts, overlay: Overlay, key: str, where: Filter, question: _TryQuestion, *, budget: DiffBudget, end: float
) -> ListenerResult:
    changed, in_force = overlay.changed.listeners[key], overlay.in_force.listeners.get(key)
    if in_force is not None and in_force.tenant.name != changed.tenant.name:
        in_force = None  # it belongs to another company, so it is another listener
    transforms = _transforms(overlay, [document for document in (in_force, changed) if document is not None])
    comparison = ListenerComparison(
        in_force=ConfiguredListener(in_force, overlay.in_force.destinations, parts.keys)
        if in_force is not None
        else None,
        changed=ConfiguredListener(changed, overlay.changed.destinations, parts.keys),
        diffs=question.diffs,
        budget=budget,
        mask=None if question.show_values else ValueMask(transforms),
    )
    visits = msgspec.structs.replace(
        where, namespace=changed.namespace, tenant=changed.tenant.name, listener=changed.name
    )
    result = ListenerResult(
        namespace=changed.namespace,
        tenant=changed.tenant.name,
        listener=changed.name,
        in_force=in_force is not None,
        dedupe_ignored=in_force is not None and _dedupe(in_force) != _dedupe(changed),
    )
    await _take_visits(parts, result, comparison, visits, question.limit, end)
    result.routes = await comparison.results()
    result.in_period = result.tried + result.without_body
    if result.ended_by:
        result.in_period = max(result.in_period, await _count(parts, visits))
    return result


async def _take_visits(
    parts: Parts, result: ListenerResult, comparison: ListenerComparison, where: Filter, limit: int, end: float
) -> None:
    """Try visits, the newest first, up to a visit limit and a time limit."""
    cursor = None
    while True:
        if time.monotonic() > end:  # a page may be empty and have a next one
            result.ended_by = "time"
            return
        page = await parts.store.visits(where, cursor, _PAGE)
        for batch in _batches(row for row in page.rows if row["countedAs"] in _TRIED):
            result.ended_by = await _take_batch(parts, result, comparison, batch, limit, end)
            if result.ended_by:
                return
        cursor = page.next_cursor
        if cursor is None:
            return


def _batches(rows: Iterable[_VisitRow]) -> Iterator[list[_VisitRow]]:
    """Divide visit rows into lists whose bodies may be in memory at once."""
    batch, size = list[_VisitRow](), 0
    for row in rows:
        size += row["bodyBytes"]
        if batch and size > _BATCH_BYTES:
            yield batch
            batch, size = [], row["bodyBytes"]
        batch.append(row)
    if batch:
        yield batch


async def _take_batch(
    parts: Parts, result: ListenerResult, comparison: ListenerComparison, rows: list[_VisitRow], limit: int, end: float
) -> Literal["", "limit", "time"]:
    """Try visits whose bodies are read at once. Returns why older ones must not be tried, or ``""``."""
    identifiers = [model.parse_id(row["id"]) for row in rows]
    stored = await parts.store.stored_arrivals([model.key_of(identifier) for identifier in identifiers])
    arrivals = {arrival.key: arrival for arrival in stored}
    for identifier, row in zip(identifiers, rows, strict=True):
        if result.tried >= limit or time.monotonic() > end:
            return "limit" if result.tried >= limit else "time"
        arrival = arrivals.get(model.key_of(identifier))
        if arrival is None:
            result.without_body += 1
            continue
        is_repeat = row["countedAs"] == model.CountedAs.Repeat.name
        if not await comparison.take(arrival, identifier, is_repeat=is_repeat, end=end):
            return "time"
        result.tried, result.oldest = comparison.tried, row["receivedAt"]
    return ""


async def _count(parts: Parts, where: Filter) -> int:
    """Return how many visits and repeats the meters counted; each slot (15 minutes) counts as a whole."""
    slot = model.SLOT_SECONDS * model.MICROSECONDS
    since = (where.since or 0) // slot * slot
    until = -(-(where.until or parts.clock.now() + 1) // slot) * slot
    counted = await parts.store.usage(since, until, where, "month")
    return sum(row.counts.get(counter, 0) for row in counted for counter in (Counter.visits, Counter.repeats))


async def _read(request: web.Request) -> bytes:
    """Return a request's body, which may be larger than in other requests."""
    content = bytearray()
    async for chunk in request.content.iter_any():
        content += chunk
        if len(content) > MAX_MANIFEST_BYTES:
            detail = f"the manifests have more than {MAX_MANIFEST_BYTES} bytes"
            raise ProblemError(413, "RequestEntityTooLarge", detail, "try fewer listeners at once")
    return bytes(content)


def _parse(content: bytes) -> _TryQuestion:
    """Parse the question."""
    question = api.decode(content, _TryQuestion, "a try")
    if not 1 <= question.limit <= _MAX_VISITS:
        raise ValueError(f"limit must be a number from 1 to {_MAX_VISITS}")
    if not 0 <= question.diffs <= _MAX_DIFFS:
        raise ValueError(f"diffs must be a number from 0 to {_MAX_DIFFS}")
    return question


def _dedupe(document: documents.ListenerDocument) -> tuple[object, ...]:
    return document.dedupe_per, document.window_seconds, document.redelivery_seconds


def _is_selected(document: documents.ListenerDocument, where: Filter) -> bool:
    return where.selects(document.namespace, document.tenant.name) and where.listener in {None, document.name}


def _check_permitted(objects: Iterable[resources.Resource], caller: Caller) -> None:
    """Check that manifests are only about tenants that the caller may see."""
    permitted = Filter(permitted=caller.permitted)
    for resource in objects:
        if isinstance(resource, resources.Listener):
            namespace, tenant = resource.owner
        elif isinstance(resource, resources.Tenant):
            namespace, tenant = resource.metadata.namespace, resource.metadata.name
        else:  # a Destination is tried on the visits of permitted listeners only
            continue
        if not permitted.selects(namespace, tenant):
            detail = (
                f"the token `{caller.name}` may not try {resource.kind} {resource.key}: it is limited to other tenants"
            )
            raise ProblemError(403, "Forbidden", detail, "try only the listeners of its tenants")


def _visible(snapshot: documents.Snapshot, caller: Caller) -> documents.Snapshot:
    """Return a configuration without the destinations to which no route from the caller's tenants leads."""
    if caller.permitted is None:
        return snapshot
    permitted = Filter(permitted=caller.permitted)
    listeners = [
        listener
        for listener in snapshot.listeners.values()
        if permitted.selects(listener.namespace, listener.tenant.name)
    ]
    keys = {route.destination for listener in listeners for route in listener.routes}
    return documents.Snapshot(
        snapshot.listeners, {key: document for key, document in snapshot.destinations.items() if key in keys}
    )


def _transforms(overlay: Overlay, listeners: Iterable[documents.ListenerDocument]) -> str:
    """Return the text for every transform that a listener's routes use in either configuration."""
    routes = [route for document in listeners for route in document.routes]
    used = [
        snapshot.destinations[route.destination].transform
        for snapshot in (overlay.in_force, overlay.changed)
        for route in routes
        if route.destination in snapshot.destinations
    ]
    return "\n".join([*[route.transform for route in routes], *used])
