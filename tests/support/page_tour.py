"""All pages of the staged agency, and how a person gets to each in a browser."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from playwright import async_api

from support import chromium, staged_agency


class Stop(NamedTuple):
    """A page, and what is pressed and entered there."""

    path: str
    """May contain ``{visit}``, ``{replay}`` and ``{erasure}``, in place of ids."""
    shows: str
    """A text of the page at which one arrives."""
    fields: Mapping[str, str] = {}
    """Label -> what is entered."""
    buttons: tuple[str, ...] = ()
    """They are pressed, in this order."""


_FIND = {"E-mail, mobile number": staged_agency.EMAIL}

# Name -> stop.
STOPS = {
    "overview": Stop("/ui/", "tenants need attention"),
    "tenant": Stop("/ui/tenants/agency/harbour-hotels", "Visits by hour, last 24 hours"),
    "destination": Stop("/ui/destinations/agency/warehouse", "At most 8 attempts at the same time"),
    "destination-sample": Stop("/ui/destinations/agency/crm", "Status 200 after", buttons=("Send the sample to crm",)),
    "listener": Stop("/ui/listeners/agency/park-spa", "The steps in the portal"),
    # Without JavaScript the page would load itself again, perhaps while the button is pressed.
    "listener-urls": Stop("/ui/listeners/agency/park-spa?still=1", "URL 1 of 1", buttons=("Show the whole URL",)),
    "visits": Stop("/ui/visits", "Arrivals that were accepted, newest first"),
    "visit": Stop("/ui/visits/{visit}", "What happened"),
    "visit-body": Stop("/ui/visits/{visit}", "grace.hopper@example.org", buttons=("Show the body",)),
    "visit-replay": Stop("/ui/visits/{visit}", "This replay would create 1 delivery.", buttons=("Replay this visit…",)),
    "find": Stop("/ui/find", "The visits of one person"),
    "person": Stop("/ui/find", "Searched by e-mail address", _FIND, ("Find",)),
    "person-suppress": Stop("/ui/find", "nothing more of the person is stored or sent", _FIND, ("Find", "Suppress…")),
    "person-erase": Stop("/ui/find", "It cannot be taken back", _FIND, ("Find", "Erase…")),
    "suppressions": Stop("/ui/suppressions", "agency/harbour-hotels"),
    "erasures": Stop("/ui/erasures", "completed"),
    "erasure": Stop("/ui/erasures/{erasure}", "completed"),
    "usage": Stop("/ui/usage", "Visits by day"),
    "usage-of-tenant": Stop("/ui/usage?tenant=agency/city-museum", "Asia/Tokyo"),
    "audit": Stop("/ui/audit", "erase person"),
    "links": Stop("/ui/links", "Links, the newest first"),
    "link-created": Stop(
        "/ui/links?tenant=agency/harbour-hotels", "It cannot be shown again", buttons=("Create the link",)
    ),
    "redrive": Stop("/ui/redrive?tenant=agency/corner-cafes", "would be sent again"),
    "replays": Stop("/ui/replays", "The newest replays"),
    "replay": Stop("/ui/replays/{replay}", "Created"),
    "customer": Stop("/my/", "Usage by month"),
}


class Tour:
    """A browser that has entered the pages, and opened the link of a customer."""

    def __init__(self, context: async_api.BrowserContext, url: str, ids: Mapping[str, str]) -> None:
        self.context, self._url, self._ids = context, url, ids

    async def go(self, page: async_api.Page, stop: Stop) -> None:
        """Go to a stop, and see that one arrives."""
        await page.goto(self._url + stop.path.format(**self._ids))
        for label, value in stop.fields.items():
            await page.get_by_label(label).fill(value)
        for button in stop.buttons:
            # Without waiting for the next page, a script could be asked of a page that goes away, and never answer.
            async with page.expect_navigation():
                await page.get_by_role("button", name=button, exact=True).click()
        await async_api.expect(page.locator("main")).to_contain_text(stop.shows)


@contextlib.asynccontextmanager
async def begun(agency: staged_agency.Agency, browser: async_api.Browser, **options: Any) -> AsyncIterator[Tour]:
    """Enter the pages with the operate token. ``options``: of the browser's context."""
    (replay,), (erasure,) = await agency.rows("/api/replays"), await agency.rows("/api/persons/erasures")
    dead = await agency.rows("/api/deliveries?state=dead")
    ids = {"replay": replay["id"], "erasure": erasure["id"], "visit": dead[-1]["visit"]}
    async with chromium.entered(browser, agency.url, agency.token, **options) as context:
        page = await context.new_page()
        await page.goto(await agency.link())
        async with page.expect_navigation():
            await page.get_by_role("button", name="Open in this browser").click()
        yield Tour(context, agency.url, ids)
