"""The page about a listener, and the URLs that it shows on request."""

import html
import re
from pathlib import Path

import yaml

from support import admin_port, browsing, wire
from support import gateway as gateways
from usher_gateway import documents
from usher_gateway.access import tokens

PATH = "/ui/listeners/agency/lobby"
SECRET = "abcdefghijklmnopqrstuvwxyz"  # Of the URL of the listener lobby

RELOADS = '<meta http-equiv="refresh" content="5">'


async def test_set_up_is_followed_from_the_check_to_the_first_visit(tmp_path: Path) -> None:
    path = "/ui/listeners/agency/wifi"
    async with (
        gateways.running(tmp_path) as gateway,
        browsing.entered(gateway.gateway.admin.url, gateway.token) as browser,
    ):
        new = await browser.get(path)
        assert "Waiting for the portal's check. Waiting for the first visit." in new.words
        assert "Press “Save and Validate”." in new.words
        await wire.exchange(gateway.port, wire.request(gateway.target(), method="GET"))
        checked = await browser.get(path)
        assert "The portal's check arrived" in checked.words
        assert "Waiting for the first visit." in checked.words
        await gateway.post(b'{"user":{"id":7}}')
        in_use = await browser.get(path)
        assert "First visit at " in in_use.words
        assert "Nothing is left to do." in in_use.words
        assert "No check of the portal" not in in_use.words
        shown = await browser.send(path, in_use)
    assert [RELOADS in page.text for page in (new, checked, in_use)] == [True, True, False]
    url = f"https://{gateways.HOST}{gateway.target()}"
    assert [url in page.text for page in (new, checked, in_use, shown)] == [False, False, False, True]


async def test_new_listener_that_refuses_everything_does_not_wait_for_the_check(tmp_path: Path) -> None:
    authentication = "authentication: {type: Basic, basic: {secretRef: {name: absent}}}"
    manifests = gateways.MANIFESTS.replace("routes: []", f"{authentication}\n  routes: []")
    async with gateways.running(tmp_path, manifests) as gateway:
        await gateway.wait_configured()
        async with browsing.entered(gateway.gateway.admin.url, gateway.token) as browser:
            page = await browser.get("/ui/listeners/agency/wifi")
    assert "Waiting for" not in page.words
    assert "The credentials are missing: " in page.words
    assert page.words.count("Create or correct the Secret.") == 1
    assert "None but the one above." in page.words


async def test_listener_in_use_without_a_check_says_so(tmp_path: Path) -> None:
    async with gateways.running(tmp_path) as gateway:
        await gateway.post(b'{"user":{"id":7}}')
        async with browsing.entered(gateway.gateway.admin.url, gateway.token) as browser:
            page = await browser.get("/ui/listeners/agency/wifi")
    assert "No check of the portal arrived at this gateway yet. Nothing is left to do." in page.words


async def test_listener_with_a_fault_has_something_left_to_do(served: admin_port.Served) -> None:
    served.edit(addresses=())
    words = await browsing.words_of(served, PATH)
    assert ("First visit at" in words, "Nothing is left to do." in words) == (True, False)


async def test_url_without_a_long_part_is_not_said_to_be_shortened(served: admin_port.Served) -> None:
    assert "URLs, shortened:" in await browsing.words_of(served, PATH)
    served.edit(addresses=(documents.Address("hooks.test", "/pool"),))
    assert "URL: hooks.test/pool" in await browsing.words_of(served, PATH)


async def test_page_that_waits_can_be_kept_still(browser: browsing.Browser) -> None:
    assert RELOADS in (await browser.get(PATH)).text
    assert RELOADS not in (await browser.get(f"{PATH}?still=1")).text


