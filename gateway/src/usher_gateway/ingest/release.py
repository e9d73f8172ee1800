"""A quarantined arrival understood anew, by the listener as it is now (pure)."""

from usher_gateway import documents, model
from usher_gateway.ingest import accept, find, validate


def understand_anew(
    listener: find.LiveListener, stored: model.Arrival, now: int
) -> model.Arrival | model.QuarantineReason:
    """The arrival with plans as if it were a visit, or the reason why it still is none.

    Its times stay those of its arrival, so a route's time limit may have passed: that is a skip (``Stale``). A loop is
    let through: whoever releases it says that it is broken, and its hops are kept, so that it cannot go on.
    """
    if stored.quarantine in {model.QuarantineReason.Truncated, model.QuarantineReason.Unstorable}:
        return stored.quarantine
    if len(stored.body) > listener.document.max_body_bytes:
        return model.QuarantineReason.Truncated
    content_type = stored.content_type.decode("latin-1")
    parsed = validate.parse(stored.body, content_type)
    if parsed.is_probe:
        return model.QuarantineReason.NoUser
    found = find.Found(listener, documents.Address(host="", path=""))
    headers = {"Content-Type": stored.content_type.decode("utf-8", "surrogateescape")}
    arrival = accept.understand(found, headers, stored.body, parsed, stored.received_at)
    if arrival.quarantine is not None:
        return arrival.quarantine
    arrival.key, arrival.hops = stored.key, stored.hops
    arrival.if_visit = tuple([_in_time(plan, now) for plan in arrival.if_visit])
    return arrival


def _in_time(plan: model.RoutePlan, now: int) -> model.RoutePlan:
    if plan.skip is None and 0 < plan.expires_at <= now:
        return model.RoutePlan(plan.route, skip=model.SkipReason.Stale)
    return plan
