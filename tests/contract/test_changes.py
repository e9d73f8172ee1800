"""Changes that people request: redrive, release, cancel and retry; and finding a person."""

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from support import engines, samples
from usher_gateway import model
from usher_gateway.store.base import Change, Filter
from usher_gateway.store.jobs import changes

SECOND, HOUR, DAY, NOW = samples.SECOND, samples.HOUR, samples.DAY, samples.NOW
SettledAs = model.SettledAs
ANY = Filter()


async def dead(bench: engines.Bench, content: str = "a", **changes: Any) -> model.Delivery:
    delivery = await bench.deliver(content, **changes)
    settled_as = SettledAs.Dead
    bench.store.settle(
        samples.settlement(delivery, settled_as, bench.clock.now, status=400, error="Status", answer=b"x")
    )
    await bench.store.flush()
    return delivery


# Redrive


async def test_redriven_delivery_is_due_with_its_id_and_no_attempts(bench: engines.Bench) -> None:
    dead_delivery = await dead(bench)
    bench.clock.now = NOW + DAY
    assert await bench.redrive(ANY, bench.clock.now) == 1
    (claimed,) = await bench.claim()
    assert (claimed.id, claimed.attempts, claimed.started_at) == (dead_delivery.id, 0, NOW + DAY)
    assert (await bench.counts())["redriven"] == 1
    (row,) = await bench.deliveries()
    assert (row["status"], row["error"], row["answerBytes"], row["settledAt"]) == (None, None, 0, None)


async def test_redrive_changes_only_deliveries_that_the_filter_selects(bench: engines.Bench) -> None:
    first = await dead(bench, "a")
    bench.clock.now = NOW + HOUR
    await dead(bench, "b", if_visit=(samples.plan(samples.MAILER),))
    redrive = bench.redrive
    assert await redrive(Filter(destination="agency/nobody"), NOW) == 0
    assert await redrive(Filter(tenant="globex"), NOW) == 0
    assert await redrive(Filter(until=NOW), NOW) == 0
    assert await redrive(Filter(reason="Timeout"), NOW) == 0
    assert await redrive(Filter(ids=(first.id,)), NOW) == 1
    assert await redrive(Filter(since=NOW + 1, route="welcome", reason="Status"), NOW) == 1
    assert await redrive(ANY, NOW) == 0


async def test_visits_are_accepted_during_a_large_redrive(bench: engines.Bench) -> None:
    plans = tuple([samples.plan()] * 32)
    for start in range(0, 120, 40):
        accepted = await bench.accept(
            *[samples.arrival(f"{number}", if_visit=plans) for number in range(start, start + 40)]
        )
        for arrival in accepted:
            for delivery in arrival.deliveries:
                bench.store.settle(samples.settlement(delivery, SettledAs.Dead))
    await bench.store.flush()
    redriving = asyncio.create_task(bench.redrive(ANY, NOW))
    await asyncio.sleep(0)
    assert await bench.words(samples.arrival("between")) == ["Visit"]
    assert not redriving.done()
    assert await redriving == 120 * 32


async def test_cancelled_deliveries_are_redriven_only_by_state(bench: engines.Bench) -> None:
    (accepted,) = await bench.accept(samples.arrival("a"))
    cancel = model.CancelReason.OnRequest
    await bench.settle(accepted.deliveries[0], SettledAs.Cancelled, cancel=cancel)
    assert await bench.redrive(ANY, NOW) == 0
    assert await bench.redrive(Filter(state="cancelled"), NOW) == 1
    with pytest.raises(ValueError, match="only dead and cancelled"):
        await bench.redrive(Filter(state="delivered"), NOW)


async def test_dead_delivery_that_was_redriven_and_cancelled_meanwhile_is_not_redriven_again(
    bench: engines.Bench,
) -> None:
    """An attempt may have sent it before it was cancelled."""
    await dead(bench, "a")
    keys, _ = await bench.store._look_up(functools.partial(changes.redrivable, where=ANY, cursor=None))
    assert await bench.redrive(ANY, NOW) == 1
    assert await bench.store.cancel(ANY, NOW, lambda _: None) == 1
    redrive = functools.partial(changes.redrive, keys=keys, now=NOW, holds={}, state=model.DeliveryState.Dead)
    assert await bench.store._change(redrive) == []


