"""The page of usage: a month by day and by tenant, compared with the month before, and as CSV."""

import csv
import datetime
import io

import pytest

from support import admin_port, browsing, samples
from usher_gateway.access import tokens

LAST_OF_OCTOBER = samples.NOW - 26 * samples.DAY + 11 * samples.HOUR  # 2025-10-30 23:00 UTC


@pytest.fixture
async def served(empty: admin_port.Served) -> admin_port.Served:
    """Serve two visits at acme and one at globex in November 2025, and one at acme at the end of October."""
    await empty.bench.accept(
        samples.arrival("october", LAST_OF_OCTOBER + samples.DAY),
        samples.arrival("a"),
        samples.arrival("b"),
        samples.arrival("c", listener=samples.BAR),
    )
    return empty


async def test_month_is_compared_with_the_month_before(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/usage?month=2025-11")
    assert "3 visits +200 %, from 1" in page.words
    assert "2 tenants by visits, 2025-11" in page.words
    assert "agency/acme 2 +100 %" in page.words
    assert "agency/globex 1 new" in page.words
    assert "2025-11 3 +200 %" in page.words
    assert "Highest: 3 visits at 11-25." in page.words


async def test_days_and_months_are_those_of_the_viewers_zone(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/usage?month=2025-11")
    assert "2025-11-01 0 0" in page.words
    await browser.send("/ui/zone", page, zone="Europe/Berlin")
    in_berlin = await browser.get("/ui/usage?month=2025-11")
    assert "Days and months are those of Europe/Berlin." in in_berlin.words
    assert ("4 visits none before" in in_berlin.words, "2025-11-01 1 0" in in_berlin.words) == (True, True)


async def test_one_tenant_has_its_months_and_its_time_zone(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/usage?month=2025-11")
    await browser.send("/ui/zone", page, zone="Europe/Berlin")
    of_acme = await browser.get("/ui/usage?tenant=agency/acme&month=2025-11")
    in_berlin = await browser.get("/ui/usage?tenant=agency/acme&month=2025-11&zone=viewer")
    assert "Days and months are those of UTC, the tenant's time zone. Show those of Europe/Berlin" in of_acme.words
    assert "Days and months are those of Europe/Berlin. Show those of the tenant's zone" in in_berlin.words
    assert "3 visits none before" in in_berlin.words
    assert '<a href="/ui/tenants/agency/acme">The tenant agency/acme</a>' in of_acme.text
    assert ("2 visits +100 %, from 1" in of_acme.words, "globex" in of_acme.words) == (True, False)
    assert ("2025-10 1 " in of_acme.words, "2025-09" in of_acme.words) == (True, False)


async def test_books_are_downloaded_as_csv(browser: browsing.Browser) -> None:
    by_day = await browser.get("/ui/usage.csv?month=2025-11&by=day&tenant=agency/acme")
    by_tenant = await browser.get("/ui/usage.csv?month=2025-11&by=tenant&zone=tenant")
    by_month = await browser.get("/ui/usage.csv?month=2025-11&by=month")
    assert by_day.headers["Content-Disposition"] == 'attachment; filename="usage-2025-11-by-day.csv"'
    assert 'filename="usage-2025-11-by-tenant-own-zones.csv"' in by_tenant.headers["Content-Disposition"]
    assert by_day.headers["Content-Type"].startswith("text/csv")
    assert [rows_of(answer) for answer in (by_day, by_tenant, by_month)] == [
        [("2025-11-25", "acme", "2")],
        [("2025-11-01/2025-12-01", "acme", "2"), ("2025-11-01/2025-12-01", "globex", "1")],
        [("2025-10", "acme", "1"), ("2025-11", "acme", "2"), ("2025-11", "globex", "1")],
    ]


async def test_books_of_a_month_that_is_not_over_say_so(browser: browsing.Browser) -> None:
    month = f"{datetime.datetime.now(datetime.UTC):%Y-%m}"
    page = await browser.get(f"/ui/usage?month={month}")
    file = await browser.get(f"/ui/usage.csv?month={month}&by=day")
    assert f"days of {month} so far tenants of {month} so far " in page.words
    assert f'filename="usage-{month}-so-far-by-day.csv"' in file.headers["Content-Disposition"]


def rows_of(answer: browsing.Page) -> list[tuple[str, str, str]]:
    rows = csv.DictReader(io.StringIO(answer.text, newline=""))
    return [(row["period"], row["tenant"], row["visits"]) for row in rows]


async def test_totals_are_added_up_by_day_or_month_of_a_zone(served: admin_port.Served) -> None:
    asked = "/api/usage?together=true&from=2025-10&to=2025-12&zone=Asia/Tokyo"
    days = (await served.get(f"{asked}&by=day"))["rows"]
    assert [(row["period"], row["visits"]) for row in days] == [("2025-11-01", 1), ("2025-11-25", 3)]
    assert [row["visits"] for row in (await served.get(f"{asked}&by=month&tenant=agency/globex"))["rows"]] == [1]


async def test_totals_by_tenant_are_the_books_without_open_deliveries(served: admin_port.Served) -> None:
    asked = "from=2025-10&to=2025-12&zone=Asia/Tokyo&by=tenant"
    books, totals = await served.get(f"/api/usage?{asked}"), await served.get(f"/api/usage?{asked}&together=true")
    assert {row["tenant"]: row["visits"] for row in totals["rows"]} == {"acme": 3, "globex": 1}
    assert totals["rows"] == [
        {name: value for name, value in row.items() if not name.startswith("open")} for row in books["rows"]
    ]


async def test_limited_token_sees_the_usage_of_its_tenant_alone(served: admin_port.Served) -> None:
    token = served.create_token("globex", [tokens.Scope.StatusRead], tenants=("agency/globex",))
    async with browsing.opened(served, token) as browser:
        page = await browser.get("/ui/usage?month=2025-11")
        other = await browser.get("/ui/usage?tenant=agency/acme&month=2025-11")
        file = await browser.get("/ui/usage.csv?month=2025-11&by=tenant")
    assert ("1 visits none before" in page.words, "acme" in page.words) == (True, False)
    assert other.status == 404
    assert rows_of(file) == [("2025-11-01/2025-12-01", "globex", "1")]


@pytest.mark.parametrize("path", ["/ui/usage?month=2025-13", "/ui/usage.csv", "/ui/usage.csv?month=2025-11&by=hour"])
async def test_wrong_month_or_period_gets_a_page_that_says_why(browser: browsing.Browser, path: str) -> None:
    page = await browser.get(path)
    assert (page.status, "That did not work" in page.words) == (400, True)
