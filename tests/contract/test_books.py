"""The books balance after every operation."""

import asyncio
import datetime
import zoneinfo
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import engines, samples
from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.base import Filter, Period

NOW, DAY, HOUR = samples.NOW, samples.DAY, samples.HOUR

ROUTES = {
    listener: (samples.route("crm", listener), samples.route("welcome", listener, "agency/mailer"))
    for listener in (samples.LOBBY, samples.BAR)
}


async def test_meters_agree_with_rows_at_every_slot_border(bench: engines.Bench) -> None:
    for hour in range(4):
        bench.clock.now = at = NOW + hour * HOUR
        (accepted,) = await bench.accept(samples.arrival(f"{hour}", at))
        if hour != 2:
            settled_as = model.SettledAs.Delivered
            bench.store.settle(samples.settlement(accepted.deliveries[0], settled_as, at + HOUR // 2))
    await bench.store.flush()
    borders = [
        NOW - HOUR,
        *[NOW + hour * HOUR + offset for hour in range(4) for offset in (0, HOUR // 4)],
        engines.FOREVER,
    ]
    open_at_borders = [(await bench.store.open_deliveries(at)).get(samples.LOBBY, 0) for at in borders]
    assert open_at_borders == [0, 0, 1, 0, 1, 0, 1, 1, 2, 1]
    assert await bench.violations() == []


@pytest.mark.parametrize("period", ["slot", "day", "month"])
async def test_usage_has_the_same_total_for_every_period(bench: engines.Bench, period: Period) -> None:
    times = [NOW, NOW + HOUR, NOW + DAY, NOW + 40 * DAY]
    for at in times:
        await bench.accept(samples.arrival(f"{at}", at))
    rows = await bench.store.usage(NOW, engines.FOREVER, Filter(), period)
    assert len(rows) == {"slot": 4, "day": 3, "month": 2}[period]
    assert sum(row.counts[model.Counter.visits] for row in rows) == 4
    assert all(books.first_second(row.period, period) == row.period for row in rows)


@pytest.mark.parametrize("name", ["Europe/London", "Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati"])
async def test_days_and_months_of_a_time_zone_begin_at_its_midnight(bench: engines.Bench, name: str) -> None:
    """Quarters of an hour add up in every zone. In London the clocks go back at the end of October."""
    zone = zoneinfo.ZoneInfo(name)
    first = datetime.datetime(2026, 10, 31, 23, 59, tzinfo=zone)
    moments = [first, first + datetime.timedelta(minutes=1), datetime.datetime(2026, 10, 25, 23, 59, tzinfo=zone)]
    for number, moment in enumerate(moments):
        at = int(moment.timestamp()) * model.MICROSECONDS
        await bench.accept(samples.arrival(f"{number}", at))
    for period, starts in {
        "day": [(2026, 10, 25), (2026, 10, 31), (2026, 11, 1)],
        "month": [(2026, 10, 1), (2026, 11, 1)],
    }.items():
        rows = await bench.store.usage(0, engines.FOREVER, Filter(), cast("Period", period), zone)
        assert [row.period for row in rows] == [datetime.datetime(*day, tzinfo=zone).timestamp() for day in starts]
        assert sum(row.counts[model.Counter.visits] for row in rows) == 3


async def test_usage_covers_only_the_requested_time_and_tenant(bench: engines.Bench) -> None:
    plans = (samples.plan(ROUTES[samples.BAR][0]),)
    await bench.accept(samples.arrival("a"), samples.arrival("b", listener=samples.BAR, if_visit=plans))
    await bench.accept(samples.arrival("c", NOW + DAY))
    border = model.slot_of(NOW) * model.MICROSECONDS
    acme = Filter(namespace="agency", tenant="acme")
    (row,) = await bench.store.usage(border, border + 1, acme)
    assert (row.listener, row.counts[model.Counter.visits]) == (samples.LOBBY, 1)
    assert await bench.store.usage(border - HOUR, border, acme) == []
    assert len(await bench.store.usage(border, engines.FOREVER, acme)) == 2
    assert await bench.store.usage(0, engines.FOREVER, Filter(tenant="nobody")) == []


async def test_ledger_has_as_many_rows_as_the_meters_count(bench: engines.Bench) -> None:
    await bench.accept(*[samples.arrival(content) for content in "aabbbc"], samples.quarantined())
    counts = await bench.counts()
    words = {"Visit": "visits", "Repeat": "repeats", "Redelivery": "redeliveries", "Quarantined": "quarantined"}
    for word, counter in words.items():
        assert len(await bench.visits(counted_as=word)) == counts.get(counter, 0)


# Random operations

Step = tuple[str, int]
ACTIONS = [
    *["visit"] * 6,
    *["repeat", "quarantine", "released", "replay", "redrive", "redrive cancelled", "probe"],
    *["delivered", "delivered", "dead", "retry", "cancelled", "held", "claim", "defer", "unhold", "cancel held"],
    *["wait", "prune", "reopen", "crash", "fold"],
]
steps = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1000)), min_size=1, max_size=25)


@pytest.mark.parametrize("fold_rows", [2, 1000])
def test_books_balance_after_random_operations(engine: engines.Engine, fold_rows: int) -> None:
    @settings(max_examples=12)
    @given(steps)
    def run(script: list[Step]) -> None:
        asyncio.run(_follow(engine, fold_rows, script))

    run()


async def _follow(engine: engines.Engine, fold_rows: int, script: list[Step]) -> None:
    async with engines.opened(engine, fold_rows=fold_rows) as bench:
        operations = Operations(bench)
        for action, number in script:
            await getattr(operations, action.replace(" ", "_"))(number)
            assert await bench.violations() == [], (action, number)
            pending = await bench.deliveries(state="pending")
            assert len(pending) == sum((await bench.store.open_deliveries(engines.FOREVER)).values())
            assert await bench.store.open_deliveries(0) == {}


class Operations:
    """The operations on a store. ``in_lanes`` are the deliveries that a dispatcher would have."""

    def __init__(self, bench: engines.Bench) -> None:
        self.bench = bench
        self.in_lanes: list[model.Delivery] = []
        self.made = 0

    @property
    def now(self) -> int:
        return self.bench.clock.now

    async def _accept(self, *arrivals: model.Arrival) -> None:
        for accepted in await self.bench.accept(*arrivals):
            self.in_lanes += accepted.deliveries

    def _arrival(self, number: int, **changes: Any) -> model.Arrival:
        listener = [samples.LOBBY, samples.BAR][number % 2]
        first, second = ROUTES[listener]
        kinds = [
            samples.plan(second),
            samples.skip(model.SkipReason(number % 6 + 1), second),
            samples.plan(second, hold=model.HoldReason.DestinationPaused),
            samples.plan(second, once_key=samples.digest(f"{number % 3}"), once_until=self.now + DAY),
        ]
        plans = (samples.plan(first), kinds[number % 4])
        self.made += 1
        values: dict[str, Any] = {
            "listener": listener,
            "if_visit": plans,
            "if_repeat": (samples.skip(model.SkipReason.Repeat, first), plans[1]),
            "body_days": number % 3 + 1,
        }
        return samples.arrival(f"{self.made}", self.now, **(values | changes))

    async def visit(self, number: int) -> None:
        await self._accept(*[self._arrival(number + extra) for extra in range(number % 3 + 1)])

    async def repeat(self, number: int) -> None:
        key = samples.digest("regular")
        await self._accept(*[self._arrival(number, visitor_key=key) for _ in range(2)])

    async def quarantine(self, number: int) -> None:
        reason = [model.QuarantineReason.NoUser, model.QuarantineReason.Truncated][number % 2]
        await self._accept(self._arrival(number, quarantine=reason, if_visit=(), if_repeat=()))

    async def released(self, number: int) -> None:
        quarantined = await self.bench.store.quarantined(Filter(), 10)
        for arrival in quarantined:
            first, second = ROUTES[arrival.listener]
            mark = samples.digest(f"{number % 3}")
            arrival.if_visit = (
                samples.plan(first, once_key=mark, once_until=self.now + DAY),
                samples.plan(second, hold=[None, model.HoldReason.DestinationPaused][number % 2]),
            )
        await self.bench.store.release(quarantined, self.now)
        await self.bench.store.release(quarantined, self.now)

    async def replay(self, number: int) -> None:
        await self.bench.store.replay(
            Filter(route=["crm", "welcome", None][number % 3]), list(model.SkipReason), self.now
        )

    async def redrive(self, number: int) -> None:
        await self.bench.store.redrive(Filter(destination=["agency/crm", None][number % 2]), self.now)

    async def redrive_cancelled(self, _: int) -> None:
        await self.bench.store.redrive(Filter(state="cancelled"), self.now)

    async def probe(self, _: int) -> None:
        self.bench.store.count(samples.LOBBY, model.Counter.probes, self.now)

    async def _settle(self, number: int, settled_as: model.SettledAs, **changes: Any) -> None:
        if self.in_lanes:
            delivery = self.in_lanes.pop(number % len(self.in_lanes))
            self.bench.store.settle(samples.settlement(delivery, settled_as, self.now, **changes))
            await self.bench.store.flush()

    async def delivered(self, number: int) -> None:
        await self._settle(number, model.SettledAs.Delivered)

    async def dead(self, number: int) -> None:
        await self._settle(number, model.SettledAs.Dead, answer=b"no")

    async def retry(self, number: int) -> None:
        await self._settle(number, model.SettledAs.Retry, due_at=self.now)

    async def cancelled(self, number: int) -> None:
        await self._settle(number, model.SettledAs.Cancelled, cancel=model.CancelReason.Expired)

    async def held(self, number: int) -> None:
        await self._settle(number, model.SettledAs.Held, hold=model.HoldReason.SecretNotFound)

    async def claim(self, number: int) -> None:
        for destination in ("agency/crm", "agency/mailer"):
            self.in_lanes += await self.bench.claim(destination, number % 5 + 1)

    async def defer(self, number: int) -> None:
        kept = self.in_lanes[number % 2 :]
        await self.bench.store.defer([delivery.key for delivery in self.in_lanes[: number % 2]])
        self.in_lanes = kept

    async def unhold(self, _: int) -> None:
        for group in await self.bench.store.held_groups():
            await self.bench.store.unhold(group, self.now)

    async def cancel_held(self, _: int) -> None:
        for group in await self.bench.store.held_groups():
            await self.bench.store.cancel_held(group, model.CancelReason.OnRequest, self.now, self.now)

    async def wait(self, number: int) -> None:
        self.bench.clock.now += [HOUR // 4, DAY, 9 * DAY, 62 * DAY][number % 4]

    async def prune(self, number: int) -> None:
        await self.bench.prune_all({"agency/acme": 1, "agency/globex": number % 2 + 1})

    async def reopen(self, _: int) -> None:
        await self.bench.reopen()
        self.in_lanes = []

    async def crash(self, _: int) -> None:
        await self.bench.reopen(crash=True)
        self.in_lanes = []

    async def fold(self, _: int) -> None:
        await self.bench.engine.upkeep(self.bench.store)
