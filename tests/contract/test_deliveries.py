"""Deliveries in lanes, in the backlog, held and settled, and after a restart."""

import tracemalloc
from typing import Any

import pytest

from support import engines, samples
from usher_gateway import model
from usher_gateway.store.base import AttemptRecord, Filter

SECOND, HOUR, NOW = samples.SECOND, samples.HOUR, samples.NOW
SettledAs = model.SettledAs
MEGABYTE = 1_000_000


async def only_row(bench: engines.Bench) -> dict[str, Any]:
    (row,) = await bench.deliveries()
    return row


async def test_delivered_settlement_keeps_the_status(bench: engines.Bench) -> None:
    await bench.settle(await bench.deliver(), SettledAs.Delivered, status=204)
    row = await only_row(bench)
    assert (row["state"], row["status"], row["attempts"]) == ("delivered", 204, 1)
    counts = await bench.counts()
    assert (counts["delivered"], counts["attempts"]) == (1, 1)


async def test_dead_deliveries_are_counted_by_route(bench: engines.Bench) -> None:
    await bench.settle(await bench.deliver("a"), SettledAs.Delivered)
    await bench.settle(await bench.deliver("b"), SettledAs.Dead)
    await bench.settle(await bench.deliver("c"), SettledAs.Dead)
    dead = await bench.store.dead_by_route()
    assert {bench.store.route(route): count for route, count in dead.items()} == {samples.CRM: 2}


async def test_settlements_of_one_batch_apply_in_their_order(bench: engines.Bench) -> None:
    """Each case: settlements as (settled as, attempts before), the final state, and the final number of attempts."""
    cases: list[tuple[list[tuple[SettledAs, int]], tuple[str, int]]] = [
        ([(SettledAs.Delivered, 7), (SettledAs.Delivered, 0)], ("delivered", 1)),
        ([(SettledAs.Delivered, 0), (SettledAs.Dead, 0), (SettledAs.Delivered, 0)], ("delivered", 1)),
        ([(SettledAs.Retry, 0), (SettledAs.Delivered, 0), (SettledAs.Delivered, 1)], ("delivered", 2)),
        ([(SettledAs.Dead, 0), (SettledAs.Delivered, 0)], ("dead", 1)),
    ]
    for number, (results, _) in enumerate(cases):
        delivery = await bench.deliver(f"content {number}")
        for settled_as, attempts_before in results:
            changes = {"attempts_before": attempts_before, "attempts": attempts_before + 1}
            bench.store.settle(samples.settlement(delivery, settled_as, **changes))
        await bench.store.flush()
    states_and_attempts = [(row["state"], row["attempts"]) for row in await bench.deliveries()]
    assert sorted(states_and_attempts) == sorted(expected for _, expected in cases)
    counts = await bench.counts()
    assert (counts["delivered"], counts["died"], counts["attempts"]) == (3, 1, 5)


async def test_retry_is_claimed_only_when_it_is_due(bench: engines.Bench) -> None:
    await bench.settle(await bench.deliver(), SettledAs.Retry, due_at=NOW + 5 * SECOND, status=503, error="Status")
    bench.clock.now = NOW + 5 * SECOND - 1
    assert await bench.claim() == []
    bench.clock.now += 1
    (claimed,) = await bench.claim()
    assert (claimed.attempts, claimed.body) == (1, samples.arrival("a").body)
    assert await bench.claim() == []


async def test_claim_takes_the_longest_due_within_count_and_bytes(bench: engines.Bench) -> None:
    for number, due in enumerate([3, 1, 2]):
        delivery = await bench.deliver(str(number))
        await bench.settle(delivery, SettledAs.Retry, due_at=NOW + due)
    size = len(samples.arrival("0").body)
    bench.clock.now = NOW + 10
    first = await bench.store.claim("agency/crm", 10, size, bench.clock.now)
    second = await bench.store.claim("agency/crm", 1, 1 << 20, bench.clock.now)
    third = await bench.store.claim("agency/crm", 10, 1, bench.clock.now)
    bodies = [delivery.body for delivery in (*first, *second, *third)]
    assert bodies == [samples.arrival(content).body for content in "120"]


