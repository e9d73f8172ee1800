"""An agency from ``kubectl apply`` to an answer on the gateway's port and a delivery to its systems."""

import datetime
from typing import Any

from support import agencies, api, gateways, waiting

pytestmark = agencies.SHARED


async def open_for_visits(agency: agencies.Agency) -> str:
    """Apply a tenant, a destination and a listener; return the URL once it answers."""
    await agency.apply(agency.tenant(), agency.destination(), agency.listener())
    await agency.wait_ready("listeners.usher.dev/lobby", "destinations.usher.dev/crm", "tenants.usher.dev/acme")
    return await agency.url()


async def post(agency: agencies.Agency, url: str, *numbers: int) -> None:
    """Send visits as Purple does; the gateway must acknowledge each."""
    for number in numbers:
        assert (await agency.post(url, gateways.visit(number))).acknowledges


async def test_suspended_tenant_suspends_its_listeners(agency: agencies.Agency) -> None:
    url = await open_for_visits(agency)
    await agency.apply(agency.tenant(state="Suspended"))
    await agency.wait("Listener", "lobby", "Ready", "True", "Suspended")
    await agency.wait("Tenant", "acme", "Ready", "True", "Suspended")
    await post(agency, url, 1)
    await agency.until_held("TenantSuspended", 1)
    await agency.apply(agency.tenant(state="Active"))
    await agency.until_received(1)


async def test_old_token_is_held_then_rejected_while_the_new_one_works(agency: agencies.Agency) -> None:
    old = await open_for_visits(agency)
    await rotate(agency, until=in_seconds(3600))
    new = await agency.url(satisfied=lambda url: url != old)
    await agency.until_answers(new, 200)
    await post(agency, new, 1)
    await post(agency, old, 2)
    await agency.until_received(1)
    await agency.until_held("TokenHeld", 1)
    await rotate(agency, until=in_seconds(2))
    await agency.until_answers(old, 404)
    await post(agency, new, 3)
    await agency.apply(agency.listener(token={"generation": 1}))
    await agency.until_received(1, 2, 3)


async def rotate(agency: agencies.Agency, until: str) -> None:
    also = {"generation": 0, "action": "Hold", "untilTime": until}
    await agency.apply(agency.listener(token={"generation": 1, "alsoAccept": [also]}))


def in_seconds(seconds: float) -> str:
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def test_next_attempt_uses_the_rotated_secret(agency: agencies.Agency) -> None:
    login = {"type": "Bearer", "bearer": {"secretRef": {"name": "crm-token", "key": "token"}}}
    await agency.apply(
        agency.secret("crm-token", token="wx3secret-first"),
        agency.destination(http={"authentication": login}),
        agency.tenant(),
        agency.listener(),
    )
    await agency.wait_ready("listeners.usher.dev/lobby", "destinations.usher.dev/crm")
    url = await agency.url()
    await post(agency, url, 1)
    (first,) = await agency.until_received(1)
    assert first.headers["authorization"] == "Bearer wx3secret-first"
    previous_hash = await running_hash(agency)
    await agency.apply(agency.secret("crm-token", token="wx3secret-second"))
    await waiting.until(lambda: running_hash(agency), lambda current_hash: current_hash != previous_hash)
    await post(agency, url, 2)
    received = await agency.until_received(1, 2)
    assert received[-1].headers["authorization"] == "Bearer wx3secret-second"


async def running_hash(agency: agencies.Agency) -> str:
    """Hash of the Destination `crm` that the gateway runs."""
    config = await agency.platform.ask("/api/config")
    destinations = {document["key"]: document for document in config["documents"] if document["kind"] == "Destination"}
    return str(destinations[f"{agency.namespace}/crm"]["hash"])


async def test_hostname_moves_from_one_tenant_to_another(make_agency: agencies.Make) -> None:
    incumbent, heir = await make_agency(), await make_agency()
    hostname = f"{incumbent.namespace}.customers.example"
    url = f"https://{hostname}/hooks/purple.php"
    address = {"name": "shop", "hostname": hostname, "path": "/hooks/purple.php"}
    theirs: dict[str, Any] = {"addresses": [address], "authentication": {"type": "None"}}
    await incumbent.apply(incumbent.tenant(), incumbent.destination(), incumbent.listener(**theirs))
    await incumbent.wait_ready("listeners.usher.dev/lobby")
    await heir.apply(heir.tenant(), heir.destination(), heir.listener(**theirs))
    listener = await heir.wait("Listener", "lobby", "Accepted", "False", "HostnameConflict")
    assert incumbent.namespace not in api.condition(listener, "Accepted")["message"].replace(hostname, "")
    await post(incumbent, url, 1)
    await incumbent.until_received(1)

    platform = incumbent.platform
    await platform.server.delete(api.of(incumbent.listener()))
    await incumbent.until_answers(url, 404)
    await platform.restart_operator("--tombstone-seconds", "1")
    await heir.wait_ready("listeners.usher.dev/lobby")
    await platform.restart_operator()
    await waiting.until(lambda: delivers_to(heir, url))
    assert {agencies.number_of(request.body) for request in incumbent.received()} == {1}


async def delivers_to(agency: agencies.Agency, url: str) -> bool:
    """Send a visit to a URL; return True if it is counted for an agency."""
    await post(agency, url, 2)
    rows = (await agency.platform.ask(f"/api/visits?namespace={agency.namespace}"))["rows"]
    return bool(rows)


async def test_existing_address_is_served_exactly_as_declared(agency: agencies.Agency) -> None:
    hostname = f"{agency.namespace}.customers.example"
    address = {"name": "legacy", "hostname": hostname, "path": "/hooks/purple.php"}
    legacy = {**address, "query": [{"name": "k", "value": "7"}]}
    await agency.apply(agency.tenant(), agency.destination())
    await agency.apply(agency.listener(addresses=[legacy], authentication={"type": "None"}))
    await agency.wait_ready("listeners.usher.dev/lobby")
    base = f"https://{hostname}/hooks/purple.php"
    assert await agency.url() == f"{base}?k=7"
    await post(agency, f"{base}?k=7", 1)
    await post(agency, f"{base}?utm=x&k=7", 2)
    await agency.until_received(1, 2)
    for other in ("?k=8", "", "/?k=7"):
        assert (await agency.post(base + other, gateways.visit(3))).status == 404
    shown = await agency.kubectl("get", "listeners.usher.dev", "lobby", "--output=jsonpath={.status.addresses[0].url}")
    assert shown == f"{base}?k=…"
