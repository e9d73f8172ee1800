"""Attempts that end before a request is sent: expiry and holds."""

import asyncio
import time
from typing import Any, cast

import msgspec
import pytest

from support import delivery_samples
from usher_gateway import documents, expressions, model, timing
from usher_gateway.delivery import activity
from usher_gateway.delivery.activity import ActivityRecorder
from usher_gateway.delivery.request_memory import LARGE_REQUEST_BYTES, RequestMemory
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.destinations import DestinationAnswer, DestinationRequest
from usher_gateway.ingest.cpu_limits import (
    ATTEMPTS_BURST_SECONDS,
    ATTEMPTS_SHARE,
    SLOW_SECONDS,
    TenantBudgets,
)

KEYS = model.derive_keys(b"k" * 32)
TRANSFORM = '{"u": visit.userId}'


class Surroundings:
    """The store and the client of a worker: one route, and a destination that answers 200."""

    def __init__(self) -> None:
        self.definition = delivery_samples.ROUTE
        self.sent: list[DestinationRequest] = []
        self.answer = DestinationAnswer(200)
        self.answer_seconds = 0.0  # CPU time that reading an answer takes

    def literal_refusal(self, url: str) -> str | None:
        return "Private" if "//10." in url else None

    def route(self, _: int) -> model.RouteDefinition:
        return self.definition

    async def send(self, request: DestinationRequest, _: float) -> DestinationAnswer:
        self.sent.append(request)
        if self.answer_seconds:
            assert request.charge is not None
            request.charge(self.answer_seconds)
        return self.answer


@pytest.fixture
def surroundings() -> Surroundings:
    return Surroundings()


@pytest.fixture
def route_documents() -> RouteDocuments:
    return RouteDocuments(keys=KEYS)


def new_worker(surroundings: Surroundings, route_documents: RouteDocuments, **options: Any) -> DeliveryWorker:
    delivery_worker = DeliveryWorker(
        store=cast("Any", surroundings),
        client=cast("Any", surroundings),
        clock=timing.Clock(),
        route_documents=route_documents,
        activity=ActivityRecorder(key=KEYS.document),
        **options,
    )
    delivery_worker.apply(delivery_samples.snapshot(TRANSFORM))
    return delivery_worker


@pytest.fixture
def worker(surroundings: Surroundings, route_documents: RouteDocuments) -> DeliveryWorker:
    return new_worker(surroundings, route_documents)


async def settled(worker: DeliveryWorker, **delivery: object) -> model.Settlement:
    """Make an attempt; return what the store gets of its result."""
    result = await worker.attempt(delivery_samples.delivery(**delivery))
    assert result is not None
    return result.settlement


async def hold_of_attempt(worker: DeliveryWorker) -> model.HoldReason | None:
    return (await settled(worker)).hold


