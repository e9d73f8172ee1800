"""Handlers that show what the gateway runs and how it does, without secrets."""

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib import parse

import msgspec
from aiohttp import web

from usher_gateway import config_secret, destinations, documents, model, timing
from usher_gateway.admin import api, name_check, tenant_rows, usage
from usher_gateway.admin.parts import Parts
from usher_gateway.admin.tenant_rows import JsonObject
from usher_gateway.config import SourceStatus
from usher_gateway.ingest.registry import LiveListener
from usher_gateway.insight import health
from usher_gateway.insight.tenants import DeliveryCounts, TenantKey, count_deliveries
from usher_gateway.resources import conditions
from usher_gateway.store.base import Filter, UsageRow
from usher_gateway.words import next_step, states

# If the API server has answered nothing for this long, neither the watch nor the check each minute works.
_SILENCE_MICROSECONDS = 120 * model.MICROSECONDS

_State = TypeVar("_State", bound=states.State)


async def readyz(parts: Parts, _: web.Request) -> web.StreamResponse:
    """Answer ``GET /readyz``.

    Warnings leave the gateway ready, because it serves without the API server, and refuses and counts visits itself
    while little disk is free.
    """
    reasons = await _not_ready_reasons(parts)
    answer = {"ready": not reasons, "reasons": reasons, "warnings": _warnings(parts)}
    return api.json_response(answer, 503 if reasons else 200)


def _warnings(parts: Parts) -> list[str]:
    """Return why the configuration is absent or may be old, and that the disk or the clock needs attention."""
    warnings = []
    source = parts.source.status()
    if source.is_empty and not parts.state.configured.is_set():
        warnings.append(f"every arrival gets 503: {source.waits_for}")
    heard = source.heard_at
    if heard and parts.clock.now() - heard >= _SILENCE_MICROSECONDS:
        since = model.format_time(heard)
        warnings.append(f"the API server has answered nothing since {since}: the configuration of that time is served")
    store = parts.store.statistics()
    if store.is_disk_low:
        warnings.append("little disk is free: visits get 503 (LowDisk)")
    if parts.clock.jump():
        seconds = parts.clock.jump() // model.MICROSECONDS
        warnings.append(f"the clock jumped {seconds} s ahead: retention and expiry wait for a confirmation")
    return warnings


async def _not_ready_reasons(parts: Parts) -> list[str]:
    """Return why the gateway is not ready.

    A short outage is not a reason, because arrivals wait for its end. Nor is a new install without any document,
    because an installer waits for ready pods before it applies the first Listener.
    """
    reasons = []
    source = parts.source.status()
    if not parts.state.configured.is_set() and not source.is_empty:
        reason = source.waits_for
        reasons.append(f"no configuration is loaded yet: {reason}" if reason else "no configuration is loaded yet")
    elif not parts.state.is_public_port_open:
        reasons.append("the public port is not open yet")
    if parts.state.is_draining:
        reasons.append("draining")
    outage = await parts.store.outage()
    if outage is not None:
        reasons.append(f"the store is away: {outage}")
    return reasons