async def test_preview_counts_what_a_redrive_or_retry_would_change(bench: engines.Bench) -> None:
    await dead(bench, "dead")
    await dead(bench, "expired", if_visit=(samples.plan(expires_at=NOW + HOUR),))
    late, due = [
        arrival.deliveries[0] for arrival in await bench.accept(samples.arrival("late"), samples.arrival("due"))
    ]
    bench.store.settle(samples.settlement(late, SettledAs.Retry, due_at=NOW + DAY, error="Timeout"))
    await bench.settle(due, SettledAs.Retry, due_at=NOW, error="Timeout")

    async def reasons(change: Change, where: Filter, now: int) -> Mapping[str, int]:
        preview = await bench.store.preview(change, where, now)
        assert preview.destinations == {"agency/crm": preview.reasons.total()}
        return preview.reasons

    assert await reasons("redrive", ANY, NOW) == {"Status": 2}
    assert await reasons("redrive", ANY, NOW + HOUR) == {"Status": 1}
    assert await reasons("retry", ANY, NOW) == {"Timeout": 1}
    assert await reasons("cancel", Filter(route="crm"), NOW) == {"Timeout": 2}
    assert await bench.store.cancel(Filter(ids=(late.id,)), NOW, ignore) == 1
    on_request = Filter(state="cancelled", reason="OnRequest")
    assert await reasons("redrive", on_request, NOW) == {"OnRequest": 1}
    assert await bench.redrive(on_request, NOW) == 1


async def test_expired_delivery_is_not_redriven(bench: engines.Bench) -> None:
    await dead(bench, if_visit=(samples.plan(expires_at=NOW + HOUR),))
    assert await bench.redrive(ANY, NOW + HOUR) == 0
    assert await bench.redrive(ANY, NOW + HOUR - 1) == 1


# Replay


# Release


async def release(bench: engines.Bench, *plans: model.RoutePlan, **changes: Any) -> int:
    quarantined = await bench.store.quarantined(ANY, 10)
    for arrival in quarantined:
        arrival.if_visit = plans
        for name, value in changes.items():
            setattr(arrival, name, value)
    return await bench.store.release(quarantined, bench.clock.now)


async def test_released_arrival_is_delivered_once_and_stays_quarantined(bench: engines.Bench) -> None:
    await bench.accept(samples.quarantined("q", hops=1))
    (quarantined,) = await bench.store.quarantined(ANY, 10)
    assert (quarantined.body, quarantined.hops, quarantined.received_at) == (samples.arrival("q").body, 1, NOW)
    assert await release(bench, samples.plan(), samples.skip(model.SkipReason.Filter, samples.MAILER)) == 1
    quarantined.if_visit = (samples.plan(),)
    assert await bench.store.release([quarantined], NOW) == 0
    assert await bench.store.quarantined(ANY, 10) == []
    (claimed,) = await bench.claim()
    assert claimed.body == quarantined.body
    assert await bench.counts() == {"quarantined": 1, "released": 1}
    (row,) = await bench.visits(state="released")
    assert [verdict.get("skipped") for verdict in row["verdicts"]] == [None, "Filter"]


async def test_released_delivery_is_held_if_its_plan_holds_it(bench: engines.Bench) -> None:
    await bench.accept(samples.quarantined("q"))
    assert await release(bench, samples.plan(hold=model.HoldReason.DestinationPaused)) == 1
    assert await bench.claim() == []
    assert [row["held"] for row in await bench.deliveries(state="held")] == ["DestinationPaused"]


async def test_release_respects_once_per_marks(bench: engines.Bench) -> None:
    await bench.accept(samples.quarantined("q"), samples.quarantined("r"))
    plan = samples.plan(once_key=samples.digest("today"), once_until=NOW + DAY)
    assert await release(bench, plan) == 1
    (accepted,) = await bench.accept(samples.arrival("a", if_visit=(plan,)))
    assert accepted.deliveries == ()


@pytest.mark.parametrize("reason", [model.QuarantineReason.Truncated, model.QuarantineReason.Unstorable])
async def test_truncated_or_unstorable_arrival_cannot_be_released(
    bench: engines.Bench, reason: model.QuarantineReason
) -> None:
    arrival = samples.quarantined("q", quarantine=reason)
    await bench.accept(arrival)
    assert await bench.store.quarantined(ANY, 10) == []
    arrival.if_visit = (samples.plan(),)
    assert await bench.store.release([arrival], NOW) == 0


async def test_visit_cannot_be_released(bench: engines.Bench) -> None:
    arrival = samples.arrival("a")
    await bench.accept(arrival)
    assert await bench.store.release([arrival], NOW) == 0


async def test_quarantined_arrivals_are_paged_oldest_first(bench: engines.Bench) -> None:
    await bench.accept(*[samples.quarantined(content) for content in "abc"])
    first = await bench.store.quarantined(ANY, 2)
    rest = await bench.store.quarantined(ANY, 2, first[-1].key)
    assert [arrival.body for arrival in (*first, *rest)] == [samples.arrival(content).body for content in "abc"]


# Persons


