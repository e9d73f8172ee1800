"""The overview counts the visits of today, from midnight of the viewer's time zone on."""

from pathlib import Path

import pytest

from support import admin_port, browsing, samples

HOUR = samples.HOUR


@pytest.mark.parametrize(("zone", "visits"), [("UTC", 2), ("Asia/Tokyo", 3), ("America/New_York", 1)])
async def test_visits_of_today_begin_at_midnight_of_the_viewer(tmp_path: Path, zone: str, visits: int) -> None:
    async with admin_port.served(tmp_path) as served:
        midnight = samples.NOW // samples.DAY * samples.DAY
        for number, hour in enumerate((-10, -8, 1, 5)):  # Tokyo's day begins 9 hours before, New York's 5 hours after
            served.bench.clock.now = at = midnight + hour * HOUR
            await served.bench.accept(samples.arrival(f"{number}", at))
        served.bench.clock.now = midnight + 6 * HOUR
        async with browsing.opened(served) as browser:
            page = await browser.get("/ui/", ("Cookie", f"usher_zone={zone}"))
    assert f"{visits} visits today" in page.words


async def test_today_is_compared_with_other_days_and_the_last_hour(tmp_path: Path) -> None:
    async with admin_port.served(tmp_path) as served:
        midnight = samples.NOW // samples.DAY * samples.DAY
        now = midnight + 6 * HOUR
        times = [midnight - 14 * samples.DAY, *[midnight - 7 * samples.DAY] * 3, midnight - 22 * HOUR]
        times += [midnight - 17 * HOUR, midnight, now - HOUR, now]  # seven hours after yesterday began is too late
        for number, at in enumerate(times):
            served.bench.clock.now = at
            await served.bench.accept(samples.arrival(f"{number}", at))
        served.bench.clock.now = now + 60 * samples.SECOND
        async with browsing.opened(served) as browser:
            words = (await browser.get("/ui/")).words
    assert "Since 05:00 Today Yesterday by now Usual" in words
    assert "by now visits 2 3 1 2" in words
