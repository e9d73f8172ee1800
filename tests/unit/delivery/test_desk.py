"""What stands in the place of an attempt: expiry and holds."""

from typing import Any, cast

import msgspec
import pytest

from unit.delivery import samples
from usher_gateway import clock, documents, expressions, model
from usher_gateway.delivery import desk as desks
from usher_gateway.destinations import DestinationRequest
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.ingest import route

KEYS = model.derive_keys(b"k" * 32)
TRANSFORM = '{"u": visit.userId}'


def snapshot(transform: str = TRANSFORM, **destination: Any) -> documents.Snapshot:
    routes = (documents.Route("crm", "agency/crm", transform=transform),)
    listener = documents.Listener("agency", "lobby", documents.Tenant("acme"), addresses=(), routes=routes)
    return documents.Snapshot({listener.key: listener}, {"agency/crm": samples.destination(**destination)})


@pytest.fixture
def desk() -> desks.Desk:
    made = desks.Desk(cast("DestinationClient", None), clock.Clock(), KEYS)
    made.apply(snapshot())
    return made


def hold_of(prepared: DestinationRequest | model.Settlement) -> model.HoldReason | None:
    return prepared.hold if isinstance(prepared, model.Settlement) else None


def test_a_transform_that_is_slow_three_times_in_a_row_holds_its_route_until_it_is_changed(
    desk: desks.Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = route.SLOW_SECONDS

    def evaluate(*_: object) -> expressions.Evaluation:
        return expressions.Evaluation({"u": "7"}, cpu_seconds=seconds)

    monkeypatch.setattr(desk, "evaluate", evaluate)
    holds = [hold_of(desk.prepare(samples.delivery(), samples.ROUTE)) for _ in range(5)]
    assert holds == [None] * 3 + [model.HoldReason.ExpressionTooSlow] * 2
    desk.apply(snapshot('{"u": visit.email}'))
    assert hold_of(desk.prepare(samples.delivery(), samples.ROUTE)) is None


def test_one_fast_evaluation_begins_the_count_anew(desk: desks.Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter([0.006, 0.006, 0.0001] * 5)
    monkeypatch.setattr(desk, "evaluate", lambda *_: expressions.Evaluation({}, cpu_seconds=next(costs)))
    assert [hold_of(desk.prepare(samples.delivery(), samples.ROUTE)) for _ in range(15)] == [None] * 15


def test_a_destination_whose_header_cannot_be_used_cannot_be_sent_to(desk: desks.Desk) -> None:
    assert desk.can_send(samples.ROUTE)
    desk.apply(snapshot(headers=(("x-key", "a\x01b"),)))
    assert not desk.can_send(samples.ROUTE)
    assert hold_of(desk.prepare(samples.delivery(), samples.ROUTE)) is model.HoldReason.SecretNotFound
    desk.apply(snapshot(headers=(("x-key", "ab"),)))
    assert desk.can_send(samples.ROUTE)


def test_what_is_past_its_time_is_cancelled_before_anything_else(desk: desks.Desk) -> None:
    desk.apply(snapshot(state="Paused"))
    prepared = desk.prepare(samples.delivery(expires_at=1), samples.ROUTE)
    assert isinstance(prepared, model.Settlement)
    assert (prepared.settled_as, prepared.cancel) == (model.SettledAs.Cancelled, model.CancelReason.Expired)
    assert hold_of(desk.prepare(samples.delivery(), samples.ROUTE)) is model.HoldReason.DestinationPaused


def test_a_change_elsewhere_leaves_a_slow_transform_held(desk: desks.Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = route.SLOW_SECONDS
    monkeypatch.setattr(desk, "evaluate", lambda *_: expressions.Evaluation({"u": "7"}, cpu_seconds=seconds))
    for _ in range(4):
        desk.prepare(samples.delivery(), samples.ROUTE)
    assert desk.is_too_slow("agency/lobby", "crm")
    before = snapshot()
    other = documents.Listener("agency", "other", documents.Tenant("acme"), addresses=())
    desk.apply(documents.Snapshot({**before.listeners, other.key: other}, before.destinations))
    assert hold_of(desk.prepare(samples.delivery(), samples.ROUTE)) is model.HoldReason.ExpressionTooSlow


def test_editions_count_changes_of_expressions_and_of_nothing_else(desk: desks.Desk) -> None:
    assert desk.edition_of(samples.ROUTE) == 0
    desk.apply(snapshot(state="Paused"))
    assert desk.edition_of(samples.ROUTE) == 0
    desk.apply(snapshot('{"u": visit.email}'))
    assert desk.edition_of(samples.ROUTE) == 1
    desk.apply(documents.Snapshot({}, {}))
    assert desk.live_route(samples.ROUTE) is None
    desk.apply(snapshot())
    assert desk.edition_of(samples.ROUTE) == 1


def test_what_is_left_of_a_listener_goes_by_what_it_kept_once_another_tenant_has_one_of_that_name(
    desk: desks.Desk,
) -> None:
    mine = msgspec.structs.replace(samples.ROUTE, transform=TRANSFORM)
    theirs = documents.Route("crm", "agency/crm", transform='{"mail": visit.email}')
    moved = documents.Listener(
        "agency", "lobby", documents.Tenant("globex", state="Suspended"), addresses=(), routes=(theirs,)
    )
    desk.apply(documents.Snapshot({moved.key: moved}, {"agency/crm": samples.destination()}))
    assert desk.live_route(mine) is None
    prepared = desk.prepare(samples.delivery(), mine)
    assert isinstance(prepared, DestinationRequest)
    assert prepared.body == b'{"u":"7"}'
