"""Documents and keys for the pure parts of ingest."""

from typing import Any

import msgspec

from usher_gateway import documents, model
from usher_gateway.ingest import find, identify, route

KEYS = model.derive_keys(b"k" * 32)
NOON = 1_764_072_000 * model.MICROSECONDS
"""2025-11-25T12:00:00Z."""


class Watch:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str, str]] = []
        self.held: list[tuple[str, str]] = []

    def expression_failed(self, listener: str, route: str, code: str) -> None:
        self.failed.append((listener, route, code))

    def expression_held(self, listener: str, route: str) -> None:
        self.held.append((listener, route))


def listener(**changes: Any) -> documents.Listener:
    tenant = documents.Tenant("acme", **changes.pop("tenant", {}))
    address = documents.Address("hooks.test", "/v1/token")
    fields: dict[str, Any] = {"namespace": "agency", "name": "wifi", "tenant": tenant, "addresses": (address,)}
    return documents.Listener(**(fields | changes))


def destination(**changes: Any) -> documents.Destination:
    fields: dict[str, Any] = {"namespace": "agency", "name": "crm", "url": "https://crm.test/"}
    return documents.Destination(**(fields | changes))


def live(document: documents.Listener, *destinations: documents.Destination) -> find.LiveListener:
    return find.LiveListener(document, {one.key: one for one in destinations}, KEYS, Watch(), now=0.0)


def identity(body: dict[str, Any], received_at: int = NOON, **changes: Any) -> identify.Identity:
    identifier = identify.Identifier(listener(**changes), KEYS)
    plain = msgspec.json.decode(msgspec.json.encode(body)) == body
    return identifier.identify(body, plain, identifier.extract(body), received_at)


def planner(*routes: documents.Route, watch: Watch | None = None, **changes: Any) -> "Planning":
    document = listener(routes=routes, **changes)
    return Planning(document, watch or Watch())


class Planning:
    """A planner with its identifier: from a body to plans."""

    def __init__(self, document: documents.Listener, watch: Watch) -> None:
        self.identifier = identify.Identifier(document, KEYS)
        destinations = {"agency/crm": destination()}
        self.planner = route.Planner(document, destinations, self.identifier, watch)

    def plan(
        self, body: dict[str, Any], received_at: int = NOON, hold: model.HoldReason | None = None
    ) -> tuple[route.Plans, route.Plans]:
        fields = self.identifier.extract(body)
        found = self.identifier.identify(body, plain=True, fields=fields, received_at=received_at)
        return self.planner.plan(route.Occasion(body, fields, found, received_at, late=False, hold=hold))

    def first(self, body: dict[str, Any], received_at: int = NOON) -> model.RoutePlan:
        """What the first route would do if this is a visit."""
        return self.plan(body, received_at)[0][0]