async def show_config(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/config``: the whole state, or what changed ``since`` an earlier answer's cursor."""
    status = parts.source.status()
    changes = await parts.health.since(request.query.get("since"))
    listener_states = health.states_of_type(changes, states.ListenerState)
    destination_states = health.states_of_type(changes, states.DestinationState)
    return api.json_response(
        {
            "cursor": changes.cursor,
            "complete": changes.complete,
            "documents": await api.encode_each(health.document_states(changes)),
            "removed": [{"kind": kind, "key": key} for what, kind, key in changes.removed if what == "document"],
            "now": model.format_time(parts.clock.now()),
            "source": status.origin,
            "appliedAt": model.time_or_none(parts.state.applied_at),
            "heardAt": model.time_or_none(status.heard_at),
            "everythingRead": status.everything_read,
            "removalsHalted": status.removals_halted,
            "rejected": [_problem(problem) for problem in status.rejected],
            "vanished": [_vanished(status, *identity) for identity in status.vanished],
            "listeners": await _encode_states(functools.partial(_listener_health, parts), listener_states),
            "destinations": await _encode_states(
                lambda key, state: {"applied": _applied_hash(parts, "Destination", key), **_fields(state)},
                destination_states,
            ),
        }
    )


async def list_listeners(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/listeners``: each listener in force with its health and today's counts (UTC)."""
    where = await _read_names(parts, request)
    today = parts.clock.now() // model.DAY * model.DAY
    metered = await parts.store.usage(today, today + model.DAY, where, "day")
    rows_by_listener = {row.listener: [row] for row in metered}
    snapshot = parts.state.snapshot

    def row(key: str, live: LiveListener) -> JsonObject:
        document = snapshot.listeners[key]
        state = parts.health.listener(key, document)
        faults = states.faults_of(state, document)
        return {
            **listener_row(live),
            "warnings": document.warnings or (),
            "faults": faults,
            "faultsSince": {fault: health.fault_since(fault, state, live.counters, parts.clock) for fault in faults},
            **_listener_health(parts, key, state),
            "allowedSources": {"ranges": document.source_ranges, "policy": document.source_policy},
            "today": usage.total_of(rows_by_listener.get(live.name, [])),
        }

    visible_listeners = [
        (key, live)
        for key, live in sorted(parts.registry.listeners.items())
        if key in snapshot.listeners
        and where.selects(live.name.namespace, live.name.tenant)
        and where.listener in {None, live.name.listener}
    ]
    rows = await api.encode_each(row(*pair) for pair in visible_listeners)
    return api.json_response({"now": model.format_time(parts.clock.now()), "rows": rows})


def _listener_health(parts: Parts, key: str, state: states.ListenerState) -> JsonObject:
    live = parts.registry.listeners.get(key)
    return {
        "applied": _applied_hash(parts, "Listener", key),
        "lastArrival": model.time_or_none(live.counters.last_accepted) if live else None,
        "lastProbe": model.time_or_none(max(live.counters.probed.values(), default=0)) if live else None,
        "refusedSince": _refused_since(parts, live, state),
        "quarantinedReason": _quarantined_reason(live),
        "quarantinedSource": (live.counters.quarantined_source or None) if live else None,
        "unexpectedSource": (live.counters.unexpected_source or None) if live else None,
        "companyMismatches": live.counters.company_mismatches if live else 0,
        "otherCompany": (live.counters.other_company or None) if live else None,
        "silentAfterSeconds": live.document.silence_after_seconds if live else None,
        "companyID": (live.document.tenant.company_id or None) if live else None,
        **_fields(state),
    }


def _refused_since(parts: Parts, live: LiveListener | None, state: states.ListenerState) -> str | None:
    """Return when a listener began to refuse every arrival; None if it does not."""
    if live is None or not state.refusing:
        return None
    return model.format_time(parts.clock.now() - (parts.clock.steady() - live.counters.refused_since))


def _applied_hash(parts: Parts, kind: config_secret.Kind, key: str) -> str | None:
    state = parts.health.document(kind, key)
    return state.hash if state else None


async def list_tenants(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/tenants``: those in force, and those that deliveries still wait for or died for."""
    with api.parsing():
        page = tenant_rows.parse_page(request.query)
    where = await _read_names(parts, request)
    await parts.tenants.count_deliveries()
    await parts.health.merge_activity(parts.store)
    rows = tenant_rows.TenantRows(
        tracker=parts.tenants,
        faults=await _faults_by_tenant(parts, where),
        receipt_days=parts.settings.receipt_days,
        backup_days=parts.settings.backup_days,
        destinations=parts.state.snapshot.destinations,
        last_failure=functools.partial(_last_failure, parts),
    )
    keys, totals = rows.keys(where), {}
    if page is not None:
        keys, by_urgency = await rows.by_urgency(keys, page)
        totals = {"totals": by_urgency}
        where = Filter(permitted=frozenset(map("/".join, keys)))
    today: dict[TenantKey, list[UsageRow]] = {}
    for usage_row in await parts.store.usage_of_day(parts.clock.now() // model.DAY * model.DAY, where):
        today.setdefault((usage_row.listener.namespace, usage_row.listener.tenant), []).append(usage_row)
    encoded = await api.encode_each(rows.row(key, today.get(key, ())) for key in keys)
    return api.json_response({"now": model.format_time(parts.clock.now()), "rows": encoded, **totals})


async def _faults_by_tenant(parts: Parts, where: Filter) -> dict[TenantKey, tenant_rows.TenantFaults]:
    faults_by_tenant: dict[TenantKey, tenant_rows.TenantFaults] = {}
    listener_states = await parts.health.listener_states()
    turns = timing.EventLoopTurns()
    for key, document in parts.state.snapshot.listeners.items():
        tenant = (document.namespace, document.tenant.name)
        if key in listener_states and where.selects(*tenant):
            state, faults = listener_states[key], faults_by_tenant.setdefault(tenant, tenant_rows.TenantFaults())
            for fault in states.faults_of(state, document):
                faults.counts[fault] = faults.counts.get(fault, 0) + 1
                if cause := states.cause_of(fault, state):
                    faults.causes[fault] = cause
                if fault not in faults.first:
                    faults.first[fault] = _first_fault(parts, key, fault, state)
            await turns.give_way()
    return faults_by_tenant


def _first_fault(parts: Parts, key: str, fault: states.ListenerFault, state: states.ListenerState) -> JsonObject:
    """Return which listener has a fault, and for some faults the reason and since when."""
    live = parts.registry.listeners.get(key)
    reason = None
    match fault:
        case states.ListenerFault.Refusing:
            reason = state.refused_reason
        case states.ListenerFault.Quarantining:
            reason = _quarantined_reason(live)
    since = health.fault_since(fault, state, live.counters, parts.clock) if live else None
    return {"listener": key, "reason": reason, "since": since}


async def refusing_listeners(parts: Parts, where: Filter) -> list[str]:
    """Return a filter's listeners, as ``namespace/name``, that refuse every arrival now."""
    listener_states = await parts.health.listener_states()
    return [
        key
        for key, document in sorted(parts.state.snapshot.listeners.items())
        if key in listener_states
        and listener_states[key].refusing
        and where.selects(document.namespace, document.tenant.name)
    ]


async def _read_names(parts: Parts, request: web.Request) -> Filter:
    """Return what a query selects by names."""
    with api.parsing():
        where = api.read_filter(request)
    return await name_check.check_names(parts, where)


async def list_destinations(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/destinations``: those in force, and those that deliveries still wait for.

    For a selected tenant, only its own deliveries count; ``nextDueAt`` covers all.
    """
    where = await _read_names(parts, request)
    await parts.health.merge_activity(parts.store)
    next_due_at = await parts.store.due()
    counts_by_key = await count_deliveries(
        parts.store, where, lambda route: (route.destination, route.listener.tenant_key)
    )
    in_force, tenants = parts.state.snapshot.destinations, _tenants_by_destination(parts, where)
    now = parts.clock.now()

    def row(key: str) -> JsonObject:
        namespace, _, name = key.partition("/")
        document, counts = in_force.get(key), counts_by_key.get(key, DeliveryCounts())
        soonest = now + parts.dispatcher.until_trial(key)
        return {
            "namespace": namespace,
            "name": name,
            **(_destination_health(parts, key, document) if document else {"state": "NotFound"}),
            "backlog": counts.backlog,
            "backlogByTenant": {tenant: backlog.count for tenant, backlog in counts.backlogs.items()},
            "isRejecting": key not in next_due_at and parts.health.is_rejecting(key),
            "nextDueAt": model.format_time(max(soonest, next_due_at[key])) if key in next_due_at else None,
            "held": counts.held,
            "dead": counts.dead,
            "tenants": sorted(tenants.get(key, ())),
        }

    keys = sorted(in_force.keys() | next_due_at.keys() | counts_by_key.keys())
    used = {key for key, names in tenants.items() if where.tenant is None or where.tenant in names}
    used |= counts_by_key.keys()
    shows_all = where.tenant is None and where.permitted is None
    visible_keys = [
        key for key in keys if where.namespace in {None, key.partition("/")[0]} and (shows_all or key in used)
    ]
    return api.json_response({"rows": await api.encode_each(map(row, visible_keys))})


def destination_state(parts: Parts, key: str) -> JsonObject | None:
    """Return a destination's health, its next trial and its retry limit; None if it is not in force."""
    document = parts.state.snapshot.destinations.get(key)
    if document is None:
        return None
    return {
        **_destination_health(parts, key, document),
        "isRejecting": parts.health.is_rejecting(key),
        "nextTrialAt": model.format_time(parts.clock.now() + parts.dispatcher.until_trial(key)),
        "retryMaxAgeSeconds": document.retry_max_age_seconds,
    }


def delivery_warnings(parts: Parts, deliveries: Mapping[str, int]) -> list[str]:
    """Return a sentence about each destination that takes no deliveries now. ``deliveries``: their number by it."""
    gone: JsonObject = {"state": "NotFound", "isRejecting": False}
    warnings = [
        next_step.destination_warning(key, destination_state(parts, key) or gone, count)
        for key, count in deliveries.items()
    ]
    return [warning for warning in warnings if warning]


def _tenants_by_destination(parts: Parts, where: Filter) -> dict[str, set[str]]:
    """Return the permitted tenants with a route to each destination."""
    tenants: dict[str, set[str]] = {}
    permitted = Filter(permitted=where.permitted)
    for listener in parts.state.snapshot.listeners.values():
        for route in listener.routes if permitted.selects(listener.namespace, listener.tenant.name) else ():
            tenants.setdefault(route.destination, set()).add(listener.tenant.name)
    return tenants


def _last_failure(parts: Parts, key: str) -> JsonObject:
    """Return a destination's present error, and what to do about it; none for one that was just removed."""
    document = parts.state.snapshot.destinations.get(key)
    if document is None:
        return {"lastError": None, "hint": None}
    error = parts.health.destination(key, document).error
    return {"lastError": parts.health.present_error(document), "hint": destinations.HINTS.get(error or "")}


def _destination_health(parts: Parts, key: str, document: documents.DestinationDocument) -> JsonObject:
    """Return the host and not the URL, because a URL may hold a secret."""
    state = parts.health.destination(key, document)
    return {
        "state": document.state,
        "host": parse.urlsplit(document.url).hostname,
        "warnings": document.warnings or (),
        **_fields(state),
        "hint": destinations.HINTS.get(state.error or ""),
        "lastError": parts.health.last_error(document),
        "limits": {
            "timeoutSeconds": document.timeout_seconds,
            "concurrency": document.concurrency,
            "requests": document.rate_requests or None,
            "perSeconds": document.rate_seconds,
            "sharedBy": document.rate_shared_by or None,
            "retryMaxAgeSeconds": document.retry_max_age_seconds,
        },
        "answers": [
            {"effect": rule.effect, "statuses": rule.statuses, "when": rule.when or None} for rule in document.answers
        ],
    }


def listener_row(live: LiveListener) -> dict[str, object]:
    """Return what callers may see of a listener: its URLs are credentials, so their secret parts are cut."""
    document = live.document
    return {
        "namespace": document.namespace,
        "name": document.name,
        "tenant": document.tenant.name,
        "state": "Suspended" if document.tenant.state == "Suspended" else document.state,
        "generation": document.generation,
        "addresses": [documents.shorten_url(address.url).removeprefix("https://") for address in document.addresses],
        "addressIds": [address.id for address in document.live_addresses],
        "routes": [
            {"name": route.name, "destination": route.destination, "state": route.state, "when": route.when or None}
            for route in document.routes
        ],
    }


async def _encode_states(
    show: Callable[[str, _State], JsonObject], states_by_key: Mapping[str, _State]
) -> dict[str, msgspec.Raw]:
    """Return what ``show`` returns for each state, as JSON."""
    encoded = await api.encode_each(show(key, state) for key, state in states_by_key.items())
    return dict(zip(states_by_key, encoded, strict=True))


def _fields(state: states.State) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(state)
    return fields


def _problem(problem: conditions.Problem) -> JsonObject:
    return {
        "resource": problem.resource,
        "file": problem.file,
        "line": problem.line,
        "field": problem.path,
        "message": problem.message,
        "hint": problem.hint,
    }


def _vanished(status: SourceStatus, kind: config_secret.Kind, key: str) -> JsonObject:
    envelope = status.vanished_documents[kind, key]
    owner, hostnames = envelope.owner, envelope.tenant_hostnames
    return {
        "kind": kind,
        "key": key,
        "since": model.time_or_none(status.vanished[kind, key]),
        "uid": owner.uid,
        "install": owner.install,
        "tenant": hostnames.tenant if hostnames is not None else None,
        "hostnames": hostnames.hostnames if hostnames is not None else (),
    }


def _quarantined_reason(live: LiveListener | None) -> str | None:
    """Return why the last quarantined arrival was; None if none was since the start."""
    reason = live.counters.quarantined_reason if live else None
    return reason.name if reason is not None else None
