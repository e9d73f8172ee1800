"""The page that redrives deliveries: it counts first, warns, and asks."""

import re

import pytest

from support import admin_port, browsing, samples
from usher_gateway import model
from usher_gateway.access import tokens
from usher_gateway.words import states

PATH = "/ui/redrive"
OF_ACME = f"{PATH}?tenant=agency/acme"


async def dead(served: admin_port.Served) -> list[str]:
    """Return the ids of dead deliveries."""
    return [row["id"] for row in (await served.get("/api/deliveries?state=dead"))["rows"]]


async def test_dead_deliveries_are_counted_by_reason_and_then_redriven(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    counted = await browser.get(f"{OF_ACME}&destination=agency/crm")
    assert "1 delivery would be sent again Failed with Deliveries Status 1 " in counted.words
    assert "fails now" not in counted.words
    assert len(await dead(served)) == 1
    done = await browser.send(PATH, counted, tenant="agency/acme", destination="agency/crm")
    assert "1 delivery is due again. To the tenant To the destination" in done.words
    assert await dead(served) == []
    assert "The newest deliveries of the selection are: delivered, held" in (await browser.get(OF_ACME)).words
    (entry,) = (await served.get("/api/audit"))["rows"]
    assert (entry["action"], entry["count"], entry["selection"]["destination"]) == ("redrive", 1, "agency/crm")


async def test_form_carries_the_selection_with_times_of_the_viewers_zone(browser: browsing.Browser) -> None:
    await browser.send("/ui/zone", await browser.get(PATH), zone="Asia/Tokyo")
    page = await browser.get(f"{OF_ACME}&since=2025-11-25T20:00&until=2025-11-25T22:00")
    later = await browser.get(f"{OF_ACME}&since=2025-11-25T22:00")
    fields = dict(
        re.findall(
            'type="hidden" name="([a-z]+)" value="([^"]*)"',
            page.text.partition('method="post" action="/ui/redrive"')[2],
        )
    )
    del fields["csrf"]
    assert fields == {
        "tenant": "agency/acme",
        "since": "2025-11-25T20:00:00+09:00",
        "until": "2025-11-25T22:00:00+09:00",
    }
    assert "0 deliveries would be sent again" in later.words


@pytest.mark.parametrize(
    ("health", "error", "warning"),
    [
        ("Failing", "Rejected", "(Failing, Rejected): it fails for good again."),
        ("Failing", "ServerError", "(Failing, ServerError): it may fail again."),
        ("CircuitOpen", "ServerError", "(CircuitOpen, ServerError): it waits until the destination takes it."),
    ],
)
async def test_failing_destination_is_named_before_the_confirmation(
    served: admin_port.Served, browser: browsing.Browser, health: str, error: str, warning: str
) -> None:
    served.health, served.error = states.DestinationHealth(health), error
    page = await browser.get(OF_ACME)
    assert f"1 delivery would go to agency/crm, which fails now {warning}" in page.words


async def test_one_delivery_is_redriven_from_its_visit(served: admin_port.Served, browser: browsing.Browser) -> None:
    (identifier,) = await dead(served)
    await dead_of(served, "other")
    counted = await browser.get(f"{PATH}?delivery={identifier}")
    assert "1 delivery would be sent again" in counted.words
    visit = await browser.send(PATH, counted, delivery=identifier)
    assert "What happened" in visit.words
    assert identifier not in await dead(served)
    assert len(await dead(served)) == 1


async def dead_of(served: admin_port.Served, name: str) -> None:
    """Store a visit whose delivery is dead."""
    (accepted,) = await served.bench.accept(samples.arrival(name))
    served.bench.store.settle(
        samples.settlement(accepted.deliveries[0], model.SettledAs.Dead, status=400, error="Status")
    )
    await served.bench.store.flush()


async def test_nothing_is_redriven_without_a_selection(served: admin_port.Served, browser: browsing.Browser) -> None:
    page = await browser.get(PATH)
    assert "Choose a tenant, a destination or a time." in page.words
    answer = await browser.send(PATH, page)
    assert (answer.status, len(await dead(served))) == (400, 1)


async def test_redrive_needs_its_scope(served: admin_port.Served) -> None:
    async with browsing.opened(served, served.tokens.observe) as browser:
        assert "lacks the scope deliveries:write" in (await browser.get(OF_ACME)).words
        tenant = await browser.get("/ui/tenants/agency/acme")
        assert (await browser.send(PATH, tenant, tenant="agency/acme")).status == 403
        assert PATH not in tenant.text
    assert len(await dead(served)) == 1


async def test_limited_token_redrives_deliveries_of_its_tenant_alone(served: admin_port.Served) -> None:
    token = served.create_token("globex", list(tokens.Scope), tenants=("agency/globex",))
    await served.bench.accept(samples.arrival("bar", listener=samples.BAR))
    async with browsing.opened(served, token) as browser:
        assert (await browser.get(OF_ACME)).status == 404
        page = await browser.get(f"{PATH}?since=2025-11-01T00:00")
        await browser.send(PATH, page, since="2025-11-01")
    assert "0 deliveries would be sent again" in page.words
    assert len(await dead(served)) == 1


async def test_empty_form_leads_to_tenants_with_deliveries_that_failed(browser: browsing.Browser) -> None:
    page = await browser.get(PATH)
    assert "Tenant Failed for good agency/acme 1" in page.words
    assert f'<a href="{OF_ACME}">agency/acme</a>' in page.text


@pytest.mark.parametrize("query", ["tenant=<script>", "since=yesterday", "delivery=x", "destination=agency/none"])
async def test_wrong_selection_gets_a_page_that_says_why(browser: browsing.Browser, query: str) -> None:
    page = await browser.get(f"{PATH}?{query}")
    assert (page.status in {400, 404}, "That did not work" in page.words, "<script>" in page.text) == (
        True,
        True,
        False,
    )
