"""The books balance after every operation."""

import datetime
import zoneinfo
from typing import cast

import pytest

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


async def test_views_of_all_listeners_agree_with_the_usage_as_time_goes_on(bench: engines.Bench) -> None:
    """The store adds up the slots that ended an hour ago once, and later views go on from there."""
    midnight = NOW // DAY * DAY
    places = (samples.LOBBY, samples.BAR)
    for number in range(40):
        bench.clock.now = at = midnight + number * HOUR * 5 // 8
        await bench.accept(samples.arrival(f"{number}", at, listener=places[number % 2], if_visit=()))
        if number == 20:
            await bench.reopen()
        today = at // DAY * DAY
        by_day = {row.listener: row.counts for row in await bench.store.usage_of_day(today)}
        usage = await bench.store.usage(today, today + DAY, Filter(), "day")
        assert by_day == {row.listener: row.counts for row in usage}
        acme = Filter(permitted=frozenset({"agency/acme"}))
        of_acme = {row.listener: row.counts for row in await bench.store.usage_of_day(today, acme)}
        assert of_acme == {name: counts for name, counts in by_day.items() if name.tenant == "acme"}
        slots: dict[int, model.Counts] = {}
        for row in await bench.store.usage(today, at + 1, Filter()):
            books.add(slots.setdefault(row.period, {}), row.counts)
        assert await bench.store.totals(today, at + 1) == slots


async def test_totals_of_all_times_include_the_first_slots(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("one"))
    totals = await bench.store.totals(0, engines.FOREVER)
    assert [counts[model.Counter.visits] for counts in totals.values()] == [1]
