"""Documents and keys for the pure parts of ingest."""

from typing import Any

import msgspec

from support import samples
from usher_gateway import documents, model
from usher_gateway.ingest.counters import ArrivalCounters, ExpressionCounters
from usher_gateway.ingest.cpu_limits import TenantBudgets
from usher_gateway.ingest.identity import Identifier, Identity
from usher_gateway.ingest.registry import ListenerRegistry, LiveListener
from usher_gateway.ingest.routing import Planner, Plans, RoutingContext

KEYS = model.derive_keys(b"k" * 32)
NOON = 1_764_072_000 * model.MICROSECONDS  # 2025-11-25T12:00:00Z


class RecordingWatcher(ExpressionCounters):
    """An expression watcher that records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: list[tuple[str, str, str]] = []
        self.held: list[tuple[str, str]] = []

    def expression_failed(self, name: model.ListenerName, route: str, code: str, missing_field: str) -> None:
        self.failed.append((name.key, route, f"{code} {missing_field}".rstrip()))

    def expression_held(self, name: model.ListenerName, route: str) -> None:
        self.held.append((name.key, route))


def listener(**changes: Any) -> documents.ListenerDocument:
    tenant = documents.TenantDocument("acme", **changes.pop("tenant", {}))
    address = documents.Address("hooks.test", "/v1/token")
    fields: dict[str, Any] = {"namespace": "agency", "name": "wifi", "tenant": tenant, "addresses": (address,)}
    return documents.ListenerDocument(**(fields | changes))


def destination(**changes: Any) -> documents.DestinationDocument:
    fields: dict[str, Any] = {"namespace": "agency", "name": "crm", "url": "https://crm.test/"}
    return documents.DestinationDocument(**(fields | changes))


def registry() -> ListenerRegistry:
    return ListenerRegistry(
        keys=KEYS, expressions=RecordingWatcher(), counters=ArrivalCounters(), budgets=TenantBudgets()
    )


def live(document: documents.ListenerDocument, *destinations: documents.DestinationDocument) -> LiveListener:
    return registry().prepare(document, {target.key: target for target in destinations}, now=0.0)


def identity(body: dict[str, Any], received_at: int = NOON, **changes: Any) -> Identity:
    identifier = Identifier(listener(**changes), KEYS)
    plain = msgspec.json.decode(msgspec.json.encode(body)) == body
    return identifier.identify(body, plain, identifier.extract(body), received_at)


def planner(
    *routes: documents.Route,
    watcher: RecordingWatcher | None = None,
    budgets: TenantBudgets | None = None,
    **changes: Any,
) -> "Planning":
    document = listener(routes=routes, **changes)
    return Planning(document, watcher or RecordingWatcher(), budgets or TenantBudgets())


class Planning:
    """A planner with its identifier: from a body to plans."""

    def __init__(self, document: documents.ListenerDocument, watcher: RecordingWatcher, budgets: TenantBudgets) -> None:
        self.identifier = Identifier(document, KEYS)
        destinations = {"agency/crm": destination()}
        self.planner = Planner(
            document, destinations=destinations, identifier=self.identifier, watcher=watcher, budgets=budgets
        )

    def plan(
        self, body: dict[str, Any], received_at: int = NOON, hold: model.HoldReason | None = None
    ) -> tuple[Plans, Plans]:
        fields = self.identifier.extract(body)
        visitor = self.identifier.identify(body, plain=True, fields=fields, received_at=received_at)
        arrival = samples.arrival(
            "a",
            received_at,
            visit_time=visitor.visit_time,
            time_trusted=visitor.time_trusted,
            fingerprint=visitor.fingerprint,
        )
        return self.planner.plan(RoutingContext(body, fields, arrival, received_at, hold))

    def first(self, body: dict[str, Any], received_at: int = NOON) -> model.RoutePlan:
        """The plan of the first route, if the arrival is a visit."""
        return self.plan(body, received_at)[0][0]