async def test_urls_are_shown_on_request_with_an_audit_entry(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    page = await browser.get(PATH)
    shown = await browser.send(PATH, page)
    assert (SECRET in page.text, SECRET in shown.text, "k=secret7" in shown.text) == (False, True, True)
    assert RELOADS not in shown.text
    (entry,) = (await served.get("/api/audit"))["rows"]
    assert (entry["action"], entry["count"]) == ("show urls", 2)
    assert entry["selection"] == {"listener": "agency/lobby", "tenant": "acme"}


async def test_urls_need_their_scope(served: admin_port.Served) -> None:
    async with browsing.opened(served, served.tokens.observe) as browser:
        page = await browser.send(PATH, await browser.get(PATH))
    assert (page.status, "lacks the scope urls:read" in page.words, SECRET in page.text) == (403, True, False)
    assert (await served.get("/api/audit"))["rows"] == []


async def test_urls_of_another_tenant_are_answered_like_those_of_no_listener(served: admin_port.Served) -> None:
    token = served.create_token("globex", [tokens.Scope.UrlsRead], tenants=("agency/globex",))
    theirs = await served.ask("GET", "/api/listeners/agency/lobby/urls", token=token)
    nobodys = await served.ask("GET", "/api/listeners/agency/none/urls", token=token)
    assert (theirs[0], theirs) == (404, nobodys)
    assert (await served.get("/api/audit"))["rows"] == []


async def test_listeners_are_selected_by_name(served: admin_port.Served) -> None:
    present = served.state.snapshot.listeners["agency/lobby"]
    pool = documents.ListenerDocument("agency", "pool", present.tenant, (documents.Address("hooks.test", "/pool"),))
    snapshot = documents.Snapshot({present.key: present, pool.key: pool}, {})
    served.registry.apply(snapshot, now=0.0)
    served.state.apply(snapshot, 0)
    assert [row["name"] for row in (await served.get("/api/listeners"))["rows"]] == ["lobby", "pool"]
    (row,) = (await served.get("/api/listeners?listener=lobby"))["rows"]
    assert (row["name"], row["today"]["visits"]) == ("lobby", 4)
    assert (await served.ask("GET", "/api/listeners?listener=loby"))[0] == 404
    assert (await served.ask("GET", "/api/tenants?listener=lobby"))[0] == 400


async def test_urls_say_which_are_held_and_when_they_end(served: admin_port.Served) -> None:
    old = documents.Address("hooks.example.com", "/v1/old", action="Hold", until=1_795_953_600_000_000)
    retired = documents.Address("hooks.example.com", "/v1/retired", retired_at=1)
    served.edit(addresses=(old, retired))
    answer = await served.get("/api/listeners/agency/lobby/urls")
    held = {"url": "https://hooks.example.com/v1/old", "action": "Hold", "until": "2026-11-29T12:00:00.000Z"}
    assert answer["rows"] == [held]


async def test_faults_and_filters_are_shown_and_escaped(served: admin_port.Served, browser: browsing.Browser) -> None:
    served.edit(routes=(documents.Route("crm", "agency/crm", when="visit.repeat ||\n  '<script>' == ''"),))
    page = await browser.get(PATH)
    assert "Route crm holds deliveries, because the destination is paused." in page.words
    assert "20% of the arrivals of the last 15 minutes are no valid visits." in page.words
    assert "visit.repeat || '<script>' == ''" in page.words
    assert "<script>'" not in page.text


async def test_allowed_sources_are_shown_with_the_lines_that_change_them(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    assert "Allowed sources Any source." in (await browser.get(PATH)).words
    served.edit(source_ranges=("192.0.2.0/24",), source_policy="Enforce")
    page = await browser.get(PATH)
    assert "192.0.2.0/24 . Arrivals from elsewhere are refused." in page.words
    (lines,) = re.findall(r"(apiVersion: [^<]*allowedSources[^<]*)", page.text)
    (listener,) = yaml.safe_load_all(html.unescape(lines))
    assert listener["spec"] == {"allowedSources": {"policy": "Enforce", "ranges": ["192.0.2.0/24"]}}
