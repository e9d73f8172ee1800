"""The newest documents of routes: which route a delivery follows, and whether its destination can be sent to."""

import msgspec
import pytest

from support import delivery_samples
from usher_gateway import documents, model
from usher_gateway.delivery.route_documents import RouteDocuments

KEYS = model.derive_keys(b"k" * 32)


@pytest.fixture
def newest() -> RouteDocuments:
    route_documents = RouteDocuments(keys=KEYS)
    route_documents.apply(delivery_samples.snapshot())
    return route_documents


def test_destination_with_an_unusable_header_cannot_be_sent_to(newest: RouteDocuments) -> None:
    assert newest.can_send(delivery_samples.ROUTE)
    newest.apply(delivery_samples.snapshot(headers=(("x-key", "a\x01b"),)))
    assert not newest.can_send(delivery_samples.ROUTE)
    newest.apply(delivery_samples.snapshot(headers=(("x-key", "ab"),)))
    assert newest.can_send(delivery_samples.ROUTE)


def test_edition_counts_only_changes_of_expressions(newest: RouteDocuments) -> None:
    assert newest.expression_edition(delivery_samples.ROUTE) == 0
    newest.apply(delivery_samples.snapshot(state="Paused"))
    assert newest.expression_edition(delivery_samples.ROUTE) == 0
    newest.apply(delivery_samples.snapshot('{"u": visit.email}'))
    assert newest.expression_edition(delivery_samples.ROUTE) == 1
    newest.apply(documents.Snapshot({}, {}))
    assert newest.live_route(delivery_samples.ROUTE) is None
    newest.apply(delivery_samples.snapshot('{"u": visit.email}'))
    assert newest.expression_edition(delivery_samples.ROUTE) == 1


def test_listener_of_another_tenant_is_not_the_one_of_a_route(newest: RouteDocuments) -> None:
    previous_route = newest.live_route(delivery_samples.ROUTE)
    lobby = delivery_samples.snapshot().listeners["agency/lobby"]
    moved = msgspec.structs.replace(lobby, tenant=documents.TenantDocument("globex"))
    newest.apply(documents.Snapshot({moved.key: moved}, {}))
    assert previous_route is not None
    assert newest.live_route(delivery_samples.ROUTE) is None


@pytest.mark.parametrize(
    ("listener_uid", "uid", "hold"),
    [
        ("new", "new", None),
        ("former", "new", model.HoldReason.DestinationNotFound),
        ("new", "former", model.HoldReason.DestinationNotFound),
        (None, "former", None),
        (None, "new", model.HoldReason.DestinationNotFound),
    ],
    ids=["both-new", "destination-made-again", "removal-halted", "route-removed", "route-removed-and-made-again"],
)
def test_delivery_goes_only_to_the_destination_that_its_route_means(
    newest: RouteDocuments, listener_uid: str | None, uid: str, hold: model.HoldReason | None
) -> None:
    accepted_for_former = msgspec.structs.replace(delivery_samples.ROUTE, destination_uid="former")
    sample = delivery_samples.snapshot(uid=uid)
    (lobby,) = sample.listeners.values()
    routes = tuple(msgspec.structs.replace(route, destination_uid=listener_uid or "") for route in lobby.routes)
    listeners = {lobby.key: msgspec.structs.replace(lobby, routes=routes)} if listener_uid is not None else {}
    newest.apply(documents.Snapshot(listeners, sample.destinations))
    assert newest.hold_of(accepted_for_former) is hold
    assert newest.can_send(accepted_for_former) is (hold is None)


def test_apply_names_the_changed_documents(newest: RouteDocuments) -> None:
    changed = newest.apply(delivery_samples.snapshot(state="Paused"))
    assert (changed.listeners, changed.destinations) == (set(), {"agency/crm"})
    changed = newest.apply(documents.Snapshot({}, {}))
    assert (changed.listeners, changed.destinations) == ({"agency/lobby"}, {"agency/crm"})
