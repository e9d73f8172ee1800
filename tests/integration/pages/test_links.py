"""The page that lists, creates and revokes the links of customers."""

import html
import re
from pathlib import Path

import pytest

from support import admin_port, browsing
from usher_gateway.access import tokens

PATH = "/ui/links"


def address_in(page: browsing.Page) -> str:
    """Return the address of the link that a page shows."""
    return html.unescape(re.findall('class="url" value="([^"]+)"', page.text)[0])


async def test_new_link_is_shown_once_and_opens_the_customers_page(served: admin_port.Served) -> None:
    async with browsing.opened(served) as browser:
        page = await browser.send(PATH, await browser.get(PATH), tenant="agency/acme", days="7", lastVisits="1")
        address = address_in(page)
        assert (page.status, page.headers["Cache-Control"]) == (200, "no-store")
        listed = await browser.get(PATH)
    assert ("/my/open/" in listed.text, "agency/acme" in listed.words) == (False, True)
    assert re.search(r"2025-11-25 12:00:00 unopened 2025-12-02 12:00:00 - shown", listed.words)
    async with browsing.visitor(served) as customer:
        assert "visits today" in (await customer.post(address.removeprefix(served.url))).words


async def test_address_has_the_scheme_and_host_of_a_trusted_proxy(tmp_path: Path) -> None:
    async with admin_port.served(tmp_path, networks=["127.0.0.0/8"]) as served:
        async with browsing.opened(served) as direct:
            session = {"usher_session": direct.cookies["usher_session"].value}
        forwarded = {"X_Forwarded_Proto": "https", "Host": "usher.internal"}
        async with browsing.visitor(served, session, **forwarded) as browser:
            page = await browser.send(PATH, await browser.get(PATH), tenant="agency/acme", days="7")
    assert address_in(page).startswith("https://usher.internal/my/open/")


async def test_link_is_revoked_after_a_confirmation(served: admin_port.Served, browser: browsing.Browser) -> None:
    _, link = await served.ask("POST", "/api/links", json={"tenant": "agency/acme"})
    path = f"{PATH}/{link['id']}/revoke"
    asked = await browser.send(path, await browser.get(PATH))
    assert f"The link {link['id']} shows agency/acme." in asked.words
    times = "It was created at 2025-11-25 12:00:00, and was not opened yet. It ends at 2025-12-25 12:00:00."
    assert times in asked.words
    assert "unopened" in (await browser.get(PATH)).words
    revoked = await browser.send(path, asked, confirm="1")
    assert "revoked" in revoked.words
    assert "Revoke…" not in revoked.words


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"tenant": "agency/acme", "days": "many"}, 400, "enter a number from 1 to 400"),
        ({"tenant": "agency/acme", "days": "401"}, 400, "Days must be a number from 1 to 400"),
        ({"tenant": "", "days": "30"}, 400, "Tenant must be NAMESPACE/NAME"),
        ({"tenant": "acne", "days": "30"}, 404, "did you mean acme ?"),
        ({"tenant": "agency/none", "days": "30"}, 404, "none"),
    ],
)
async def test_wrong_request_for_a_link_says_why(
    served: admin_port.Served, browser: browsing.Browser, fields: dict[str, str], status: int, words: str
) -> None:
    page = await browser.send(PATH, await browser.get(PATH), **fields)
    assert (page.status, words in page.words) == (status, True)
    assert (await served.get("/api/links"))["rows"] == []


async def test_wrong_form_is_shown_again_with_what_was_entered(served: admin_port.Served) -> None:
    async with browsing.opened(served) as browser:
        page = await browser.send(PATH, await browser.get(PATH), tenant="agency/acme", days="401", lastVisits="1")
    assert 'name="tenant" value="agency/acme"' in page.text
    assert 'name="days" value="401"' in page.text
    assert 'name="lastVisits" value="1" checked' in page.text


async def test_link_takes_the_name_of_a_tenant_that_is_the_only_one(browser: browsing.Browser) -> None:
    page = await browser.send(PATH, await browser.get(PATH), tenant="acme", days="7")
    assert (page.status, "customer of agency/acme" in page.words) == (200, True)


async def test_unknown_link_cannot_be_revoked(browser: browsing.Browser) -> None:
    page = await browser.send(f"{PATH}/..%2Freplays/revoke", await browser.get(PATH), confirm="1")
    assert (page.status, "There is no such link" in page.words) == (404, True)


async def test_token_needs_the_scope_and_sees_links_of_its_tenants_alone(served: admin_port.Served) -> None:
    await served.ask("POST", "/api/links", json={"tenant": "agency/acme"})
    limited = served.create_token("limited", list(tokens.Scope), tenants=("agency/globex",))
    async with browsing.opened(served, limited) as browser:
        assert "No links." in (await browser.get(PATH)).words
    async with browsing.opened(served, served.tokens.observe) as browser:
        page = await browser.get(PATH)
    assert (page.status, "lacks the scope links:write" in page.words) == (403, True)
