"""The pages of visits: the list, the story of one, its body, and its replay."""

import asyncio
import functools
import html
import re

import pytest

from support import admin_port, browsing, samples
from usher_gateway import model
from usher_gateway.access import tokens

HOSTILE = '{"name":"<script>alert(1)</script>","note":"\u202e"}'.encode()


async def visit_of(served: admin_port.Served, **filters: str) -> str:
    """Return the path of the page of the newest visit that filters select."""
    status, answer = await served.ask("GET", "/api/visits", params=filters)
    assert status == 200, answer
    return f"/ui/visits/{answer['rows'][0]['id']}"


async def test_list_shows_arrivals_and_leads_to_each(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/visits")
    assert (page.status, page.text.count('scope="row"')) == (200, 5)
    assert "dead (crm)" in page.words
    assert "skipped Filter (crm)" in page.words
    visit = await browser.get(re.findall(r'href="(/ui/visits/[^"]+)"', page.text)[0])
    assert visit.status == 200


async def test_list_takes_filters_and_times_of_the_viewers_zone(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/visits?reason=NoUser&tenant=agency/acme&since=2025-11-25T12:00")
    assert (page.text.count('scope="row"'), "NoUser" in page.words) == (1, True)
    assert 'name="since" value="2025-11-25T12:00"' in page.text
    await browser.send("/ui/zone", page, zone="Asia/Tokyo")
    in_tokyo = await browser.get("/ui/visits?until=2025-11-25T21:00")
    assert "No such visits." in in_tokyo.words
    assert "2025-11-25 21:00:00" in (await browser.get("/ui/visits?since=2025-11-25T21:00")).words


async def test_filters_are_folded_until_one_is_set(browser: browsing.Browser) -> None:
    pages = [await browser.get(f"/ui/visits{query}") for query in ("", "?tenant=", "?tenant=acme", "?since=2025-11-25")]
    assert ["<details open>" in page.text for page in pages] == [False, False, True, True]
    assert "<details>" in pages[0].text


async def test_long_list_continues_on_the_next_page_with_its_filters(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    await served.bench.accept(*[samples.arrival(f"more {number}", samples.NOW + number) for number in range(60)])
    page = await browser.get("/ui/visits?tenant=agency/acme&countedAs=visit")
    assert (page.text.count('scope="row"'), "50 arrivals, more follow." in page.words) == (50, True)
    (link,) = re.findall(r'rel="next" href="([^"]+)"', page.text)
    rest = await browser.get(link.replace("&amp;", "&"))
    assert (rest.text.count('scope="row"'), 'value="agency/acme"' in rest.text) == (14, True)
    assert "more follow" not in rest.words


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/ui/visits?since=yesterday", 400, "Since is not a time"),
        ("/ui/visits?since=0001-01-01T00:00:00%2B14:00", 400, "Since is not a time"),
        ("/ui/visits?tenant=agency/acne", 404, "acne"),
        ("/ui/visits?cursor=x", 400, "cursor"),
        ("/ui/visits/01920000-0000-7000-8000-000000000009", 404, "There is no such visit"),
        ("/ui/visits/..%2Fconfig", 404, "There is no such page"),
    ],
)
async def test_wrong_request_gets_a_page_that_says_why(
    browser: browsing.Browser, path: str, status: int, words: str
) -> None:
    page = await browser.get(path)
    assert (page.status, words in page.words, "That did not work" in page.words) == (status, True, True)


async def test_time_that_has_no_place_in_the_calendar_of_utc_is_none(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/visits?since=0001-01-01T00:00", ("Cookie", "usher_zone=Asia/Tokyo"))
    assert (page.status, "Since is not a time" in page.words) == (400, True)


async def test_visit_tells_what_happened_and_what_happens_next(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    page = await browser.get(await visit_of(served, id=await dead_visit(served)))
    assert "A visit arrived at agency/lobby" in page.words
    assert "agency/crm answered 400 after 12 ms." in page.words
    assert "It is dead: no attempt follows." in page.words
    assert "1 attempt" in page.words
    assert "A redrive starts again" in page.words
    assert "usher dead redrive" not in page.words
    assert re.search(r'href="/ui/redrive\?delivery=[0-9a-f-]{36}"', page.text)
    assert 'href="/ui/listeners/agency/lobby"' in page.text


async def test_repeat_leads_to_the_visit_that_it_repeats(served: admin_port.Served, browser: browsing.Browser) -> None:
    await served.bench.accept(samples.arrival("a", samples.NOW + 1, fingerprint=samples.digest("again")))
    (again, *_) = (await served.get("/api/visits?countedAs=repeat"))["rows"]
    page = await browser.get(f"/ui/visits/{again['id']}")
    (path,) = re.findall(r'href="(/ui/visits/[^"]+)">That visit', page.text)
    assert (await browser.get(path)).status == 200


async def test_visit_has_the_times_of_the_viewer_and_of_the_tenant(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    path = await visit_of(served)
    page = await browser.get(path)
    assert "Received 2025-11-25 12:00:00 Counted as" in page.words
    await browser.send("/ui/zone", page, zone="Asia/Tokyo")
    in_tokyo = await browser.get(path)
    assert "Received 2025-11-25 21:00:00; at the tenant 2025-11-25 12:00:00 (UTC)" in in_tokyo.words


async def dead_visit(served: admin_port.Served) -> str:
    return str((await served.get("/api/deliveries?state=dead"))["rows"][0]["visit"])


async def test_body_is_shown_after_the_button_alone_and_escaped(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    await served.bench.accept(samples.arrival("hostile", samples.NOW + 1, body=HOSTILE))
    path = await visit_of(served)
    page = await browser.get(path)
    assert ("script>alert" in page.text, (await browser.get(f"{path}/body")).status) == (False, 405)
    body = await browser.send(f"{path}/body", page)
    assert (body.status, body.headers["Cache-Control"]) == (200, "no-store")
    assert '\n  "name": "<script>alert(1)</script>",\n' in html.unescape(body.text)
    assert ("<script>alert" in body.text, "\u202e" in body.text) == (False, False)
    (entry,) = (await served.get("/api/audit"))["rows"]
    assert (entry["action"], entry["who"]) == ("show body", "operate")


async def test_only_the_beginning_of_a_large_body_is_shown(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    large = b"[" * 400 + b"1," * 100_000 + b"1" + b"]" * 400
    await served.bench.accept(samples.arrival("large", samples.NOW + 1, body=large))
    path = await visit_of(served)
    body = await browser.send(f"{path}/body", await browser.get(path))
    assert ("Only its beginning is shown." in body.words, len(body.text) < 100_000) == (True, True)


async def test_body_that_is_no_json_is_shown_as_text(served: admin_port.Served, browser: browsing.Browser) -> None:
    await served.bench.accept(samples.quarantined("text", samples.NOW + 1, body=b"a=1\n\x1b[2J\xff"))
    path = await visit_of(served)
    body = await browser.send(f"{path}/body", await browser.get(path))
    assert "a=1\n\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}\n" in body.text


async def test_body_needs_its_scope(served: admin_port.Served) -> None:
    token = served.create_token("looker", [tokens.Scope.StatusRead, tokens.Scope.VisitsRead])
    async with browsing.opened(served, token) as browser:
        path = await visit_of(served)
        body = await browser.send(f"{path}/body", await browser.get(path))
    assert (body.status, "lacks the scope bodies:read" in body.words) == (403, True)


async def test_replay_counts_first_and_delivers_after_the_confirmation(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    path = await visit_of(served, id=await dead_visit(served))
    counted = await browser.send(f"{path}/replay", await browser.get(path))
    assert "This replay would create 1 delivery." in counted.words
    assert "dead: 1 delivery" in counted.words
    assert (await served.get("/api/replays"))["rows"] == []
    send = functools.partial(browser.send, f"{path}/replay", counted, confirm="1", **{"result-dead": "1"})
    done, _ = await asyncio.gather(send(), send())  # as by a double click
    (replay,) = (await served.get("/api/replays"))["rows"]
    assert (done.status, replay["id"] in done.text) == (200, True)
    assert replay["selection"] == {"ids": 1, "results": ["dead"]}
    listed = await browser.get("/ui/replays")
    assert ("dead, ids 1" in listed.words, replay["id"] in listed.text) == (True, True)


async def test_replay_names_the_deliveries_that_have_not_ended(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    (held,) = (await served.get("/api/deliveries?state=held"))["rows"]
    path = f"/ui/visits/{held['visit']}"
    counted = await browser.send(f"{path}/replay", await browser.get(path))
    assert "There is nothing to replay. Left out: 1 delivery held until the cause of the hold ends." in counted.words


async def test_arrival_that_is_no_visit_leads_to_its_listener(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    reason = model.QuarantineReason.NotJSON
    await served.bench.accept(samples.quarantined("text", samples.NOW + 1, body=b"a=1", quarantine=reason))
    page = await browser.get(await visit_of(served))
    assert "Find out who sends such bodies: the listener has the address" in page.words
    assert ("usher listeners" in page.words, "of this visit" in page.words) == (False, False)


async def test_replay_leaves_out_paused_routes_until_they_are_wanted(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    served.paused_routes.add("crm")
    path = await visit_of(served, reason="Filter")
    counted = await browser.send(f"{path}/replay", await browser.get(path))
    assert "There is nothing to replay." in counted.words
    assert "Left out: 1 delivery of routes that are paused" in counted.words
    again = await browser.send(f"{path}/replay", counted, ignorePause="1")
    assert ("Filter: 1 delivery" in again.words, 'name="ignorePause" value="1" checked' in again.text) == (
        True,
        True,
    )


async def test_replay_without_a_chosen_result_starts_nothing(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    path = await visit_of(served, id=await dead_visit(served))
    page = await browser.send(f"{path}/replay", await browser.get(path), confirm="1")
    assert (page.status, "choose what to replay" in page.words) == (400, True)
    assert (await served.get("/api/replays"))["rows"] == []


async def test_limited_token_sees_visits_of_its_tenant_alone(served: admin_port.Served) -> None:
    of_acme = await visit_of(served)
    await served.bench.accept(samples.arrival("bar", samples.NOW + 1, listener=samples.BAR))
    scopes = [tokens.Scope.StatusRead, tokens.Scope.VisitsRead, tokens.Scope.BodiesRead]
    token = served.create_token("globex", scopes, tenants=("agency/globex",))
    async with browsing.opened(served, token) as browser:
        page = await browser.get("/ui/visits")
        assert (page.text.count('scope="row"'), "acme" in page.words) == (1, False)
        assert (await browser.get(of_acme)).status == 404
        assert (await browser.send(f"{of_acme}/body", page)).status == 404
