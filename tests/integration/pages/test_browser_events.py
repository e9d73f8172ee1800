"""Pages in a real browser that change while they are open, and pages with hostile texts."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest
from playwright import async_api

from support import admin_port, chromium, samples
from usher_gateway import documents, model
from usher_gateway.delivery import sample

pytestmark = chromium.needs_chromium

HOSTILE = "<img src=x onerror=alert(1)>"
expect = async_api.expect


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[admin_port.Served]:
    async with admin_port.served(tmp_path, streams={"interval_seconds": 0.05}) as served:
        await admin_port.fill(served)
        yield served


@pytest.fixture
async def context(served: admin_port.Served) -> AsyncIterator[async_api.BrowserContext]:
    async with (
        chromium.running() as browser,
        chromium.entered(browser, served.url, served.tokens.operate) as context,
    ):
        yield context


async def test_visit_that_arrives_appears_and_a_lost_connection_shows(
    served: admin_port.Served, context: async_api.BrowserContext
) -> None:
    overview, visits = await context.new_page(), await context.new_page()
    await overview.goto(f"{served.url}/ui/")
    await visits.goto(f"{served.url}/ui/visits")
    for page in (overview, visits):
        await expect(page.locator("#live-state")).to_have_text("Live.")
    await served.bench.accept(samples.arrival("later"))
    await expect(overview.locator("[data-count=visits]")).to_have_text("5")
    await expect(visits.locator("#live-visits a")).to_have_text("Visit at agency/acme")
    await served.pages.__aexit__()
    for page in (overview, visits):
        await expect(page.locator("#live-state")).to_have_text(re.compile("connection is lost|load the page again"))


async def test_hostile_texts_run_no_script(served: admin_port.Served, context: async_api.BrowserContext) -> None:
    name = model.ListenerName("agency", HOSTILE, HOSTILE)
    route = samples.plan(samples.route(HOSTILE, name))
    body = f'{{"user":{{"id":7,"firstName":"{HOSTILE}"}}}}'.encode()
    await served.bench.accept(samples.arrival("hostile", samples.NOW + 1, listener=name, body=body, if_visit=(route,)))
    listener = documents.ListenerDocument(
        "agency",
        HOSTILE,
        documents.TenantDocument(HOSTILE),
        (documents.Address("hooks.test", "/x"),),
        routes=(documents.Route(HOSTILE, "agency/crm", when=f"'{HOSTILE}' == ''"),),
    )
    snapshot = documents.Snapshot({listener.key: listener}, served.state.snapshot.destinations)
    served.registry.apply(snapshot, now=0.0)
    served.state.apply(snapshot, 0)
    served.sample_sender.send = mock.AsyncMock(
        return_value=sample.SampleResult(
            request=sample.SampleRequest("POST", "https://crm.example", [(HOSTILE, HOSTILE)], HOSTILE),
            route=HOSTILE,
            outcome="Dead",
            error=HOSTILE,
            hint=HOSTILE,
            rule=0,
            rule_error="",
            status=422,
            milliseconds=7,
            answer=HOSTILE,
        )
    )
    page = await context.new_page()
    complaints = chromium.Complaints(page)

    async def see(where: str) -> None:
        await expect(page.locator("main")).to_contain_text(HOSTILE)
        assert await page.locator("main img").count() == 0, where

    await page.goto(f"{served.url}/ui/?all=1")
    await see("overview")
    await page.get_by_role("link", name=HOSTILE).first.click()
    await see("tenant")
    await page.locator("section[aria-labelledby=listeners-heading] th a").click()
    await see("listener")
    await page.goto(f"{served.url}/ui/usage")
    await see("usage")
    await page.goto(f"{served.url}/ui/visits")
    await see("visits")
    await page.locator("th a").first.click()
    await see("visit")
    await page.get_by_role("button", name="Show the body").click()
    await see("body")
    await page.goto(f"{served.url}/ui/destinations/agency/crm")
    await page.get_by_role("button", name="Send the sample").click()
    await see("sample")
    assert complaints.texts == []
