"""The overview counts the visits of the viewer's day, and leads to the tenants that need a person."""

import re

import pytest

from support import admin_port, browsing, samples

HOUR = samples.HOUR


@pytest.mark.parametrize(("zone", "visits"), [("UTC", 2), ("Asia/Tokyo", 3), ("America/New_York", 1)])
async def test_visits_of_today_begin_at_midnight_of_the_viewer(
    empty: admin_port.Served, zone: str, visits: int
) -> None:
    midnight = samples.NOW // samples.DAY * samples.DAY
    for number, hour in enumerate((-10, -8, 1, 5)):  # Tokyo's day begins 9 hours before, New York's 5 hours after
        empty.bench.clock.now = at = midnight + hour * HOUR
        await empty.bench.accept(samples.arrival(f"{number}", at))
    empty.bench.clock.now = midnight + 6 * HOUR
    async with browsing.opened(empty) as browser:
        page = await browser.get("/ui/", ("Cookie", f"usher_zone={zone}"))
    assert f"{visits} visits today" in page.words


async def test_today_is_compared_with_other_days_and_the_last_hour(empty: admin_port.Served) -> None:
    midnight = samples.NOW // samples.DAY * samples.DAY
    now = midnight + 6 * HOUR
    times = [midnight - 14 * samples.DAY, *[midnight - 7 * samples.DAY] * 3, midnight - 22 * HOUR]
    times += [midnight - 17 * HOUR, midnight, now - HOUR, now]  # seven hours after yesterday began is too late
    for number, at in enumerate(times):
        empty.bench.clock.now = at
        await empty.bench.accept(samples.arrival(f"{number}", at))
    empty.bench.clock.now = now + 60 * samples.SECOND
    async with browsing.opened(empty) as browser:
        words = (await browser.get("/ui/")).words
    assert "Last hour (since 05:00) Today Yesterday by now Usual" in words
    assert "by now visits 2 3 1 2" in words


async def test_tenants_that_need_a_person_stand_above_the_chart(served: admin_port.Served) -> None:
    words = await browsing.words_of(served, "/ui/")
    assert re.search("visits today .* needs attention .* Visits a minute, last 24 hours .* Compared", words)


async def test_counts_of_today_lead_to_their_arrivals(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/", ("Cookie", "usher_zone=Asia/Tokyo"))
    links = {kind: f"/ui/visits?countedAs={kind}&amp;since=2025-11-25T00:00" for kind in ("visit", "quarantined")}
    assert [f'<a href="{link}">' in page.text for link in links.values()] == [True, True]


async def test_day_without_counts_is_not_compared(served: admin_port.Served) -> None:
    words = await browsing.words_of(served, "/ui/")
    assert re.search(r"Last hour \(since 11:00\) Today visits 4 4 ", words)


@pytest.mark.parametrize("page", ["9" * 5_000, "9999", "-1", "x", "\u0663"])
async def test_overview_with_an_odd_page_number_is_shown(served: admin_port.Served, page: str) -> None:
    assert "Overview" in await browsing.words_of(served, f"/ui/?page={page}")


async def test_overview_leads_to_the_tenant(browser: browsing.Browser) -> None:
    overview = await browser.get("/ui/")
    assert '<a href="/ui/tenants/agency/acme">agency/acme</a>' in overview.text
    assert '<a class="step" href="/ui/destinations/agency/crm">Ask who runs crm.</a>' in overview.text


async def test_overview_of_the_first_day_knows_no_usual_number(served: admin_port.Served) -> None:
    served.bench.clock.now += 60 * samples.SECOND
    words = await browsing.words_of(served, "/ui/")
    assert "4 visits today no earlier day yet" in words
    assert "As of 2025-11-25 12:01:00 ; load the page again for newer numbers ." in words


async def test_quarter_of_an_hour_that_is_not_over_counts_its_minutes_alone(served: admin_port.Served) -> None:
    served.bench.clock.now += 4 * 60 * samples.SECOND
    assert "Last: 1 visits a minute." in await browsing.words_of(served, "/ui/")


async def test_overview_leads_to_the_listener_that_refuses_and_says_since_when(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    served.is_refusing = True
    page = await browser.get("/ui/")
    assert '<a class="step" href="/ui/listeners/agency/lobby">Purple disables the webhook' in page.text
    assert re.search(r"look at the listener's faults\. 2025-11-25 12:00:00 4 0", page.words)
    (row,) = (await served.get("/api/tenants"))["rows"]
    assert row["firstFaults"]["Refusing"]["listener"] == "agency/lobby"


async def test_list_of_one_visit_has_no_plural(empty: admin_port.Served) -> None:
    await empty.bench.accept(samples.arrival("1", samples.NOW))
    assert "1 arrival." in await browsing.words_of(empty, "/ui/visits")


async def test_overview_says_how_many_tenants_a_search_selects(served: admin_port.Served) -> None:
    assert "1 of 1 tenant has “acm” in the name" in await browsing.words_of(served, "/ui/?q=acm")
    assert "1 of 1 tenant needs attention" in await browsing.words_of(served, "/ui/")
