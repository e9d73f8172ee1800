"""The output of ``kubectl get``, ``describe`` and ``wait`` during the life of a resource."""

import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from local_cluster import kubectl
from support import agencies, api, gateways, waiting

pytestmark = agencies.SHARED

LISTENER = "listeners.usher.dev/lobby"
DESTINATION = "destinations.usher.dev/crm"
BAR = "listeners.usher.dev/bar"
TENANT = "tenants.usher.dev/acme"


async def columns(agency: agencies.Agency, named: str) -> dict[str, str]:
    """The table of ``kubectl get`` as column -> value; ``""`` for an empty cell."""
    head, row = (await agency.kubectl("get", named)).splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    ends = [*starts[1:], None]
    return {head[start:end].strip(): row[start:end].strip() for start, end in zip(starts, ends, strict=True)}


async def until_shown(agency: agencies.Agency, named: str, **values: str) -> dict[str, str]:
    """Wait until the table's row has these values, and return it."""
    return await waiting.until(
        lambda: columns(agency, named), lambda row: values.items() <= {k: row[k] for k in values}.items()
    )


async def never_ready(agency: agencies.Agency, named: str) -> None:
    """``kubectl wait`` says that it waited in vain."""
    with pytest.raises(kubectl.KubectlError, match="timed out waiting for the condition"):
        await agency.kubectl("wait", "--for=condition=Ready", "--timeout=300ms", named)


async def test_listener_without_its_class_is_ready_once_the_class_exists(agency: agencies.Agency) -> None:
    klass = agency.platform.install.klass(hostname=f"{agency.namespace}.example.com")
    klass["metadata"]["name"] = name = f"late-{agency.namespace}"
    await agency.apply(agency.tenant(), agency.destination(), agency.listener(listenerClassName=name))
    row = await until_shown(agency, LISTENER, READY="False", REASON="ClassNotFound")
    assert row["TENANT"] == "acme"
    assert row["HOST"] == ""
    await until_shown(agency, TENANT, READY="False", REASON="ListenersNotReady")
    assert f"ListenerClass `{name}`" in await agency.kubectl("describe", LISTENER)
    assert "listener `lobby`" in await agency.kubectl("describe", TENANT)
    await never_ready(agency, LISTENER)
    assert await agency.platform.server.get(api.Resource("Secret", "lobby-url", agency.namespace)) is None
    try:
        await agency.apply(klass)
        await agency.wait_ready(LISTENER, TENANT, f"listenerclasses.usher.dev/{name}")
        await until_shown(agency, LISTENER, READY="True", REASON="Ready", HOST=klass["spec"]["hostname"])
        assert (await agency.post(await agency.url(), b"{}")).acknowledges
    finally:
        await agency.platform.server.delete(api.of(klass))


async def test_destination_reports_each_problem_of_its_secret(agency: agencies.Agency) -> None:
    login = {"type": "Bearer", "bearer": {"secretRef": {"name": "crm-token", "key": "token"}}}
    await agency.apply(agency.tenant(), agency.destination(http={"authentication": login}), agency.listener())
    await until_shown(agency, DESTINATION, READY="False", REASON="SecretNotFound", HEALTHY="SecretNotFound")
    assert "Secret `crm-token`" in await agency.kubectl("describe", DESTINATION)
    await agency.wait_ready(LISTENER)
    assert (await agency.post(await agency.url(), gateways.visit(1))).acknowledges
    await agency.until_held("SecretNotFound", 1)
    await agency.wait("Listener", "lobby", "DeliveriesHeld", "True", "DeliveriesHeld")
    assert "`crm` (SecretNotFound: Secret `crm-token` must exist" in await agency.kubectl("describe", LISTENER)

    await agency.apply(agency.secret("crm-token", labels={}, token="wx3secret-of-crm"))
    await until_shown(agency, DESTINATION, READY="False", REASON="SecretNotLabelled")
    described = await agency.kubectl("describe", DESTINATION)
    assert "usher.dev/watch" in described
    await never_ready(agency, DESTINATION)

    await agency.kubectl("label", "secret/crm-token", "usher.dev/watch=true")
    await agency.wait_ready(DESTINATION)
    row = await until_shown(agency, DESTINATION, READY="True", REASON="Ready", HEALTHY="Healthy")
    assert row["TYPE"] == "HTTP"
    assert row["HOST"] == agency.platform.receiver.url.removeprefix("http://")
    await agency.until_received(1)


