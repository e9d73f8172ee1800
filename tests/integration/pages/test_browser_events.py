"""Pages in a real browser that change while they are open, and pages with hostile texts."""

from collections.abc import AsyncIterator
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
async def context(served: admin_port.Served) -> AsyncIterator[async_api.BrowserContext]:
    async with (
        chromium.running() as browser,
        chromium.entered(browser, served.url, served.tokens.operate) as context,
    ):
        yield context


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [("/ui/", "4 visits today", "5 visits today"), ("/ui/visits", "5 arrivals.", "6 arrivals.")],
)
async def test_visit_that_arrives_appears_after_ten_seconds_unless_text_is_selected(
    served: admin_port.Served, context: async_api.BrowserContext, path: str, before: str, after: str
) -> None:
    page = await context.new_page()
    await page.clock.install()
    await page.goto(f"{served.url}{path}")
    await expect(page.locator("main")).to_contain_text(before)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await served.bench.accept(samples.arrival("later"))
    await page.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
    await page.clock.run_for(10_000)
    assert asked == []
    await page.evaluate("getSelection().removeAllRanges()")
    await page.clock.run_for(10_000)
    await expect(page.locator("main")).to_contain_text(after)


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
    await page.locator("h2:text-is('Listeners') + table th a").click()
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
