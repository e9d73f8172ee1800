"""A browser enters the pages once with a ticket, and sees and does no more than its token permits."""

import gc
import re

import pytest

from support import admin_port, browsing, samples
from usher_gateway.access import tokens
from usher_gateway.pages import server
from usher_gateway.pages.api import ApiProblemError

UNKNOWN_ID = "01920000-0000-7000-8000-000000000009"


async def test_printed_address_opens_the_pages_once(served: admin_port.Served) -> None:
    address = (await served.output_of("open")).strip()
    path = address.removeprefix(served.url)
    async with browsing.visitor(served) as first, browsing.visitor(served) as second:
        page = await first.get(path)
        assert (page.status, "agency/acme" in page.words) == (200, True)
        again = await second.get(path)
        assert (again.status, "Run usher open" in again.words) == (401, True)
        assert (await second.get("/ui/")).status == 401


async def test_cookie_is_no_token_of_the_api_and_is_kept_from_scripts(served: admin_port.Served) -> None:
    _, ticket = await served.ask("POST", "/api/pages/tickets", json={})
    async with browsing.visitor(served) as browser:
        await browser.get(ticket["path"])
        cookie = browser.cookies["usher_session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/ui")
    assert (await served.ask("GET", "/api/tenants", token=cookie.value))[0] == 401


async def test_other_site_cannot_bring_its_own_session(served: admin_port.Served) -> None:
    _, ticket = await served.ask("POST", "/api/pages/tickets", json={})
    async with browsing.visitor(served, Sec_Fetch_Site="cross-site") as browser:
        assert (await browser.get(ticket["path"])).status == 401


async def test_click_on_another_site_does_not_end_the_session(served: admin_port.Served) -> None:
    async with browsing.visitor(served) as browser:  # as a SameSite cookie is not sent
        page = await browser.get("/ui/")
    assert (page.status, "Set-Cookie" in page.headers) == (401, False)
    async with browsing.visitor(served, {"usher_session": "ended"}) as browser:
        page = await browser.get("/ui/")
    assert (page.status, 'usher_session=""' in page.headers["Set-Cookie"]) == (401, True)


async def test_form_without_a_session_is_refused(served: admin_port.Served) -> None:
    async with browsing.visitor(served) as browser:
        for path in ("/ui/static/nothing", "/ui/"):
            tokens_of_forms = re.findall('name="csrf" value="([^"]+)"', (await browser.get(path)).text)
            assert tokens_of_forms == []
        for path in ("/ui/zone", "/ui/leave"):
            assert (await browser.post(path, csrf="", zone="Asia/Tokyo")).status == 403


@pytest.mark.parametrize("ticket", ["", "x", "A" * 80, "%00", "Ä"])
async def test_forged_ticket_opens_nothing(served: admin_port.Served, ticket: str) -> None:
    async with browsing.visitor(served) as browser:
        assert (await browser.get(f"/ui/enter/{ticket}")).status in {401, 404}
        assert (await browser.get("/ui/")).status == 401


async def test_ticket_needs_a_token(served: admin_port.Served) -> None:
    assert (await served.ask("POST", "/api/pages/tickets", token="", json={}))[0] == 401


async def test_limited_token_sees_its_own_tenant_alone(served: admin_port.Served) -> None:
    await served.bench.accept(samples.arrival("bar", listener=samples.BAR))
    token = served.create_token(
        "globex", [tokens.Scope.StatusRead, tokens.Scope.VisitsRead], tenants=("agency/globex",)
    )
    async with browsing.opened(served, token) as browser:
        page = await browser.get("/ui/?all=1")
    assert (page.status, "acme" in page.words) == (200, False)


async def test_missing_scope_is_named(served: admin_port.Served) -> None:
    token = served.create_token("status", [tokens.Scope.StatusRead])
    async with browsing.opened(served, token) as browser:
        page = await browser.get("/ui/visits")
    assert (page.status, "lacks the scope visits:read" in page.words) == (403, True)


