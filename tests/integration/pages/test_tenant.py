"""The page about a tenant."""

import re

import pytest

from support import admin_port, browsing, samples
from usher_gateway import documents, model
from usher_gateway.access import tokens

PATH = "/ui/tenants/agency/acme"


async def test_every_need_is_shown_with_a_next_step(served: admin_port.Served) -> None:
    words = await browsing.words_of(served, PATH)
    assert "1 delivery failed for good. See why, and redrive them." in words
    assert "1 delivery is held, because the destination is paused. state: Active of the Destination ends that." in words


async def test_arrivals_and_deliveries_are_counted_by_kind(served: admin_port.Served) -> None:
    words = await browsing.words_of(served, PATH)
    heads = r"Last hour \(since ..:..\) Today Yesterday 30 days"
    assert re.search(rf"Arrivals by kind \(UTC\) Arrivals {heads} visits 4 4 0 4 quarantined 1 1 0 1", words)
    deliveries = "created for new visits 3 3 0 3 delivered 1 1 0 1 failed for good 1 1 0 1"
    assert re.search(rf"Deliveries by result \(UTC\) Deliveries {heads} {deliveries}", words)
    assert "Of those that have not ended, 0 wait and 1 is held now." in words


async def test_page_names_the_routes_that_are_paused(served: admin_port.Served) -> None:
    served.edit(routes=(documents.Route("crm", "agency/crm", state="Paused"),))
    assert "Route crm: Paused." in await browsing.words_of(served, PATH)


async def test_page_says_when_it_was_read_and_loads_itself_again(browser: browsing.Browser) -> None:
    page = await browser.get(PATH)
    assert "As of 2025-11-25 12:00:00" in page.words
    assert 'data-reloads="60"' in page.text


async def test_hold_has_its_cause_and_what_ends_it(served: admin_port.Served) -> None:
    words = await browsing.words_of(served, PATH)
    assert "the destination is paused (DestinationPaused) 1 " in words
    assert "state: Active of the Destination" in words


async def test_cause_of_a_hold_has_no_backticks(served: admin_port.Served) -> None:
    held = samples.plan(samples.route(), hold=model.HoldReason.TokenHeld)
    await served.bench.accept(samples.arrival("old", if_visit=(held,)))
    words = await browsing.words_of(served, PATH)
    assert "it came to an old URL with action: Hold (TokenHeld)" in words


async def test_dead_deliveries_are_grouped_by_error_and_destination(served: admin_port.Served) -> None:
    assert re.search(r"by error .* Status 400 agency/crm 1 20", await browsing.words_of(served, PATH))


async def test_destination_has_the_deliveries_of_this_tenant(served: admin_port.Served) -> None:
    bar = samples.plan(samples.route(listener=samples.BAR), hold=model.HoldReason.DestinationPaused)
    await served.bench.accept(samples.arrival("bar", listener=samples.BAR, if_visit=(bar,)))
    heads = "Delivered, 1 h 24 h Wait Held Failed for good"
    assert f"{heads} crm Healthy - 1 1 0 1 1 " in await browsing.words_of(served, PATH)
    assert f"{heads} crm Healthy - 0 0 0 1 0 " in await browsing.words_of(served, "/ui/tenants/agency/globex")
    served.bench.clock.now += 2 * samples.HOUR
    assert f"{heads} crm Healthy - 0 1 0 1 1 " in await browsing.words_of(served, PATH)


async def test_retention_says_how_far_back_the_data_reaches(served: admin_port.Served) -> None:
    words = await browsing.words_of(served, PATH)
    for reach in (
        "Bodies 30 days",
        "Visits 30 days",
        "Counts 25 months",
        "Receipts of erasure 1,095 days",
        "Backups 35 days",
    ):
        assert reach in words


