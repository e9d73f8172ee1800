"""A link shows a customer one tenant, in one browser, until it ends; it leads nowhere else."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support import admin_port, browsing, samples
from usher_gateway.pages.brand import Brand

DAY = 24 * samples.HOUR
BRAND = Brand(name="Guest & Co", colour="#0a7d5c", contact="Ada, +44 20 7946 0000")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[admin_port.Served]:
    async with admin_port.served(tmp_path, brand=BRAND) as served:
        yield served


async def link_of(served: admin_port.Served, **changes: Any) -> Any:
    status, link = await served.ask("POST", "/api/links", json={"tenant": "agency/acme"} | changes)
    assert status == 201, link
    return link


async def test_link_shows_the_tenant_after_its_button_is_pressed(served: admin_port.Served) -> None:
    await admin_port.fill(served)
    link = await link_of(served)
    async with browsing.visitor(served) as browser:
        assert "Open in this browser" in (await browser.get(link["path"])).words
        page = await browser.post(link["path"])
        assert page.status == 200
        assert "Guest & Co acme" in page.words
        assert "Deliveries by destination" in page.words
        assert (await browser.get("/my/")).words == page.words
