"""Debian's Chromium, driven with playwright, and axe-core, which finds what people with disabilities cannot use.

``python -m support.chromium`` installs both if they are missing, so that no test waits for that.
"""

import contextlib
import functools
import io
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image
from playwright import async_api

from local_cluster import debian
from support import event_sdks

PROGRAM = "/usr/bin/chromium"
_AXE = Path(__file__).parent / "axe"
_SERIOUS = {"serious", "critical"}

async_api.expect.set_options(timeout=30_000)  # a test machine may be slow and busy

needs_chromium = pytest.mark.skipif(
    not Path(PROGRAM).exists(), reason=f"Debian's package chromium ({PROGRAM}) is missing"
)
needs_axe = pytest.mark.skipif(
    event_sdks.NODE is None or event_sdks.NPM is None,
    reason="axe-core comes from npm, and Node or npm is not installed",
)

_MAX_PICTURE_HEIGHT = 1_300

SCREEN = async_api.ViewportSize(width=1200, height=500)
PHONE = async_api.ViewportSize(width=360, height=740)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[async_api.Browser]:
    """Run a browser without a window."""
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM)
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def entered(
    browser: async_api.Browser, url: str, token: str, **options: Any
) -> AsyncIterator[async_api.BrowserContext]:
    """Enter the pages at an address with a token. ``options``: of the browser's context."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.post(f"{url}/api/pages/tickets") as answer,
        await browser.new_context(**options) as context,
    ):
        page = await context.new_page()
        await page.goto(url + (await answer.json())["path"])
        yield context


class Complaints:
    """Collects the errors of scripts, refusals of the policy and failed requests of a page."""

    def __init__(self, page: async_api.Page) -> None:
        self.texts: list[str] = []
        page.on("console", self._add_message)
        page.on("pageerror", lambda error: self.texts.append(str(error)))
        page.on("requestfailed", self._add_request)

    def _add_message(self, message: async_api.ConsoleMessage) -> None:
        """Note an error or a warning; the console also names answers of 400 or more."""
        if message.type in {"error", "warning"}:
            self.texts.append(f"{message.location['url']}: {message.text}")

    def _add_request(self, request: async_api.Request) -> None:
        """Note a failed request, except one that ended because the browser left the page."""
        if request.failure != "net::ERR_ABORTED":
            self.texts.append(f"{request.url}: {request.failure}")

    def take(self) -> list[str]:
        """Return and forget the complaints so far."""
        texts, self.texts = self.texts, []
        return texts


async def draw(page: async_api.Page, file: Path) -> None:
    """Write the upper part of a page into a PNG with few colours, so that it is small."""
    picture = Image.open(io.BytesIO(await page.screenshot(full_page=True)))
    picture.crop((0, 0, picture.width, min(picture.height, _MAX_PICTURE_HEIGHT))).quantize(64).save(file, optimize=True)


async def scrolls_sideways(page: async_api.Page) -> bool:
    """Return whether a page is wider than its window."""
    return bool(await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


async def crowded_labels(page: async_api.Page) -> list[str]:
    """Return the labels of charts that reach into the next label, or out of the window."""
    labels = await page.evaluate("""
        [...document.querySelectorAll(".chart .labels")].flatMap(chart => {
            const shown = [...chart.querySelectorAll("text")].filter(text => text.getClientRects().length);
            const ends = [...shown.slice(1).map(text => text.getBoundingClientRect().left), innerWidth];
            const isCrowded = (text, at) => text.getBoundingClientRect().right > ends[at];
            return shown.filter(isCrowded).map(text => text.textContent);
        })
    """)
    return [str(label) for label in labels]


async def bare_numbers(page: async_api.Page) -> int:
    """Count the numbers in tables that have no label on a phone, where the heads of columns are not shown."""
    return await page.locator("tbody td.number:not([data-label])").count()


@functools.cache
def axe_script() -> str:
    """Return the source of axe-core; install it if the cache has none of this version."""
    folder = event_sdks.node_folder("npm's axe-core", "axe", _AXE)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


async def obstacles(page: async_api.Page, *rules: str) -> list[str]:
    """Return what axe-core finds serious or critical at a page: rule, and the elements. ``rules``: default is all."""
    await page.evaluate(axe_script())
    chosen = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
    report: dict[str, Any] = await page.evaluate(
        "options => axe.run(options)", {"resultTypes": ["violations"], **chosen}
    )
    return [
        f"{rule['id']}: {[node['html'][:150] for node in rule['nodes'][:3]]}"
        for rule in report["violations"]
        if rule["impact"] in _SERIOUS
    ]


def main() -> int:
    """Install what is missing, if this machine can."""
    try:
        if not Path(PROGRAM).exists() and os.geteuid() == 0 and shutil.which("apt-get"):
            debian.install_missing({PROGRAM: "chromium"})
        if event_sdks.NODE and event_sdks.NPM:
            axe_script()
    except (debian.MissingError, event_sdks.PrepareError) as error:
        print(error, file=sys.stderr)
        return 1
    if not Path(PROGRAM).exists():
        print(f"The tests of pages in a browser need {PROGRAM}. They are skipped.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