async def test_page_leads_to_its_listener_destination_and_visits(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    page = await browser.get(PATH)
    (visit, *_) = (await served.get("/api/visits?tenant=acme"))["rows"]
    links = re.findall('href="(/ui/[^"]*)"', page.text)
    assert {"/ui/listeners/agency/lobby", "/ui/destinations/agency/crm", f"/ui/visits/{visit['id']}"} <= {*links}
    for path in ("/ui/listeners/agency/lobby", "/ui/destinations/agency/crm"):
        assert (await browser.get(path)).status == 200


async def test_counts_of_a_destination_lead_to_their_deliveries(browser: browsing.Browser) -> None:
    page = await browser.get(PATH)
    assert '<a class="step" href="/ui/redrive?tenant=agency/acme">See why, and redrive them.</a>' in page.text
    for state in ("held", "dead"):
        path = f"/ui/destinations/agency/crm?tenant=agency/acme&state={state}"
        assert f'href="{path.replace("&", "&amp;")}#newest-heading">1</a>' in page.text
        assert f"Newest deliveries (agency/acme, {state})" in (await browser.get(path)).words
    assert "/ui/visits?tenant=agency/acme&amp;countedAs=quarantined" in page.text


async def test_days_are_those_of_the_tenants_zone(served: admin_port.Served) -> None:
    served.edit(tenant=documents.TenantDocument("acme", time_zone="Australia/Adelaide"))
    assert "Visits by day, last 30 days (Australia/Adelaide)" in await browsing.words_of(served, PATH)


async def test_hostile_tenant_name_is_escaped(served: admin_port.Served, browser: browsing.Browser) -> None:
    listener = model.ListenerName("agency", "<script>x</script>\x1b[2J", "lobby")
    held = samples.plan(samples.route(listener=listener), hold=model.HoldReason.DestinationPaused)
    await served.bench.accept(samples.arrival("e", listener=listener, if_visit=(held,)))
    overview = await browser.get("/ui/?all=1")
    (path,) = re.findall(r'href="(/ui/tenants/agency/%3C[^"#]*)"', overview.text)
    page = await browser.get(path)
    assert page.status == 200
    assert "Not in force:" in page.words
    assert "<script>x" not in overview.text + page.text
    assert "\x1b" not in overview.text + page.text


async def test_unknown_tenant_gets_a_hint(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/tenants/agency/acne")
    assert (page.status, "Did you mean acme ?" in page.words) == (404, True)


@pytest.mark.parametrize("kind", ["tenants", "listeners", "destinations"])
@pytest.mark.parametrize("key", ["agency/none", "none/acme", "%00/%00", "..%2f../x", "agency/<script>"])
async def test_page_of_what_does_not_exist_says_so(browser: browsing.Browser, kind: str, key: str) -> None:
    page = await browser.get(f"/ui/{kind}/{key}")
    assert page.status in {400, 404}
    assert "<script>" not in page.text


async def test_limited_token_sees_pages_of_its_own_tenant_alone(served: admin_port.Served) -> None:
    await served.bench.accept(samples.arrival("bar", listener=samples.BAR))
    token = served.create_token("acme", [tokens.Scope.StatusRead, tokens.Scope.VisitsRead], tenants=("agency/acme",))
    async with browsing.opened(served, token) as browser:
        own, other = await browser.get(PATH), await browser.get("/ui/tenants/agency/globex")
        unknown = await browser.get("/ui/tenants/agency/globes")
    assert (own.status, other.status, "globex" in own.text) == (200, 404, False)
    assert other.words.replace("globex", "") == unknown.words.replace("globes", "")


async def test_limited_token_sees_no_listener_or_destination_of_another(served: admin_port.Served) -> None:
    token = served.create_token("globex", [*tokens.OBSERVE_SCOPES], tenants=("agency/globex",))
    await served.bench.accept(samples.arrival("bar", listener=samples.BAR))
    async with browsing.opened(served, token) as browser:
        for path in ("/ui/listeners/agency/lobby", "/ui/destinations/agency/crm"):
            assert (await browser.get(path)).status == 404


async def test_long_lists_say_that_they_are_cut(served: admin_port.Served) -> None:
    accepted = await served.bench.accept(*[samples.arrival(f"many {number}") for number in range(1_001)])
    for each in accepted:
        served.bench.store.settle(samples.settlement(each.deliveries[0], model.SettledAs.Delivered, status=200))
    await served.bench.store.flush()
    words = await browsing.words_of(served, PATH)
    assert "“Delivered” does not count all: at most the newest 1,000 are looked at." in words
    assert "crm Healthy - 1,000+ " in words
    assert "The newest 20. More" in words