KEY = samples.digest("jane", 8)


@pytest.mark.parametrize("crash", [None, False, True])
async def test_person_is_found_in_every_place(folding_engine: engines.Engine, crash: bool | None) -> None:
    async with engines.opened(folding_engine) as bench:
        person: dict[str, Any] = {"person_keys": (samples.digest("other", 8), KEY)}
        await bench.accept(samples.arrival("a", **person), samples.arrival("b"))
        await folding_engine.fold(bench.store)
        await bench.accept(samples.quarantined("c", **person))
        await bench.accept(samples.arrival("d", listener=samples.BAR, if_visit=(), **person))
        if crash is not None:
            await bench.reopen(crash=crash)
        at_bar, quarantined, _, oldest = [row["id"] for row in await bench.visits()]
        assert await bench.ids_of_person(KEY, samples.digest("nobody", 8)) == [at_bar, quarantined, oldest]
        assert await bench.ids_of_person(samples.digest("nobody", 8)) == []
        first = await bench.store.of_person([KEY], None, 2)
        rest = await bench.store.of_person([KEY], first.next_cursor, 2)
        assert [[row["id"] for row in page.rows] for page in (first, rest)] == [[at_bar, quarantined], [oldest]]
        assert rest.next_cursor is None


async def test_person_whose_key_begins_like_another_is_not_found(folding_engine: engines.Engine) -> None:
    similar = [KEY[:2] + end for end in (b"\x00" * 6, b"\xff" * 6)]
    async with engines.opened(folding_engine) as bench:
        await bench.accept(*[samples.arrival(f"{number}", person_keys=(key,)) for number, key in enumerate(similar)])
        await folding_engine.fold(bench.store)
        assert await bench.ids_of_person(KEY) == []
        assert [len(await bench.ids_of_person(key)) for key in similar] == [1, 1]


@pytest.mark.parametrize("flushes", [0, 100, 300])
@pytest.mark.parametrize("crash", [None, True])
async def test_person_read_at_the_release_is_found_afterwards(
    folding_engine: engines.Engine, flushes: int, crash: bool | None
) -> None:
    """The release comes before, during or after the fold of the arrival."""
    async with engines.opened(folding_engine) as bench:
        await bench.accept(samples.quarantined("q", person_keys=()))
        for _ in range(flushes):
            await bench.store.flush()
        await release(bench, samples.plan(), person_keys=(KEY,))
        await folding_engine.fold(bench.store)
        if crash is not None:
            await bench.reopen(crash=crash)
        assert len(await bench.ids_of_person(KEY)) == 1


async def test_earlier_visit_of_a_repeat_is_found_by_the_same_visitor(folding_engine: engines.Engine) -> None:
    async with engines.opened(folding_engine) as bench:
        person: dict[str, Any] = {"visitor_key": samples.digest("jane at the lobby"), "person_keys": (KEY,)}
        await bench.accept(samples.arrival("a", **person), samples.arrival("b", person_keys=(KEY,)))
        await folding_engine.fold(bench.store)
        await bench.accept(samples.arrival("c", samples.NOW + 1, **person))
        repeat, other, visit = [model.parse_id(row["id"]) for row in await bench.visits()]
        assert [await bench.store.earlier_visit(each) for each in (repeat, other, visit)] == [visit, None, None]


async def test_verdicts_have_the_route_as_it_was_and_the_reason(bench: engines.Bench) -> None:
    route = model.RouteDefinition(samples.LOBBY, "crm", "agency/crm", when="visit.late")
    await bench.accept(samples.arrival("a", if_visit=(samples.skip(model.SkipReason.Filter, route), samples.plan())))
    await bench.reopen()
    (row,) = await bench.visits()
    assert await bench.store.verdicts(model.parse_id(row["id"])) == [
        (route, model.SkipReason.Filter),
        (samples.CRM, None),
    ]
    with pytest.raises(model.NotFoundError):
        await bench.store.verdicts(bytes(16))


# Holds of redriven deliveries


def paused(_: model.RouteDefinition) -> list[model.HoldReason]:
    return [model.HoldReason.DestinationPaused]


def old_address(_: model.RouteDefinition) -> list[model.HoldReason]:
    return [model.HoldReason.TokenHeld]


async def test_redriven_deliveries_are_held_like_fresh_ones(bench: engines.Bench) -> None:
    await dead(bench, "a")
    assert await bench.redrive(ANY, NOW + HOUR, paused) == 1
    (row,) = await bench.deliveries(state="held")
    assert (row["held"], row["heldSince"]) == ("DestinationPaused", model.format_time(NOW + HOUR))
    assert await bench.claim() == []


