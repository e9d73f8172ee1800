"""From a parsed body to the arrival that the store gets: identity, plans, quarantine (pure)."""

from collections.abc import Mapping

from usher_gateway import documents, model
from usher_gateway.ingest import body, identity, registry, routing

TRUNCATED_BYTES = 64 * 1024
"""Bytes kept of a body that is too large."""

MAX_HOPS = 2
"""An arrival that has passed this many Ushers counts as a loop."""

_MAX_STORED_HOPS = 255
_MAX_CONTENT_TYPE_BYTES = 200


def build_arrival(
    match: registry.Match, headers: Mapping[str, str], raw: bytes, parsed: body.ParsedBody, now: int
) -> model.Arrival:
    """Build the arrival of a body. ``raw``: inflated; ``now``: microseconds."""
    listener, document = match.listener, parsed.document
    hops = _hops(headers.get("Usher-Hops", ""))
    quarantine = parsed.quarantine
    fields: dict[str, object] = {}
    if document is not None:
        fields = listener.identifier.extract(document)
        quarantine = quarantine or _quarantine_of(listener, document, fields, hops)
    if document is None or quarantine in {model.QuarantineReason.Truncated, model.QuarantineReason.NoUser}:
        identified = listener.identifier.identify_raw(raw, now, fields)
    else:
        identified = listener.identifier.identify(document, parsed.is_plain, fields, now)
    late = now - identified.visit_time > listener.late_after
    if_visit: routing.Plans = ()
    if_repeat: routing.Plans = ()
    if quarantine is None and document is not None:
        hold = model.HoldReason.TokenHeld if match.address.action == "Hold" else listener.hold
        if listener.planner.is_constant:
            if_visit, if_repeat = listener.planner.constant(hold)
        else:
            context = routing.RoutingContext(document, fields, identified, now, late, hold)
            if_visit, if_repeat = listener.planner.plan(context)
    is_truncated = quarantine is model.QuarantineReason.Truncated
    content_type = headers.get("Content-Type", "").encode("utf-8", "surrogateescape")
    return model.Arrival(
        listener=listener.name,
        received_at=now,
        visit_time=identified.visit_time,
        time_trusted=identified.time_trusted,
        late=late,
        fingerprint=identified.fingerprint,
        visitor_key=identified.visitor_key,
        person_keys=identified.person_keys,
        body=raw[:TRUNCATED_BYTES] if is_truncated else raw,
        content_type=content_type[:_MAX_CONTENT_TYPE_BYTES],
        future_time=identified.future_time,
        hops=min(hops, _MAX_STORED_HOPS),
        body_days=listener.body_days,
        window=listener.window,
        redelivery=listener.redelivery,
        if_visit=if_visit,
        if_repeat=if_repeat,
        quarantine=quarantine,
        has_marks=listener.planner.has_marks,
        quota=listener.quota,
        quota_month=listener.month(now) if listener.quota else (0, 0),
        token_held=match.address.action == "Hold",
        body_size=len(raw),
    )


def rebuild_arrival(
    listener: registry.LiveListener, stored: model.Arrival, now: int
) -> model.Arrival | model.QuarantineReason:
    """Evaluate a quarantined arrival again, with the listener as it is now.

    Returns the arrival with its plans, or the reason why it still is not a visit. Its times stay those of the arrival,
    so the time limit of a route may have passed: that route is skipped (``Stale``). A loop is let through, because the
    person who releases it says that the loop is broken; its hops are kept, so that it cannot go round again.
    """
    if stored.quarantine in {model.QuarantineReason.Truncated, model.QuarantineReason.Unstorable}:
        return stored.quarantine
    if len(stored.body) > listener.document.max_body_bytes:
        return model.QuarantineReason.Truncated
    content_type = stored.content_type.decode("utf-8", "surrogateescape")
    parsed = body.parse(stored.body, content_type)
    if parsed.is_probe:
        return model.QuarantineReason.NoUser
    match = registry.Match(listener, documents.Address(host="", path=""))
    arrival = build_arrival(match, {"Content-Type": content_type}, stored.body, parsed, stored.received_at)
    if arrival.quarantine is not None:
        return arrival.quarantine
    arrival.key, arrival.hops = stored.key, stored.hops
    arrival.if_visit = tuple([_skip_if_expired(plan, now) for plan in arrival.if_visit])
    return arrival


def _skip_if_expired(plan: model.RoutePlan, now: int) -> model.RoutePlan:
    if plan.skip is None and 0 < plan.expires_at <= now:
        return model.RoutePlan(plan.route, skip=model.SkipReason.Stale)
    return plan


def _quarantine_of(
    listener: registry.LiveListener, document: dict[str, object], fields: dict[str, object], hops: int
) -> model.QuarantineReason | None:
    """Return why a parsed body is not a visit of this listener; None if it is one."""
    if listener.user_is_required:
        if "user" not in fields:
            return model.QuarantineReason.NoUser
    elif not isinstance(document.get("user"), dict):
        return model.QuarantineReason.NoUser
    if hops >= MAX_HOPS:
        return model.QuarantineReason.Loop
    tenant = listener.document.tenant
    if tenant.company_id and tenant.company_check != "Off" and "company" in fields:
        if identity.as_text(fields["company"]) == tenant.company_id:
            return None
        if tenant.company_check == "Quarantine":
            return model.QuarantineReason.CompanyMismatch
        listener.company_mismatches += 1
    return None


def _hops(text: str) -> int:
    """Parse the Usher-Hops header; 0 if it is not a number, and at least 255 for a number of four digits or more."""
    digits = text.lstrip("0")
    if not digits.isdecimal():
        return 0
    return int(digits) if len(digits) < 4 else _MAX_STORED_HOPS
