"""Every page in a real browser: without complaints, at a phone's width, without JavaScript, and for everybody.

UPDATE_DOCS=1 draws the pages into docs/pages.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright import async_api

from support import chromium, page_tour, staged_agency
from usher_gateway.pages.server import PAGES

PICTURES = Path(__file__).parents[3] / "docs" / "pages"
IS_DRAWING = bool(os.environ.get("UPDATE_DOCS"))
STOP_SECONDS = 120  # Some calls of playwright wait without a limit; their end by this one shows which did

pytestmark = chromium.needs_chromium


@pytest.fixture
async def agency(tmp_path: Path) -> AsyncIterator[staged_agency.Agency]:
    async with staged_agency.running(tmp_path, days=30 if IS_DRAWING else 2) as agency:
        yield agency


@pytest.fixture
async def browser() -> AsyncIterator[async_api.Browser]:
    async with chromium.running() as browser:
        yield browser


async def test_pages_fit_a_phone_and_the_browser_complains_of_none(
    agency: staged_agency.Agency, browser: async_api.Browser
) -> None:
    findings: dict[str, list[str]] = {}
    async with page_tour.begun(agency, browser, viewport=chromium.PHONE) as tour:
        page = await tour.context.new_page()
        complaints = chromium.Complaints(page)
        for name, stop in page_tour.STOPS.items():
            async with asyncio.timeout(STOP_SECONDS):
                await tour.go(page, stop)
                texts = complaints.take() + await chromium.crowded_labels(page)
                if await chromium.scrolls_sideways(page):
                    texts.append("it scrolls sideways")
                if number := await chromium.bare_numbers(page):
                    texts.append(f"{number} numbers have no label")
            if texts:
                findings[name] = texts
            if IS_DRAWING:
                await page.set_viewport_size(chromium.SCREEN)
                await chromium.draw(page, PICTURES / f"{name}.png")
                await page.set_viewport_size(chromium.PHONE)
    assert findings == {}


@chromium.needs_axe
async def test_pages_have_no_serious_obstacles_in_light_and_dark(
    agency: staged_agency.Agency, browser: async_api.Browser
) -> None:
    findings: dict[str, list[str]] = {}
    async with page_tour.begun(agency, browser, viewport=chromium.SCREEN) as tour:
        page = await tour.context.new_page()
        for name, stop in page_tour.STOPS.items():
            async with asyncio.timeout(STOP_SECONDS):
                await page.emulate_media(color_scheme="light")
                await tour.go(page, stop)
                obstacles = await chromium.obstacles(page)
                await page.emulate_media(color_scheme="dark")
                obstacles += await chromium.obstacles(page, "color-contrast")
            if obstacles:
                findings[name] = obstacles
    assert findings == {}


async def test_pages_show_and_replay_visits_without_javascript(
    agency: staged_agency.Agency, browser: async_api.Browser
) -> None:
    async with page_tour.begun(agency, browser, java_script_enabled=False) as tour:
        for stop in page_tour.STOPS.values():
            async with asyncio.timeout(STOP_SECONDS):
                page = await tour.context.new_page()  # a page that loads itself again would interrupt the way to others
                await tour.go(page, stop)
        page = await tour.context.new_page()
        await tour.go(page, page_tour.STOPS["visit-replay"])
        await page.get_by_role("button", name="Deliver again").click()
        await async_api.expect(page.locator("h1")).to_have_text("Replay, done")  # it loads itself again until then
    assert len(await agency.rows("/api/replays")) == 2


async def test_page_that_waits_shows_the_first_visit_by_itself(
    agency: staged_agency.Agency, browser: async_api.Browser
) -> None:
    async with chromium.entered(browser, agency.url, agency.token) as context:
        page = await context.new_page()
        await page.goto(f"{agency.url}/ui/listeners/agency/park-spa")
        await async_api.expect(page.locator("main")).to_contain_text("Waiting for the first visit")
        await agency.post("park-spa")
        await async_api.expect(page.locator("main")).to_contain_text("First visit at", timeout=60_000)


def test_tour_stops_at_every_page() -> None:
    patterns = {path: re.sub(r"{\w+}", "[^/]+", path) for path, (template, _) in PAGES.items() if template}
    stops = [stop.path.partition("?")[0] for stop in page_tour.STOPS.values()]
    assert [path for path, pattern in patterns.items() if not any(re.fullmatch(pattern, stop) for stop in stops)] == []