async def test_hold_of_an_arrival_holds_its_redriven_deliveries_only(bench: engines.Bench) -> None:
    await dead(bench, "a")
    await dead(bench, "b", token_held=True)
    assert await bench.redrive(ANY, NOW, old_address) == 2
    assert [row["held"] for row in await bench.deliveries(state="held")] == ["TokenHeld"]
    assert len(await bench.claim()) == 1


async def test_redrive_of_what_a_filter_held_when_cancelled_asks_the_filter_again(bench: engines.Bench) -> None:
    await bench.accept(
        samples.arrival("undecided", if_visit=(samples.plan(hold=model.HoldReason.FilterError),)),
        samples.arrival("paused", if_visit=(samples.plan(hold=model.HoldReason.DestinationPaused),)),
    )
    assert await bench.store.cancel(ANY, NOW, ignore) == 2
    assert await bench.store.held_groups() == []
    cancelled = await bench.deliveries(state="cancelled")
    assert [row["held"] for row in cancelled] == [None, None]
    assert (await bench.store.preview("redrive", Filter(state="cancelled"), NOW)).reasons == {"OnRequest": 2}
    assert await bench.redrive(Filter(state="cancelled"), NOW) == 2
    assert {claimed.filter_hold for claimed in await bench.claim()} == {model.HoldReason.FilterError, None}


# Cancel and retry


async def test_pending_and_held_deliveries_are_cancelled_on_request(bench: engines.Bench) -> None:
    ended = await dead(bench, "dead")
    lane, _ = await bench.accept(
        samples.arrival("a"), samples.arrival("b", if_visit=(samples.plan(hold=model.HoldReason.QuotaExceeded),))
    )
    cancelled: list[int] = []
    preview = await bench.store.preview("cancel", ANY, NOW)
    assert preview.reasons == {"NotTried": 1, "QuotaExceeded": 1}
    assert preview.tenants == {"agency/acme": 2}
    assert [row["id"] for row in await bench.deliveries(reason="NotTried")] == [model.format_id(lane.deliveries[0].id)]
    assert await bench.store.cancel(ANY, NOW + HOUR, cancelled.extend) == 2
    assert set(cancelled) >= {lane.deliveries[0].key}
    rows = {row["id"]: row for row in await bench.deliveries(state="cancelled")}
    assert [row["cancelled"] for row in rows.values()] == ["OnRequest"] * 2
    assert model.format_id(ended.id) not in rows
    counts = await bench.counts()
    assert (counts["cancelled"], await bench.store.open_deliveries(1 << 62)) == (2, {})
    assert await bench.store.held_groups() == []
    await bench.settle(lane.deliveries[0], SettledAs.Delivered, status=200)
    assert (await bench.counts()).get("delivered", 0) == 0, "the result of a running attempt comes too late"


async def test_cancel_changes_only_deliveries_that_the_filter_selects(bench: engines.Bench) -> None:
    first, _ = await bench.accept(samples.arrival("a"), samples.arrival("b", if_visit=(samples.plan(samples.MAILER),)))
    assert await bench.store.cancel(Filter(destination="agency/nobody"), NOW, ignore) == 0
    assert await bench.store.cancel(Filter(ids=(first.deliveries[0].id,)), NOW, ignore) == 1
    assert await bench.store.cancel(Filter(route="welcome", state="pending"), NOW, ignore) == 1
    assert await bench.store.cancel(ANY, NOW, ignore) == 0
    with pytest.raises(ValueError, match="only pending deliveries"):
        await bench.store.cancel(Filter(state="dead"), NOW, ignore)
    with pytest.raises(ValueError, match="only pending deliveries"):
        await bench.store.preview("cancel", Filter(state="dead"), NOW)


async def test_pending_retries_are_made_due_now(bench: engines.Bench) -> None:
    first, second = [
        arrival.deliveries[0] for arrival in await bench.accept(samples.arrival("a"), samples.arrival("b"))
    ]
    for delivery in (first, second):
        bench.store.settle(samples.settlement(delivery, SettledAs.Retry, due_at=NOW + HOUR, error="Timeout"))
    await bench.accept(samples.arrival("c", if_visit=(samples.plan(hold=model.HoldReason.DestinationPaused),)))
    await bench.store.flush()
    assert await bench.store.retry(Filter(ids=(first.id,)), NOW) == 1
    assert [claimed.key for claimed in await bench.claim()] == [first.key]
    assert await bench.store.retry(Filter(reason="Timeout"), NOW) == 1
    (claimed,) = await bench.claim()
    assert (claimed.key, claimed.attempts) == (second.key, 1)
    assert await bench.store.retry(ANY, NOW) == 0, "neither held deliveries nor those in lanes are made due"


def ignore(_: Sequence[int]) -> None:
    pass