async def test_claim_loads_only_the_bodies_that_have_room(bench: engines.Bench) -> None:
    """Otherwise the bodies of all due deliveries would be in memory at once."""
    for number in range(20):
        await bench.settle(await bench.deliver(str(number), body=b"x" * MEGABYTE), SettledAs.Retry, due_at=NOW)
    tracemalloc.start()
    claimed = await bench.store.claim("agency/crm", 100, 2 * MEGABYTE, NOW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(claimed) == 2
    assert peak < 10 * MEGABYTE


async def test_claim_takes_deliveries_of_one_destination_only(bench: engines.Bench) -> None:
    await bench.settle(await bench.deliver(), SettledAs.Retry, due_at=NOW)
    assert await bench.claim("agency/mailer") == []
    assert await bench.store.due() == {"agency/crm": NOW}


async def test_deferring_a_settled_delivery_changes_nothing(bench: engines.Bench) -> None:
    delivery = await bench.deliver()
    await bench.settle(delivery, SettledAs.Delivered)
    await bench.store.defer([delivery.key])
    assert await bench.claim() == []


# Holds


async def test_retry_clock_stops_while_a_delivery_is_held(bench: engines.Bench) -> None:
    delivery = await bench.deliver()
    started_at = delivery.started_at
    await bench.settle(delivery, SettledAs.Held, at=NOW + HOUR, attempts=0, hold=model.HoldReason.DestinationPaused)
    (group,) = await bench.store.held_groups()
    assert (group.reason, group.count, group.since) == (model.HoldReason.DestinationPaused, 1, NOW + HOUR)
    bench.clock.now = NOW + 10 * HOUR
    assert await bench.store.unhold(group, bench.clock.now) == 1
    (claimed,) = await bench.claim()
    assert claimed.started_at == started_at + 9 * HOUR
    assert await bench.store.held_groups() == []


async def test_delivery_stays_held_for_a_reason_of_its_arrival(bench: engines.Bench) -> None:
    plans = (samples.plan(hold=model.HoldReason.DestinationPaused),)
    await bench.accept(samples.arrival("a", if_visit=plans, token_held=True), samples.arrival("b", if_visit=plans))
    (group,) = await bench.store.held_groups()
    bench.clock.now = NOW + HOUR
    assert await bench.store.unhold(group, bench.clock.now, [model.HoldReason.TokenHeld]) == 2
    assert [delivery.body for delivery in await bench.claim()] == [samples.arrival("b").body]
    (left,) = await bench.store.held_groups()
    assert (left.reason, left.count) == (model.HoldReason.TokenHeld, 1)
    bench.clock.now = NOW + 3 * HOUR
    assert await bench.store.unhold(left, bench.clock.now, [model.HoldReason.QuotaExceeded]) == 1
    (claimed,) = await bench.claim()
    assert claimed.started_at == NOW + 3 * HOUR


async def test_unhold_ends_although_the_reason_of_the_group_holds_again(bench: engines.Bench) -> None:
    plans = (samples.plan(hold=model.HoldReason.TokenHeld),)
    await bench.accept(samples.arrival("a", if_visit=plans, token_held=True))
    (group,) = await bench.store.held_groups()
    assert await bench.store.unhold(group, NOW, [model.HoldReason.TokenHeld]) == 1
    assert await bench.store.held_groups() == []


async def test_cancel_held_takes_only_deliveries_held_long_enough(bench: engines.Bench) -> None:
    plan = samples.plan(hold=model.HoldReason.DestinationNotFound)
    await bench.accept(samples.arrival("a", if_visit=(plan,)))
    bench.clock.now = NOW + HOUR
    await bench.accept(samples.arrival("b", NOW + HOUR, if_visit=(plan,)))
    (group,) = await bench.store.held_groups()
    reason = model.CancelReason.DestinationDeleted
    assert await bench.store.cancel_held(group, reason, NOW + 1, bench.clock.now) == 1
    states = {row["state"]: row["cancelled"] for row in await bench.deliveries()}
    assert states == {"pending": None, "cancelled": "DestinationDeleted"}
    assert (await bench.counts())["cancelled"] == 1


async def test_one_unhold_call_changes_more_than_a_slice(bench: engines.Bench) -> None:
    plans = tuple([samples.plan(hold=model.HoldReason.SecretNotFound)] * 30)
    for start in range(0, 90, 45):
        await bench.accept(*[samples.arrival(f"{number}", if_visit=plans) for number in range(start, start + 45)])
    (group,) = await bench.store.held_groups()
    assert await bench.store.unhold(group, NOW) == group.count == 2_700


MENDED = model.RouteDefinition(samples.LOBBY, "crm", "agency/crm", when="true")


async def release_undecided(bench: engines.Bench) -> model.Delivery:
    """Accept a delivery whose filter fails, release it under another definition of its route, and claim it."""
    await bench.accept(samples.arrival("a", if_visit=(samples.plan(hold=model.HoldReason.FilterError),)))
    (group,) = await bench.store.held_groups()
    assert await bench.store.unhold(group, NOW, newest=MENDED) == 1
    (claimed,) = await bench.claim()
    return claimed


async def test_held_delivery_is_released_under_another_route(bench: engines.Bench) -> None:
    claimed = await release_undecided(bench)
    assert (bench.store.route(claimed.route), claimed.filter_hold) == (MENDED, model.HoldReason.FilterError)
    assert await bench.store.held_groups() == []
    assert await bench.violations() == []


@pytest.mark.parametrize("event", ["crash", "defer", "undecided retry", "cancel and redrive"])
async def test_released_delivery_waits_for_its_filter_until_it_has_decided(bench: engines.Bench, event: str) -> None:
    claimed = await release_undecided(bench)
    match event:
        case "crash":
            assert (await bench.reopen(crash=True)).recovered == 1
        case "defer":
            await bench.store.defer([claimed.key])
        case "undecided retry":
            await bench.settle(claimed, SettledAs.Retry, attempts=0, due_at=NOW, hold=claimed.filter_hold)
        case _:
            assert await bench.store.cancel(Filter(), NOW, lambda _: None) == 1
            assert await bench.redrive(Filter(state="cancelled"), NOW) == 1
    (again,) = await bench.claim()
    assert again.filter_hold is model.HoldReason.FilterError
    await bench.settle(again, SettledAs.Retry, due_at=NOW)
    (decided,) = await bench.claim()
    assert decided.filter_hold is None
    assert await bench.violations() == []


# Restarts


async def test_settled_delivery_stays_settled_after_a_crash(bench: engines.Bench) -> None:
    await bench.settle(await bench.deliver(), SettledAs.Dead, status=410, error="Gone", answer=b"gone")
    report = await bench.reopen(crash=True)
    assert report.recovered == 0
    row = await only_row(bench)
    assert (row["state"], row["error"], row["answerBytes"]) == ("dead", "Gone", 4)
    assert await bench.store.answer(model.parse_id(row["id"])) == b"gone"


# Attempts


async def test_last_ten_attempts_are_kept_with_their_results(bench: engines.Bench) -> None:
    (accepted,) = await bench.accept(samples.arrival("a"))
    (delivery,) = accepted.deliveries
    assert await bench.store.attempts(delivery.id) == []
    for number in range(12):
        at = NOW + number * SECOND
        bench.store.settle(
            samples.settlement(delivery, SettledAs.Retry, at, due_at=at, error="Timeout", milliseconds=1_000 + number)
        )
        await bench.store.flush()
        bench.clock.now = at
        (delivery,) = await bench.claim()
    bench.store.settle(samples.settlement(delivery, SettledAs.Delivered, NOW + HOUR, status=204, milliseconds=7))
    await bench.store.flush()
    attempts = await bench.store.attempts(delivery.id)
    assert [attempt.milliseconds for attempt in attempts] == [*range(1_003, 1_012), 7]
    assert attempts[0] == AttemptRecord(NOW + 3 * SECOND, 0, "Timeout", 1_003)
    assert attempts[-1] == AttemptRecord(NOW + HOUR, 204, "", 7)


async def test_hold_and_late_result_are_no_attempts(bench: engines.Bench) -> None:
    (accepted,) = await bench.accept(samples.arrival("a"))
    (delivery,) = accepted.deliveries
    bench.store.settle(samples.settlement(delivery, SettledAs.Delivered, status=200, milliseconds=3))
    await bench.settle(delivery, SettledAs.Retry, error="Timeout", milliseconds=4)
    assert [attempt.milliseconds for attempt in await bench.store.attempts(delivery.id)] == [3]
    (accepted,) = await bench.accept(samples.arrival("b"))
    (held,) = accepted.deliveries
    await bench.settle(held, SettledAs.Held, attempts=0, hold=model.HoldReason.DestinationPaused)
    assert await bench.store.attempts(held.id) == []
    with pytest.raises(model.NotFoundError):
        await bench.store.attempts(bytes(16))
