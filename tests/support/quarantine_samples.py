"""A quarantined arrival, and the corrected listener with which it is a visit."""

from typing import Any

from usher_gateway import documents, model
from usher_gateway.ingest.counters import ArrivalCounters, ExpressionCounters
from usher_gateway.ingest.cpu_limits import TenantBudgets
from usher_gateway.ingest.registry import LiveListener

NOW = 1_764_072_000 * model.MICROSECONDS
KEYS = model.derive_keys(bytes(32))
BODY = b'{"visitor":{"ref":7},"email":"jane@example.com"}'
MENDED = {"user": ("/visitor/ref",), "email": ("/email",)}


def listener(**changes: Any) -> LiveListener:
    """Return the corrected listener: with it, `BODY` is a visit."""
    routes = (documents.Route("crm", "agency/crm"), documents.Route("late", "agency/crm", deliver_within_seconds=60))
    values: dict[str, Any] = {
        "namespace": "agency",
        "name": "lobby",
        "tenant": documents.TenantDocument("acme"),
        "addresses": (),
        "routes": routes,
        "fields": documents.DEFAULT_FIELDS | MENDED,
    }
    destination = documents.DestinationDocument("agency", "crm", "https://crm.example")
    return LiveListener(
        documents.ListenerDocument(**(values | changes)),
        destinations={destination.key: destination},
        keys=KEYS,
        expressions=ExpressionCounters(),
        counters=ArrivalCounters(),
        budgets=TenantBudgets(),
        now=0.0,
    )


def stored(**changes: Any) -> model.Arrival:
    values: dict[str, Any] = {
        "listener": model.ListenerName("agency", "acme", "lobby"),
        "received_at": NOW,
        "visit_time": NOW,
        "time_trusted": False,
        "late": False,
        "fingerprint": bytes(16),
        "visitor_key": bytes(16),
        "person_keys": (),
        "body": BODY,
        "content_type": b"application/json",
        "hops": 0,
        "body_days": 0,
        "window": 0,
        "redelivery": 0,
        "if_visit": (),
        "if_repeat": (),
        "quarantine": model.QuarantineReason.NoUser,
        "key": 42,
    }
    return model.Arrival(**(values | changes))