async def test_form_of_another_site_changes_nothing(browser: browsing.Browser) -> None:
    assert (await browser.post("/ui/zone", zone="Asia/Tokyo", csrf="x")).status == 403
    page = await browser.get("/ui/")
    assert 'value="UTC"' in page.text
    await browser.send("/ui/zone", page, zone="Asia/Tokyo")
    assert 'value="Asia/Tokyo"' in (await browser.get("/ui/")).text


@pytest.mark.parametrize(
    ("method", "path", "back"),
    [
        ("GET", "/ui/redrive?since=yesterday", "/ui/redrive"),
        ("GET", "/ui/visits/01920000-0000-7000-8000-000000000009", "/ui/visits"),
        ("GET", "/ui/tenants/agency/acne", "/ui/"),
        ("POST", "/ui/redrive", "/ui/redrive"),
        ("POST", "/ui/find/export", "/ui/find"),
        (
            "POST",
            "/ui/visits/01920000-0000-7000-8000-000000000009/replay",
            "/ui/visits/01920000-0000-7000-8000-000000000009",
        ),
        ("POST", "/ui/zone", "/ui/"),
    ],
)
async def test_page_of_an_error_leads_back(browser: browsing.Browser, method: str, path: str, back: str) -> None:
    page = await (browser.get(path) if method == "GET" else browser.post(path))
    assert "That did not work" in page.words
    assert f'<p><a href="{back}">' in page.text


async def test_wrong_time_zone_gets_a_message_and_changes_nothing(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/")
    for name in ("Berlin", "../etc/passwd", "<script>"):
        answer = await browser.send("/ui/zone", page, zone=name)
        assert (answer.status, "There is no time zone" in answer.words, "<script>" in answer.text) == (
            400,
            True,
            False,
        )
    assert 'value="UTC"' in (await browser.get("/ui/")).text
    assert (await browser.send("/ui/zone", page, zone="UTC")).status == 200


@pytest.mark.parametrize("path", [*server.PAGES, *server.ACTIONS])
async def test_every_page_and_form_needs_a_session(served: admin_port.Served, path: str) -> None:
    async with browsing.visitor(served) as browser:
        address = path.format(id=UNKNOWN_ID, namespace="agency", name="acme")
        answers = [await browser.get(address)] if path in server.PAGES else []
        answers += [await browser.post(address, confirm="1")] if path in server.ACTIONS else []
    assert {answer.status for answer in answers} == {401}


@pytest.mark.parametrize("path", server.ACTIONS)
async def test_every_form_of_another_site_is_refused(
    served: admin_port.Served, browser: browsing.Browser, path: str
) -> None:
    address = path.format(id=UNKNOWN_ID, namespace="agency", name="acme")
    page = await browser.post(address, csrf="x", confirm="1")
    assert (page.status, "The form is not of a page of this session" in page.words) == (403, True)
    assert (await served.get("/api/audit"))["rows"] == []


@pytest.mark.parametrize("path", ["/ui/zone", "/ui/find"])
async def test_refused_form_is_not_kept(browser: browsing.Browser, path: str) -> None:
    await browser.post(path, csrf="x")
    await browser.send(path, await browser.get("/ui/find"), zone="Berlin", person="x")
    gc.collect()
    raised = [each for each in gc.get_objects() if isinstance(each, ApiProblemError) and each.__traceback__]
    assert raised == []


async def test_leaving_ends_the_session_of_the_browser(browser: browsing.Browser) -> None:
    assert (await browser.post("/ui/leave")).status == 403
    assert (await browser.send("/ui/leave", await browser.get("/ui/"))).status == 401
    assert (await browser.get("/ui/")).status == 401


async def test_every_answer_forbids_scripts_frames_and_caches(browser: browsing.Browser) -> None:
    pages = [await browser.get(path) for path in ("/ui/", "/ui/static/page.css", "/ui/static/none", "/ui/enter/x")]
    for page in pages:
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert (
            re.findall(r"<script(?! src=\"/ui/static/page.js\" defer></script>)|style=|\son\w+=|https?://", page.text)
            == []
        )
