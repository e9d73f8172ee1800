"""The page about a destination."""

import re
from unittest import mock

from support import admin_port, browsing, samples
from usher_gateway import model
from usher_gateway.access import tokens
from usher_gateway.delivery import sample
from usher_gateway.words import states

PATH = "/ui/destinations/agency/crm"


async def test_page_shows_health_limits_and_the_last_success(browser: browsing.Browser) -> None:
    page = await browser.get(PATH)
    assert page.status == 200
    assert "Healthy. It takes deliveries." in page.words
    assert "At most 8 attempts at the same time." in page.words
    assert re.search(r"Last success 20\d\d-", page.words)


async def test_parts_without_a_form_load_themselves_again(browser: browsing.Browser) -> None:
    page = await browser.get(PATH)
    assert re.search(r"As of 20\d\d-", page.words)
    parts = page.text.split('data-reloads="60"')[1:]
    assert [("<form" in part.partition("</div>")[0]) for part in parts] == [False, False]


async def test_newest_deliveries_have_their_result(browser: browsing.Browser) -> None:
    words = (await browser.get(PATH)).words
    assert re.search(r"acme crm delivered 200 1 ", words)
    assert re.search(r"acme crm dead Status 400 1 ", words)
    assert re.search(r"acme crm held DestinationPaused 0 ", words)


async def test_effect_of_an_answer_rule_is_named(served: admin_port.Served, browser: browsing.Browser) -> None:
    (accepted,) = await served.bench.accept(samples.arrival("ruled"))
    settlement = samples.settlement(
        accepted.deliveries[0], model.SettledAs.Dead, status=200, error="RejectedByRule", milliseconds=1
    )
    served.bench.store.settle(settlement)
    await served.bench.store.flush()
    assert "A rule of http.answers says: dead." in (await browser.get(PATH)).words


async def test_waiting_deliveries_are_counted_by_tenant(served: admin_port.Served, browser: browsing.Browser) -> None:
    bar = samples.plan(samples.route(listener=samples.BAR))
    accepted = await served.bench.accept(
        samples.arrival("w"), *[samples.arrival(name, listener=samples.BAR, if_visit=(bar,)) for name in "xy"]
    )
    for each in accepted:
        served.bench.store.settle(samples.settlement(each.deliveries[0], model.SettledAs.Retry, due_at=samples.NOW))
    await served.bench.store.flush()
    (row,) = (await served.get("/api/destinations"))["rows"]
    assert row["backlogByTenant"] == {"agency/acme": 1, "agency/globex": 2}
    assert "Tenant Deliveries wait agency/globex 2 agency/acme 1 " in (await browser.get(PATH)).words


async def test_deliveries_are_cut_with_a_link_to_older_ones(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    await served.bench.accept(*[samples.arrival(f"many {number}") for number in range(30)])
    newest = await browser.get(PATH)
    (link,) = re.findall('rel="next" href="([^"]*)"', newest.text)
    older = await browser.get(link)
    visits = [set(re.findall("/ui/visits/([0-9a-f-]{36})", page.text)) for page in (newest, older)]
    assert [len(ids) for ids in visits] == [20, 13]
    assert visits[0] & visits[1] == set()


async def test_deliveries_are_filtered_by_tenant_and_state(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    bar = samples.plan(samples.route(listener=samples.BAR))
    await served.bench.accept(samples.arrival("bar", listener=samples.BAR, if_visit=(bar,)))
    dead = (await browser.get(f"{PATH}?tenant=agency/acme&state=dead")).words
    of_globex = (await browser.get(f"{PATH}?tenant=agency/globex")).words.partition("Newest deliveries")[2]
    assert "Newest deliveries (agency/acme, dead)" in dead
    assert ("acme crm dead Status 400" in dead, "acme crm delivered" in dead) == (True, False)
    assert ("globex crm pending" in of_globex, "acme crm" in of_globex) == (True, False)


async def test_destination_that_rejects_is_said_to_fail_for_good(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    served.health, served.error = states.DestinationHealth.Failing, "Rejected"
    words = (await browser.get(PATH)).words
    assert "Failing. It rejects deliveries: they fail for good at the first attempt." in words
    assert "tries the deliveries again" not in words


async def test_forged_cursor_gets_a_clear_page(browser: browsing.Browser) -> None:
    page = await browser.get(f"{PATH}?cursor=<script>")
    assert (page.status, "That did not work" in page.words, "<script>" in page.text) == (400, True, False)


async def test_page_says_how_to_pause_the_destination(browser: browsing.Browser) -> None:
    words = (await browser.get(PATH)).words
    assert "metadata: {namespace: agency, name: crm} spec: state: Paused" in words
    assert (
        'kubectl patch destinations.usher.dev crm -n agency --type merge -p \'{"spec": {"state": "Paused"}}\'' in words
    )


ANSWERED = sample.SampleResult(
    request=sample.SampleRequest("POST", "https://crm.example", [("usher-test", "true")], '{"user":\n1}'),
    route="agency/lobby/crm",
    outcome="Dead",
    error="Rejected",
    hint="look at `transform`",
    rule=2,
    rule_error="",
    status=422,
    milliseconds=7,
    answer="<script>alert(1)</script>\x1b[2J",
)


async def test_sample_shows_request_answer_and_what_would_become_of_a_visit(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    served.sample_sender.send = mock.AsyncMock(return_value=ANSWERED)
    page = await browser.send(PATH, await browser.get(PATH))
    assert page.status == 200
    assert "A visit would be dead at once. Status 422 after 7 ms (Rejected). look at transform ." in page.words
    assert "Rule 2 of http.answers decided." in page.words
    assert 'POST https://crm.example usher-test: true {"user": 1}' in page.words
    assert "&lt;script&gt;alert(1)" in page.text
    assert ("\x1b" in page.text, "data-reloads" in page.text) == (False, False)
    (entry,) = (await served.get("/api/audit"))["rows"]
    assert (entry["action"], entry["selection"]) == ("test destination", {"destination": "agency/crm"})


async def test_sample_that_cannot_be_sent_says_why(served: admin_port.Served, browser: browsing.Browser) -> None:
    served.sample_sender.send = mock.AsyncMock(side_effect=sample.SampleError("it lacks a secret", "add it"))
    page = await browser.send(PATH, await browser.get(PATH))
    assert (page.status, "It lacks a secret (status 409). Add it." in page.words) == (409, True)


async def test_sample_needs_its_scope(served: admin_port.Served) -> None:
    served.sample_sender.send = mock.AsyncMock(return_value=ANSWERED)
    async with browsing.opened(served, served.tokens.observe) as browser:
        page = await browser.send(PATH, await browser.get(PATH))
    assert (page.status, "lacks the scope deliveries:write" in page.words) == (403, True)
    limited = served.create_token("limited", list(tokens.Scope), tenants=("agency/acme",))
    async with browsing.opened(served, limited) as browser:
        assert (await browser.send(PATH, await browser.get(PATH))).status == 403
    assert not served.sample_sender.send.called