async def test_transform_that_fails_is_a_warning_and_its_deliveries_are_held(agency: agencies.Agency) -> None:
    route = {"name": "crm", "destinationRef": {"name": "crm"}, "transform": "{'room': body.guest.room}"}
    await agency.apply(agency.tenant(), agency.destination(), agency.listener(routes=[route]))
    await agency.wait_ready(LISTENER)
    accepted = await agency.wait("Listener", "lobby", "Accepted", "True", "Accepted")
    warning = "`spec.routes[0].transform`: fails with NoSuchField (body.guest) on every sample body"
    assert warning in api.condition(accepted, "Accepted")["message"]
    await waiting.until(lambda: agency.kubectl("describe", LISTENER), lambda text: f"with a warning: {warning}" in text)
    assert (await agency.post(await agency.url(), gateways.visit(1))).acknowledges
    held = await agency.wait("Listener", "lobby", "DeliveriesHeld", "True", "DeliveriesHeld")
    assert "`crm` (TransformError: NoSuchField (body.guest))" in api.condition(held, "DeliveriesHeld")["message"]
    assert api.condition(held, "Ready")["status"] == "True"


async def test_listener_is_ready_then_receiving_then_suspended_then_deleted(agency: agencies.Agency) -> None:
    await agency.apply(agency.tenant(), agency.destination(), agency.listener())
    await agency.wait_ready(LISTENER, DESTINATION, TENANT)
    row = await columns(agency, LISTENER)
    assert (row["READY"], row["REASON"], row["RECEIVING"]) == ("True", "Ready", "NoVisitYet")
    described = await agency.kubectl("describe", LISTENER)
    assert "paste the URL (Secret `lobby-url`) into the portal" in described
    url = await agency.url()
    assert (await agency.post(url, gateways.visit(1))).acknowledges
    await until_shown(agency, LISTENER, RECEIVING="Receiving")
    await agency.wait("Listener", "lobby", "Verified", "True", "Verified")

    await agency.apply(agency.listener(state="Suspended"))
    await until_shown(agency, LISTENER, READY="True", REASON="Suspended")
    await agency.wait_ready(LISTENER)  # GitOps tools must not wait for it
    assert "`state` is Suspended" in await agency.kubectl("describe", LISTENER)

    await agency.kubectl("delete", LISTENER)
    with pytest.raises(kubectl.KubectlError, match="not found"):
        await agency.kubectl("get", LISTENER)
    await agency.until_answers(url, 404)
    await agency.platform.server.wait(api.Resource("Secret", "lobby-url", agency.namespace), lambda secret: not secret)


@contextlib.asynccontextmanager
async def gateway_down(platform: agencies.Platform) -> AsyncIterator[None]:
    """Stop the gateway for the time of the block."""
    await platform.gateway.stop()
    try:
        yield
    finally:
        platform.gateway = await platform.install.start_gateway(admin=platform.gateway.admin)


async def test_short_gateway_outage_keeps_ready_and_delays_new_resources(
    agency: agencies.Agency,
) -> None:
    await agency.apply(agency.tenant(), agency.destination(), agency.listener())
    await agency.wait_ready(LISTENER, DESTINATION)
    async with gateway_down(agency.platform):
        await agency.apply(agency.listener("bar"))
        row = await until_shown(agency, BAR, READY="Unknown", REASON="Pending")
        assert row["RECEIVING"] == "NoVisitYet"
        assert "waiting for the gateways" in await agency.kubectl("describe", BAR)
        assert (await columns(agency, LISTENER))["READY"] == "True"  # within 30 s the gateway may just be restarting
        await never_ready(agency, BAR)
    await agency.wait_ready(BAR, LISTENER, DESTINATION)