async def test_slow_transform_holds_its_route_until_it_changes(
    worker: DeliveryWorker, route_documents: RouteDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = expressions.Evaluation({"u": "7"}, cpu_seconds=SLOW_SECONDS)
    monkeypatch.setattr(route_documents, "evaluate_all", lambda *_: [slow])
    holds = [await hold_of_attempt(worker) for _ in range(5)]
    assert holds == [None] * 3 + [model.HoldReason.ExpressionTooSlow] * 2
    worker.apply(delivery_samples.snapshot('{"u": visit.email}'))
    assert await hold_of_attempt(worker) is None


async def test_route_without_a_transform_uses_its_destinations(
    worker: DeliveryWorker, surroundings: Surroundings
) -> None:
    own = '{"id": visit.id, "of": visit.tenant + "/" + visit.listener}'
    worker.apply(delivery_samples.snapshot("", transform=own))
    delivery = delivery_samples.delivery()
    await worker.attempt(delivery)
    visit_id = model.format_id(delivery.visit_id)
    assert msgspec.json.decode(surroundings.sent[-1].body) == {"id": visit_id, "of": "acme/lobby"}
    worker.apply(delivery_samples.snapshot(TRANSFORM, transform=own))
    await worker.attempt(delivery)
    assert msgspec.json.decode(surroundings.sent[-1].body) == {"u": "7"}


async def test_request_names_the_tenant_of_its_visit(worker: DeliveryWorker, surroundings: Surroundings) -> None:
    await worker.attempt(delivery_samples.delivery())
    assert surroundings.sent[-1].tenant == "acme"


async def test_slow_transform_of_a_destination_holds_its_routes_until_it_changes(
    worker: DeliveryWorker, route_documents: RouteDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = expressions.Evaluation({"u": "7"}, cpu_seconds=SLOW_SECONDS)
    monkeypatch.setattr(route_documents, "evaluate_all", lambda *_: [slow])
    worker.apply(delivery_samples.snapshot("", transform=TRANSFORM))
    holds = [await hold_of_attempt(worker) for _ in range(4)]
    assert holds[-1] is model.HoldReason.ExpressionTooSlow
    worker.apply(delivery_samples.snapshot("", transform='{"user": visit.userId}'))
    assert await hold_of_attempt(worker) is None


async def test_slow_rendering_of_a_fast_transform_holds_its_route(worker: DeliveryWorker) -> None:
    """The value is made in less than a millisecond, and percent-encoded in tens of milliseconds."""
    body = msgspec.json.encode({"text": "\N{GRINNING FACE}" * 60_000})
    worker.apply(delivery_samples.snapshot('{"a": body.text, "b": body.text}', format="Form"))
    holds = [(await settled(worker, body=body)).hold for _ in range(5)]
    assert holds == [None] * 3 + [model.HoldReason.ExpressionTooSlow] * 2


async def test_attempt_without_memory_for_its_request_sends_nothing(
    worker: DeliveryWorker, surroundings: Surroundings
) -> None:
    memory = RequestMemory(max_bytes=10 * LARGE_REQUEST_BYTES)
    worker.apply(delivery_samples.snapshot("body.text"))
    delivery = delivery_samples.delivery(body=msgspec.json.encode({"text": "x" * 4 * LARGE_REQUEST_BYTES}))
    memory.start(delivery.key, "agency", "agency/acme")
    assert await worker.attempt(delivery, request_memory=memory) is not None

    other = delivery_samples.delivery()
    memory.start(other.key, "agency", "agency/acme")
    assert await worker.attempt(other, request_memory=memory) is None
    assert len(surroundings.sent) == 1


async def test_transforms_beyond_the_share_of_a_namespace_wait(
    surroundings: Surroundings, route_documents: RouteDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 0.0
    budgets = TenantBudgets(lambda: moment, share=ATTEMPTS_SHARE, burst_seconds=ATTEMPTS_BURST_SECONDS)
    worker = new_worker(surroundings, route_documents, budgets=budgets)

    def evaluate(*_: object) -> list[expressions.Evaluation]:
        started = time.thread_time()
        while time.thread_time() - started < ATTEMPTS_BURST_SECONDS / 10:
            pass
        return [expressions.Evaluation({"u": "7"}, cpu_seconds=0.0001)]

    monkeypatch.setattr(route_documents, "evaluate_all", evaluate)
    attempts = [asyncio.create_task(worker.attempt(delivery_samples.delivery())) for _ in range(20)]
    await asyncio.sleep(0)
    assert 0 < len(surroundings.sent) <= 10
    moment = 1_000.0
    await asyncio.gather(*attempts)
    assert len(surroundings.sent) == 20


async def test_costly_answers_delay_only_attempts_of_their_tenant(
    surroundings: Surroundings, worker: DeliveryWorker
) -> None:
    worker.apply(delivery_samples.snapshot(""))
    surroundings.answer_seconds = 100.0
    await worker.attempt(delivery_samples.delivery())
    waiting = asyncio.create_task(worker.attempt(delivery_samples.delivery()))
    await asyncio.sleep(0)
    listener = msgspec.structs.replace(delivery_samples.ROUTE.listener, tenant="globex")
    surroundings.definition = msgspec.structs.replace(delivery_samples.ROUTE, listener=listener)
    await worker.attempt(delivery_samples.delivery())
    assert len(surroundings.sent) == 2
    assert not waiting.done()
    waiting.cancel()


async def test_answers_to_which_rules_apply_wait_for_the_time_of_their_tenant(
    surroundings: Surroundings, worker: DeliveryWorker
) -> None:
    """A destination may answer hundreds of attempts at once, and each rule may take 50 ms for an answer."""
    rules = (documents.AnswerRule("Retry", (200,)),)
    worker.apply(delivery_samples.snapshot("", answers=rules))
    surroundings.answer_seconds = 100.0
    waiting = asyncio.create_task(worker.attempt(delivery_samples.delivery()))
    await asyncio.sleep(0)
    assert len(surroundings.sent) == 1
    assert not waiting.done()
    waiting.cancel()


async def test_destination_with_an_unusable_header_holds_its_deliveries(worker: DeliveryWorker) -> None:
    worker.apply(delivery_samples.snapshot(TRANSFORM, headers=(("x-key", "a\x01b"),)))
    assert await hold_of_attempt(worker) is model.HoldReason.SecretNotFound
    worker.apply(delivery_samples.snapshot(TRANSFORM, headers=(("x-key", "ab"),)))
    assert await hold_of_attempt(worker) is None


async def test_delivery_that_is_expired_only_by_an_unconfirmed_clock_waits(
    worker: DeliveryWorker, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing.Clock, "confirmed", lambda _: 1_000)
    result = await settled(worker, expires_at=1_001)
    assert (result.settled_as, result.attempts) == (model.SettledAs.Retry, result.attempts_before)
    assert result.due_at == result.at + 60_000_000
    assert surroundings.sent == []


async def test_expired_delivery_is_cancelled_before_holds_are_checked(worker: DeliveryWorker) -> None:
    worker.apply(delivery_samples.snapshot(TRANSFORM, state="Paused"))
    result = await settled(worker, expires_at=1)
    assert (result.settled_as, result.cancel) == (model.SettledAs.Cancelled, model.CancelReason.Expired)
    assert await hold_of_attempt(worker) is model.HoldReason.DestinationPaused


@pytest.mark.parametrize(
    ("when", "changes", "expected"),
    [
        pytest.param('visit.userId == "7"', {"state": "Paused"}, model.HoldReason.DestinationPaused, id="passes"),
        pytest.param("", {"state": "Paused"}, model.HoldReason.DestinationPaused, id="removed"),
        pytest.param('visit.userId == "8"', {"state": "Paused"}, model.CancelReason.Filter, id="rejects"),
        pytest.param("visit.visitCount > 0", {"state": "Paused"}, model.HoldReason.FilterError, id="fails"),
        pytest.param('visit.userId == "7"', {}, None, id="is sent"),
    ],
)
async def test_filter_that_had_failed_decides_before_other_holds(
    worker: DeliveryWorker, when: str, changes: dict[str, Any], expected: object
) -> None:
    worker.apply(delivery_samples.snapshot(TRANSFORM, when=when, **changes))
    result = await settled(worker, filter_hold=model.HoldReason.FilterError)
    assert (result.hold or result.cancel) is expected


async def test_arrival_that_came_with_a_hold_is_held_after_its_filter_passes(worker: DeliveryWorker) -> None:
    arrival_holds = (model.HoldReason.TokenHeld,)
    result = await settled(worker, filter_hold=model.HoldReason.FilterError, arrival_holds=arrival_holds)
    assert (result.settled_as, result.hold) == (model.SettledAs.Held, model.HoldReason.TokenHeld)


async def test_slow_filter_holds_its_route_until_it_changes(
    worker: DeliveryWorker, route_documents: RouteDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = expressions.Evaluation(value=False, cpu_seconds=SLOW_SECONDS)
    monkeypatch.setattr(route_documents, "evaluate_all", lambda *_: [slow])
    worker.apply(delivery_samples.snapshot(when="visit.late"))
    results = [await settled(worker, filter_hold=model.HoldReason.ExpressionTooSlow) for _ in range(4)]
    assert [result.hold for result in results] == [None] * 3 + [model.HoldReason.ExpressionTooSlow]


async def test_change_of_another_listener_keeps_a_slow_transform_held(
    worker: DeliveryWorker, route_documents: RouteDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = expressions.Evaluation({"u": "7"}, cpu_seconds=SLOW_SECONDS)
    monkeypatch.setattr(route_documents, "evaluate_all", lambda *_: [slow])
    for _ in range(4):
        await worker.attempt(delivery_samples.delivery())
    assert worker.is_too_slow(delivery_samples.ROUTE.listener, "crm")
    current_snapshot = delivery_samples.snapshot(TRANSFORM)
    other = documents.ListenerDocument("agency", "other", documents.TenantDocument("acme"), addresses=())
    worker.apply(documents.Snapshot({**current_snapshot.listeners, other.key: other}, current_snapshot.destinations))
    assert await hold_of_attempt(worker) is model.HoldReason.ExpressionTooSlow


async def test_delivery_of_a_former_listener_uses_its_own_route(
    worker: DeliveryWorker, surroundings: Surroundings
) -> None:
    mine = msgspec.structs.replace(delivery_samples.ROUTE, transform=TRANSFORM)
    theirs = documents.Route("crm", "agency/crm", transform='{"mail": visit.email}')
    moved = documents.ListenerDocument(
        "agency", "lobby", documents.TenantDocument("globex", state="Suspended"), addresses=(), routes=(theirs,)
    )
    worker.apply(documents.Snapshot({moved.key: moved}, {"agency/crm": delivery_samples.destination()}))
    surroundings.definition = mine
    await worker.attempt(delivery_samples.delivery())
    assert surroundings.sent[0].body == b'{"u":"7"}'


def test_forbidden_address_in_a_url_is_known_before_the_first_attempt(worker: DeliveryWorker) -> None:
    worker.apply(delivery_samples.snapshot(TRANSFORM, url="http://10.0.0.1/hook"))
    assert worker.forbidden == {"agency/crm"}
    worker.apply(delivery_samples.snapshot(TRANSFORM, url="http://crm.example/hook"))
    assert worker.forbidden == set()


async def test_answer_is_judged_by_the_document_that_the_request_was_made_of(
    worker: DeliveryWorker, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an edit would count a failure as delivered, or the other way round."""
    rules = (documents.AnswerRule("Retry", (200,)),)
    after: list[documents.Snapshot] = []

    async def send(request: DestinationRequest, _: float) -> DestinationAnswer:
        worker.apply(after[-1])
        return DestinationAnswer(200)

    monkeypatch.setattr(surroundings, "send", send)
    for snapshot in (delivery_samples.snapshot(), documents.Snapshot({}, {})):
        worker.apply(delivery_samples.snapshot(answers=rules))
        after.append(snapshot)
        assert (await settled(worker)).error == "RetriedByRule"
    worker.apply(delivery_samples.snapshot())
    after.append(delivery_samples.snapshot(answers=rules, url="https://moved.example/"))
    assert (await settled(worker)).settled_as is model.SettledAs.Delivered
    assert not activity.is_tried(worker.activity.of(after[-1].destinations["agency/crm"]))
