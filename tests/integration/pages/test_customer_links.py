"""A link shows a customer one tenant, in one browser, until it ends; it leads nowhere else."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import structlog

from support import admin_port, browsing, samples
from usher_gateway import documents, model
from usher_gateway.access.tokens import Caller, Scope, seal_caller
from usher_gateway.pages.brand import Brand
from usher_gateway.pages.server import ACTIONS, PAGES
from usher_gateway.words import states

DAY = 24 * samples.HOUR
BRAND = Brand(name="Guest & <b>Co</b>", colour="#0a7d5c", contact="Ada <ada@agency.example>")
ADA = b'{"user":{"id":7,"firstName":"ada","lastName":" Lovelace ","email":"ada@example.com"}}'


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[admin_port.Served]:
    async with admin_port.served(tmp_path, brand=BRAND) as served:
        yield served


async def link_of(served: admin_port.Served, **changes: Any) -> Any:
    status, link = await served.ask("POST", "/api/links", json={"tenant": "agency/acme"} | changes)
    assert status == 201, link
    return link


async def cookie_of(served: admin_port.Served, **changes: Any) -> str:
    """The cookie of a browser that opened a new link."""
    link = await link_of(served, **changes)
    async with browsing.visitor(served) as browser:
        await browser.post(link["path"])
        return browser.cookies["usher_link"].value


async def state_of(served: admin_port.Served) -> str:
    (link,) = (await served.get("/api/links"))["rows"]
    return str(link["state"])


async def test_link_shows_the_tenant_after_its_button_is_pressed(served: admin_port.Served) -> None:
    await admin_port.fill(served)
    link = await link_of(served)
    async with browsing.visitor(served) as browser:
        assert "Open in this browser" in (await browser.get(link["path"])).words
        page = await browser.post(link["path"])
    assert (page.status, "4 visits today" in page.words) == (200, True)
    assert "1 delivery is held until the pause ends. Held deliveries are kept for at most 30 days." in page.words
    assert "0 deliveries wait" in page.words, "held ones are not in it, as in the table"
    assert "crm takes no deliveries at present 1 1 0 -" in page.words
    assert "Today Yesterday 30 days visits 4 4 0 4 delivered 1 1 0 1" in page.words
    assert "2025-11 4 0 1 1" in page.words
    assert "Last visits" not in page.words


async def test_customer_sees_what_each_destination_rejects(served: admin_port.Served) -> None:
    await admin_port.fill(served)
    served.health, served.error = states.DestinationHealth.Failing, "Rejected"
    link = await link_of(served)
    async with browsing.visitor(served) as browser:
        page = await browser.post(link["path"])
    assert "Deliveries to crm fail at present, and are not tried again." in page.words
    assert "1 delivery failed for good." in page.words
    assert "crm rejects deliveries at present 1 1 0 - 1 " in page.words


async def test_count_that_is_cut_says_that_there_are_more(served: admin_port.Served) -> None:
    accepted = await served.bench.accept(*[samples.arrival(f"many {number}") for number in range(1_001)])
    for each in accepted:
        served.bench.store.settle(samples.settlement(each.deliveries[0], model.SettledAs.Delivered, status=200))
    await served.bench.store.flush()
    link = await link_of(served)
    async with browsing.visitor(served) as browser:
        page = await browser.post(link["path"])
    assert re.search(r"crm takes no deliveries at present 1,000\+ 1,000\+ 0 ", page.words)


async def test_program_that_loads_the_address_does_not_open_it(served: admin_port.Served) -> None:
    link = await link_of(served)
    async with browsing.visitor(served) as program:
        await program.get(link["path"])
    assert await state_of(served) == "unopened"
    async with browsing.visitor(served) as browser:
        assert (await browser.post(link["path"])).status == 200
    assert await state_of(served) == "open"


@pytest.mark.parametrize(
    "headers", [{"Sec_Fetch_Site": "cross-site"}, {"Origin": "http://other.example:9090"}, {"Origin": "null"}]
)
async def test_other_site_cannot_press_the_button(served: admin_port.Served, headers: dict[str, str]) -> None:
    link = await link_of(served)
    async with browsing.visitor(served, None, **headers) as browser:
        assert (await browser.post(link["path"])).status == 403
    assert await state_of(served) == "unopened"
    async with browsing.visitor(served, Origin=served.url) as browser:
        page = await browser.get(link["path"])
        assert page.headers["Referrer-Policy"] == "same-origin", "else a browser sends the origin null"
        assert (await browser.post(link["path"])).status == 200


async def test_second_browser_learns_that_the_link_was_opened_and_whom_to_ask(served: admin_port.Served) -> None:
    link = await link_of(served)
    async with browsing.visitor(served) as first, browsing.visitor(served) as second:
        assert (await first.post(link["path"])).status == 200
        for page in (await second.get(link["path"]), await second.post(link["path"])):
            assert (page.status, "Ask Ada <ada@agency.example>." in page.words) == (410, True)
        assert (await second.get("/my/")).status == 403
        assert (await first.get("/my/")).status == 200


async def test_of_browsers_that_open_a_link_at_once_one_gets_in(served: admin_port.Served) -> None:
    link = await link_of(served)
    async with contextlib.AsyncExitStack() as stack:
        browsers = [await stack.enter_async_context(browsing.visitor(served)) for _ in range(5)]
        pages = await asyncio.gather(*[browser.post(link["path"]) for browser in browsers])
    assert sorted(page.status for page in pages) == [200, 410, 410, 410, 410]
    entries = (await served.get("/api/audit?action=open%20link"))["rows"]
    assert sum(entry["count"] for entry in entries) == 1
    assert sum("usher_link" in browser.cookies for browser in browsers) == 1


async def test_cookie_ends_with_the_link_and_is_kept_from_scripts(served: admin_port.Served) -> None:
    link = await link_of(served, days=2)
    async with browsing.visitor(served) as browser:
        await browser.post(link["path"])
        cookie = browser.cookies["usher_link"]
    assert (cookie["path"], cookie["httponly"], cookie["samesite"], cookie["secure"]) == ("/my", True, "Strict", "")
    assert int(cookie["max-age"]) == 2 * 86_400


async def test_cookie_is_secure_if_a_trusted_proxy_serves_https(tmp_path: Path) -> None:
    for network, secure in (("127.0.0.1/32", True), ("10.0.0.0/8", "")):
        async with admin_port.served(tmp_path / network[:3], networks=[network], roles=["desk=look"]) as served:
            link = await link_of(served)
            async with browsing.visitor(served, X_Forwarded_Proto="https") as browser:
                await browser.post(link["path"])
                assert browser.cookies["usher_link"]["secure"] == secure


async def test_expired_link_names_whom_to_ask(served: admin_port.Served) -> None:
    cookie, unopened = await cookie_of(served, days=1), await link_of(served, days=1)
    served.bench.clock.now += DAY
    async with browsing.visitor(served, {"usher_link": cookie}) as browser:
        for page in (
            await browser.get("/my/"),
            await browser.get(unopened["path"]),
            await browser.post(unopened["path"]),
        ):
            assert (page.status, "has expired" in page.words, "Ask Ada" in page.words) == (410, True, True)


async def test_revoked_link_shows_nothing_from_the_next_request_on(served: admin_port.Served) -> None:
    link = await link_of(served)
    async with browsing.visitor(served) as browser:
        await browser.post(link["path"])
        assert await served.post(f"/api/links/{link['id']}/revoke") == {"revoked": 1}
        page = await browser.get("/my/")
        assert (page.status, "acme" in page.words, "was withdrawn" in page.words) == (410, False, True)
    assert await served.post(f"/api/links/{link['id']}/revoke") == {"revoked": 0}


async def test_link_shows_nothing_without_its_tenant(served: admin_port.Served) -> None:
    cookie, unopened = await cookie_of(served), await link_of(served)
    served.state.apply(documents.Snapshot({}, {}), 0)
    async with browsing.visitor(served, {"usher_link": cookie}) as browser:
        assert ((await browser.get("/my/")).status, (await browser.post(unopened["path"])).status) == (410, 410)


@pytest.mark.parametrize("token", ["x", "A" * 43, "%00", "%E4", "..%2F..%2Fui", "'%20or%201=1"])
async def test_forged_token_opens_nothing(served: admin_port.Served, token: str) -> None:
    await link_of(served)
    async with browsing.visitor(served) as browser:
        for page in (await browser.get(f"/my/open/{token}"), await browser.post(f"/my/open/{token}")):
            assert (page.status, "is not valid" in page.words) == (403, True)


async def test_forged_cookie_opens_nothing(served: admin_port.Served) -> None:
    link = await link_of(served)
    seal, cookie = served.seals.seal, await cookie_of(served)
    token = link["path"].rpartition("/")[2]
    for forged in (
        link["id"],
        token,
        cookie[:-2] + ("AA" if cookie[-2:] != "AA" else "BB"),
        seal("session", link["id"], 60),
        seal("link", link["id"], -1),
        seal("link", "' or 1=1", 60),
        seal("link", link["id"], 60),  # the link is not opened yet
    ):
        async with browsing.visitor(served, {"usher_link": forged}) as browser:
            page = await browser.get("/my/")
            assert (page.status in {403, 410}, "acme" in page.words) == (True, False), forged


async def test_cookie_of_a_link_opens_no_page_of_the_agency_and_no_api(served: admin_port.Served) -> None:
    cookie = await cookie_of(served, lastVisits=True)
    names = ("usher_link", "usher_session")
    async with browsing.visitor(served, dict.fromkeys(names, cookie), Authorization=f"Bearer {cookie}") as browser:
        for path in ["/ui/", *[path for path in PAGES if "{" not in path], "/api/tenants", "/api/links"]:
            assert (await browser.get(path)).status == 401, path
        for path in ["/api/pages/tickets", "/api/links", *[path for path in ACTIONS if "{" not in path]]:
            assert (await browser.post(path)).status == 401, path


async def test_session_of_the_agency_opens_no_page_of_a_customer(served: admin_port.Served) -> None:
    async with browsing.opened(served) as agency:
        session = agency.cookies["usher_session"].value
    async with browsing.visitor(served, {"usher_link": session, "usher_session": session}) as browser:
        assert (await browser.get("/my/")).status == 403


@pytest.mark.parametrize("query", ["?tenant=agency/globex", "?namespace=agency&tenant=globex", "?link=x", "globex"])
async def test_customer_cannot_ask_for_another_tenant(served: admin_port.Served, query: str) -> None:
    await served.bench.accept(samples.arrival("theirs", listener=samples.BAR))
    async with browsing.visitor(served, {"usher_link": await cookie_of(served)}) as browser:
        assert "globex" not in (await browser.get(f"/my/{query}")).text


async def test_token_of_a_link_permits_one_tenant_and_no_more(served: admin_port.Served) -> None:
    await admin_port.fill(served)
    await served.bench.accept(samples.arrival("theirs", listener=samples.BAR))
    link = await served.links.find((await link_of(served))["path"].rpartition("/")[2])
    assert link is not None
    token = served.links.token(link)
    _, tenants = await served.ask("GET", "/api/tenants", token=token)
    assert {row["name"] for row in tenants["rows"]} == {"acme"}
    for path in ("/api/visits", "/api/visits/initials", "/api/destinations", "/api/audit", "/api/links", "/api/config"):
        assert (await served.ask("GET", path, token=token))[0] == 403, path
    assert (await served.ask("GET", "/api/usage?tenant=agency/globex", token=token))[0] == 404


async def test_sealed_token_is_valid_for_its_purpose_and_install_alone(served: admin_port.Served) -> None:
    caller = Caller("link x", frozenset(Scope))
    assert (await served.ask("GET", "/api/audit", token=seal_caller(served.seals, caller)))[0] == 200
    sealed = seal_caller(served.seals, caller).removeprefix("usher_sealed.")
    for forged in (
        sealed,
        "usher_sealed.",
        f"usher_sealed.{sealed[:-4]}AAAA",
        "usher_sealed." + served.seals.seal("link", "{}", 60),
    ):
        assert (await served.ask("GET", "/api/audit", token=forged))[0] == 401, forged


async def test_last_visits_show_initials_and_leave_an_audit_entry(served: admin_port.Served) -> None:
    await served.bench.accept(samples.arrival("ada", body=ADA))
    async with browsing.visitor(served, {"usher_link": await cookie_of(served, lastVisits=True)}) as browser:
        page = await browser.get("/my/")
    assert re.search(r"2025-\S+ \S+ lobby A\. L\.", page.words)
    assert not re.search("ovelace|ada@example", page.text)
    entries = (await served.get("/api/audit?action=show%20initials"))["rows"]
    (link,) = (await served.get("/api/links"))["rows"]
    assert [(row["who"], row["count"]) for row in entries] == 2 * [(f"link {link['id']}", 1)]  # opened, then loaded


@pytest.mark.parametrize("name", ["<script>", "\u202e\u001b[2J", "1234", "", " ", "\ud800x"])
async def test_hostile_name_has_no_initial(served: admin_port.Served, name: str) -> None:
    body = f'{{"user":{{"id":7,"firstName":"{name}","lastName":["x"]}}}}'.encode("utf-8", "replace")
    await served.bench.accept(samples.arrival("odd", body=body))
    async with browsing.visitor(served, {"usher_link": await cookie_of(served, lastVisits=True)}) as browser:
        assert re.search(r" lobby - ", (await browser.get("/my/")).words)


async def test_brand_is_escaped_and_reaches_no_header(served: admin_port.Served) -> None:
    async with browsing.visitor(served) as browser:
        page, colour = await browser.get("/my/"), await browser.get("/my/brand.css")
        assert (await browser.get("/my/logo")).status == 404
    assert '<span class="brand">Guest &amp; &lt;b&gt;Co&lt;/b&gt;</span>' in page.text
    assert "<b>Co" not in page.text
    assert colour.text == ":root { --brand: #0a7d5c; }\n"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert not any("Guest" in value or "Ada" in value for value in page.headers.values())


async def test_link_that_is_loaded_many_times_has_to_wait(served: admin_port.Served) -> None:
    link = await link_of(served)
    async with browsing.visitor(served) as browser:
        statuses = [(await browser.post(link["path"])).status]
        statuses += [(await browser.get("/my/")).status for _ in range(30)]
    assert (set(statuses[:30]), statuses[30]) == ({200}, 429)


@pytest.mark.parametrize("method", ["find_link", "find_link_by_digest", "usage"])
async def test_customer_learns_nothing_of_a_gateway_that_cannot_read(served: admin_port.Served, method: str) -> None:
    cookie, link = await cookie_of(served), await link_of(served)
    away = mock.patch.object(served.bench.store, method, side_effect=model.StoreUnavailableError("the disk is full"))
    async with browsing.visitor(served, {"usher_link": cookie}) as browser:
        with away:
            page = await browser.get(link["path"] if method == "find_link_by_digest" else "/my/")
    assert (page.status, "try again" in page.words, "disk" in page.text) == (503, True, False)


async def test_limited_token_creates_and_sees_links_of_its_tenants_alone(served: admin_port.Served) -> None:
    ours = served.create_token("desk", [Scope.LinksWrite], tenants=("agency/acme",))
    theirs = served.create_token("other", [Scope.LinksWrite], tenants=("agency/globex",))
    await served.bench.accept(samples.arrival("theirs", listener=samples.BAR))
    assert (await served.ask("POST", "/api/links", token=theirs, json={"tenant": "agency/acme"}))[0] == 404
    status, link = await served.ask("POST", "/api/links", token=ours, json={"tenant": "agency/acme"})
    assert status == 201
    assert (await served.ask("GET", "/api/links", token=theirs))[1] == {"rows": []}
    assert (await served.ask("POST", f"/api/links/{link['id']}/revoke", token=theirs))[0] == 404
    assert (await served.ask("POST", f"/api/links/{link['id']}/revoke", token=ours))[0] == 200


async def test_links_need_their_own_scope(served: admin_port.Served) -> None:
    token = served.create_token("desk", [scope for scope in Scope if scope is not Scope.LinksWrite])
    assert (await served.ask("POST", "/api/links", token=token, json={"tenant": "agency/acme"}))[0] == 403


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"tenant": "acme"},
        {"tenant": "agency/acme", "days": 0},
        {"tenant": "agency/acme", "days": 401},
        {"tenant": "a/b/c"},
    ],
)
async def test_request_for_an_impossible_link_is_refused(served: admin_port.Served, asked: Any) -> None:
    assert (await served.ask("POST", "/api/links", json=asked))[0] == 400


async def test_link_of_an_unknown_tenant_is_refused_with_a_hint(served: admin_port.Served) -> None:
    status, problem = await served.ask("POST", "/api/links", json={"tenant": "agency/acmee"})
    assert (status, "acme" in problem["hint"]) == (404, True)


async def test_failure_leaves_no_address_of_a_link_in_the_log(served: admin_port.Served) -> None:
    link = await link_of(served)
    with structlog.testing.capture_logs() as entries, mock.patch.object(served.links, "find", side_effect=KeyError):
        async with browsing.visitor(served) as browser:
            assert (await browser.get(link["path"])).status == 500
    assert [entry["path"] for entry in entries] == ["/my/open/{token}"]


async def test_audit_log_tells_who_created_opened_and_revoked_a_link(served: admin_port.Served) -> None:
    link = await link_of(served)
    async with browsing.visitor(served) as browser:
        await browser.post(link["path"])
    await served.post(f"/api/links/{link['id']}/revoke")
    rows = (await served.get("/api/audit"))["rows"]
    by = f"link {link['id']}"
    assert [(row["who"], row["action"]) for row in rows] == [
        ("operate", "revoke link"),
        (by, "open link"),
        ("operate", "create link"),
    ]
    assert link["path"].rpartition("/")[2] not in str(rows)


@pytest.mark.parametrize(
    ("pages", "is_warned"),
    [((), True), (("--pages", "http://localhost:1"), True), (("--pages", "https://u.example"), False)],
)
async def test_command_warns_of_a_link_that_only_this_machine_opens(
    served: admin_port.Served, pages: tuple[str, ...], is_warned: bool
) -> None:
    run = await served.command("link", "create", "--tenant", "agency/acme", *pages)
    assert (run.code, "Only this machine can open this address" in run.err) == (0, is_warned)


async def test_command_creates_lists_and_revokes_a_link(served: admin_port.Served) -> None:
    address = (
        await served.output_of("link", "create", "--tenant", "agency/acme", "--pages", "https://u.example/")
    ).strip()
    assert address.startswith("https://u.example/my/open/")
    (link,) = (await served.get("/api/links"))["rows"]
    listed = await served.output_of("link")
    assert f"{link['id']}  agency/acme  unopened" in listed
    assert max(map(len, listed.splitlines())) <= 80
    refused = await served.command("link", "revoke", link["id"])
    assert (refused.code, "give --yes" in refused.err) == (2, True)
    assert await served.output_of("link", "revoke", link["id"], "--yes") == f"Revoked: {link['id']}.\n"


async def test_wrong_address_of_pages_makes_no_link(served: admin_port.Served) -> None:
    run = await served.command("link", "create", "--tenant", "agency/acme", "--pages", "http://[::1")
    assert (run.code, "--pages is not an address" in run.err) == (2, True)
    assert (await served.get("/api/links"))["rows"] == []
