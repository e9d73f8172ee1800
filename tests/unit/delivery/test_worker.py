"""What stands in the place of an attempt: expiry and holds."""

from typing import Any, cast

import msgspec
import pytest

from unit.delivery import samples
from usher_gateway import clock, documents, expressions, model
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.destinations import DestinationAnswer, DestinationRequest
from usher_gateway.ingest import routing

KEYS = model.derive_keys(b"k" * 32)
TRANSFORM = '{"u": visit.userId}'


def snapshot(transform: str = TRANSFORM, **destination: Any) -> documents.Snapshot:
    routes = (documents.Route("crm", "agency/crm", transform=transform),)
    listener = documents.ListenerDocument(
        "agency", "lobby", documents.TenantDocument("acme"), addresses=(), routes=routes
    )
    return documents.Snapshot({listener.key: listener}, {"agency/crm": samples.destination(**destination)})


class Surroundings:
    """The store and the client of a worker: one route, and a destination that always answers 200."""

    def __init__(self) -> None:
        self.definition = samples.ROUTE
        self.sent: list[DestinationRequest] = []

    def route(self, _: int) -> model.RouteDefinition:
        return self.definition

    async def send(self, request: DestinationRequest, _: float) -> DestinationAnswer:
        self.sent.append(request)
        return DestinationAnswer(200)


@pytest.fixture
def surroundings() -> Surroundings:
    return Surroundings()


@pytest.fixture
def worker(surroundings: Surroundings) -> DeliveryWorker:
    made = DeliveryWorker(
        store=cast("Any", surroundings), client=cast("Any", surroundings), clock=clock.Clock(), keys=KEYS
    )
    made.apply(snapshot())
    return made


async def hold_of_attempt(worker: DeliveryWorker) -> model.HoldReason | None:
    return (await worker.attempt(samples.delivery())).settlement.hold


async def test_a_transform_that_is_slow_three_times_in_a_row_holds_its_route_until_it_is_changed(
    worker: DeliveryWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = routing.SLOW_SECONDS

    def evaluate(*_: object) -> expressions.Evaluation:
        return expressions.Evaluation({"u": "7"}, cpu_seconds=seconds)

    monkeypatch.setattr(worker, "evaluate", evaluate)
    holds = [await hold_of_attempt(worker) for _ in range(5)]
    assert holds == [None] * 3 + [model.HoldReason.ExpressionTooSlow] * 2
    worker.apply(snapshot('{"u": visit.email}'))
    assert await hold_of_attempt(worker) is None


async def test_one_fast_evaluation_begins_the_count_anew(
    worker: DeliveryWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = iter([0.006, 0.006, 0.0001] * 5)
    monkeypatch.setattr(worker, "evaluate", lambda *_: expressions.Evaluation({}, cpu_seconds=next(costs)))
    assert [await hold_of_attempt(worker) for _ in range(15)] == [None] * 15


async def test_a_destination_whose_header_cannot_be_used_cannot_be_sent_to(worker: DeliveryWorker) -> None:
    assert worker.can_send(samples.ROUTE)
    worker.apply(snapshot(headers=(("x-key", "a\x01b"),)))
    assert not worker.can_send(samples.ROUTE)
    assert await hold_of_attempt(worker) is model.HoldReason.SecretNotFound
    worker.apply(snapshot(headers=(("x-key", "ab"),)))
    assert worker.can_send(samples.ROUTE)


async def test_what_is_past_its_time_is_cancelled_before_anything_else(worker: DeliveryWorker) -> None:
    worker.apply(snapshot(state="Paused"))
    result = (await worker.attempt(samples.delivery(expires_at=1))).settlement
    assert (result.settled_as, result.cancel) == (model.SettledAs.Cancelled, model.CancelReason.Expired)
    assert await hold_of_attempt(worker) is model.HoldReason.DestinationPaused


async def test_a_change_elsewhere_leaves_a_slow_transform_held(
    worker: DeliveryWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = routing.SLOW_SECONDS
    monkeypatch.setattr(worker, "evaluate", lambda *_: expressions.Evaluation({"u": "7"}, cpu_seconds=seconds))
    for _ in range(4):
        await worker.attempt(samples.delivery())
    assert worker.is_too_slow("agency/lobby", "crm")
    before = snapshot()
    other = documents.ListenerDocument("agency", "other", documents.TenantDocument("acme"), addresses=())
    worker.apply(documents.Snapshot({**before.listeners, other.key: other}, before.destinations))
    assert await hold_of_attempt(worker) is model.HoldReason.ExpressionTooSlow


async def test_editions_count_changes_of_expressions_and_of_nothing_else(worker: DeliveryWorker) -> None:
    assert worker.expression_edition(samples.ROUTE) == 0
    worker.apply(snapshot(state="Paused"))
    assert worker.expression_edition(samples.ROUTE) == 0
    worker.apply(snapshot('{"u": visit.email}'))
    assert worker.expression_edition(samples.ROUTE) == 1
    worker.apply(documents.Snapshot({}, {}))
    assert worker.live_route(samples.ROUTE) is None
    worker.apply(snapshot())
    assert worker.expression_edition(samples.ROUTE) == 1


async def test_what_is_left_of_a_listener_goes_by_what_it_kept_once_another_tenant_has_one_of_that_name(
    worker: DeliveryWorker, surroundings: Surroundings
) -> None:
    mine = msgspec.structs.replace(samples.ROUTE, transform=TRANSFORM)
    theirs = documents.Route("crm", "agency/crm", transform='{"mail": visit.email}')
    moved = documents.ListenerDocument(
        "agency", "lobby", documents.TenantDocument("globex", state="Suspended"), addresses=(), routes=(theirs,)
    )
    worker.apply(documents.Snapshot({moved.key: moved}, {"agency/crm": samples.destination()}))
    assert worker.live_route(mine) is None
    surroundings.definition = mine
    await worker.attempt(samples.delivery())
    assert surroundings.sent[0].body == b'{"u":"7"}'
