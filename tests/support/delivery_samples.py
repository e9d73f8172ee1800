"""Values that the delivery tests share."""

from typing import Any

from usher_gateway import documents, model

RECEIVED_AT = 1_764_072_000_250_000
IDS = model.IdFactory()
ROUTE = model.RouteDefinition(model.ListenerName("agency", "acme", "lobby"), "crm", "agency/crm")


def destination(**changes: Any) -> documents.DestinationDocument:
    return documents.DestinationDocument(
        **({"namespace": "agency", "name": "crm", "url": "https://crm.example/in"} | changes)
    )


def delivery(**changes: Any) -> model.Delivery:
    key = IDS.next_key()
    values: dict[str, Any] = {
        "key": key,
        "id": IDS.id_of(key),
        "arrival": key,
        "visit_id": IDS.id_of(key),
        "is_repeat": False,
        "route": 1,
        "created_at": RECEIVED_AT,
        "received_at": RECEIVED_AT,
        "visit_time": RECEIVED_AT - 3_000_000,
        "late": False,
        "hops": 0,
        "attempts": 0,
        "started_at": RECEIVED_AT,
        "expires_at": 0,
        "body": b'{"user":{"id":7,"email":"jane@example.com"}}',
        "content_type": b"application/json",
    }
    return model.Delivery(**(values | changes))


def snapshot(transform: str = "", /, when: str = "", **changes: Any) -> documents.Snapshot:
    """Return a configuration with the destination `agency/crm` and a listener with one route to it."""
    routes = (documents.Route("crm", "agency/crm", when=when, transform=transform),)
    listener = documents.ListenerDocument(
        "agency", "lobby", documents.TenantDocument("acme"), addresses=(), routes=routes
    )
    return documents.Snapshot({listener.key: listener}, {"agency/crm": destination(**changes)})
