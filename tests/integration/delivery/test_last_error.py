"""The last error of a destination is shown from the first failure on, also after a restart."""

import asyncio
import contextlib
import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
import structlog

from support import gateway as gateways
from support import waiting
from usher_gateway.insight import fault_log
from usher_gateway.pages import attention
from usher_gateway.simulator import receiver, receiving
from usher_gateway.words import states

CRM_ROUTE = "name: crm, destinationRef: {name: crm}"
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture
def manifests(peer: receiver.Receiver) -> str:
    return gateways.one_route(peer.url)


async def row_of(gateway: gateways.RunningGateway, path: str = "destinations") -> dict[str, Any]:
    """Return the only row of a listing of the API."""
    (row,) = (await gateway.ask("GET", f"/api/{path}"))["rows"]
    return dict(row)


async def post(gateway: gateways.RunningGateway, user: int) -> None:
    await gateway.post(json.dumps({"user": {"id": user}}).encode())


async def test_first_failure_is_shown_and_outlives_a_restart(
    tmp_path: Path, peer: receiver.Receiver, manifests: str
) -> None:
    peer.set_behaviour("/crm", receiving.Behaviour(status=503))
    async with gateways.running(tmp_path, manifests) as gateway:
        assert (await row_of(gateway))["health"] == "NotTried"
        await post(gateway, 1)
        await waiting.wait_until(lambda: gateway.gateway.health.is_failing("agency/crm"))
        row_before_restart = await row_of(gateway)
    assert [row_before_restart[name] for name in ("health", "error", "circuit")] == ["Failing", "ServerError", "Closed"]
    last_error = row_before_restart["lastError"]
    assert (last_error["status"], last_error["failures"]) == (503, 1)
    async with gateways.running(tmp_path, manifests) as gateway:
        row_after_restart = await row_of(gateway)
        exposition = gateway.exposition()
        assert (await row_of(gateway, "tenants"))["failingDestinations"] == ["agency/crm"]
    assert (row_after_restart["health"], row_after_restart["lastError"]) == ("Failing", last_error)
    labels = 'destination_namespace="agency",destination="crm"'
    assert f"usher_destination_consecutive_failures{{{labels}}} 1" in exposition
    assert f'usher_destination_last_error_timestamp_seconds{{{labels},error="ServerError"}} 1' in exposition


async def test_success_outlives_a_restart(tmp_path: Path, peer: receiver.Receiver, manifests: str) -> None:
    async with gateways.running(tmp_path, manifests) as gateway:
        await post(gateway, 1)
        destination = gateway.gateway.snapshot.destinations["agency/crm"]
        await waiting.wait_until(lambda: gateway.gateway.worker.activity.of(destination).has_succeeded)
    async with gateways.running(tmp_path, manifests) as gateway:
        row = await row_of(gateway)
    assert (row["health"], row["lastError"]) == ("Healthy", None)


async def test_failing_destination_is_logged_when_it_starts_and_when_it_ends(
    tmp_path: Path, peer: receiver.Receiver, manifests: str
) -> None:
    peer.set_behaviour("/crm", receiving.Behaviour(status=503))
    with structlog.testing.capture_logs() as logs:
        async with gateways.running(tmp_path, manifests) as gateway:
            faults = fault_log.FaultLog(
                state=gateway.gateway.state,
                tracker=gateway.gateway.health,
                counters=gateway.gateway.counters,
                clock=gateway.gateway.clock,
            )
            await post(gateway, 1)
            await waiting.until(lambda: row_of(gateway), lambda row: row["health"] == "Failing")
            await faults.write()
            peer.set_behaviour("/crm", receiving.Behaviour())
            await post(gateway, 2)
            await waiting.until(lambda: row_of(gateway), lambda row: row["health"] == "Healthy")
            await faults.write()
    lines = [line for line in logs if line["event"].startswith("destination_fault")]
    assert [(line["event"], line["destination"]) for line in lines] == [
        ("destination_fault_started", "agency/crm"),
        ("destination_fault_ended", "agency/crm"),
    ]
    assert (lines[0]["health"], lines[0]["error"], lines[0]["status"]) == ("Failing", "ServerError", 503)
    assert lines[0]["tenants"] == ["acme"]


async def test_forbidden_address_is_shown_before_the_first_delivery_with_its_setting(
    tmp_path: Path, manifests: str
) -> None:
    forbidden = re.sub(r"http://127[^/]*/", "http://10.1.2.3/", manifests)
    with structlog.testing.capture_logs() as logs:
        async with gateways.running(tmp_path, forbidden) as gateway:
            row = await row_of(gateway)
    assert (row["health"], row["error"], row["lastError"]) == ("AddressForbidden", "AddressForbidden", None)
    (line,) = [line for line in logs if line["event"] == "forbidden_address_found"]
    for hint in (row["hint"], line["hint"]):
        assert "--allow-destination (in the chart: gateway.allowDestinations)" in hint


async def test_error_that_is_over_is_not_said_to_last_when_a_secret_is_missing(
    tmp_path: Path, peer: receiver.Receiver, manifests: str
) -> None:
    peer.set_behaviour("/crm", receiving.Behaviour(status=503))
    async with gateways.running(tmp_path, manifests) as gateway:
        await post(gateway, 1)
        await waiting.until(lambda: row_of(gateway), lambda row: row["health"] == "Failing")
        peer.set_behaviour("/crm", receiving.Behaviour())
        await post(gateway, 2)
        await waiting.until(lambda: row_of(gateway), lambda row: row["health"] == "Healthy")
    signing = 'crm", signing: {secretRefs: [{name: absent, key: signing}]}}'
    async with gateways.running(tmp_path, manifests.replace('crm"}', signing)) as gateway:
        row, tenant = await row_of(gateway), await row_of(gateway, "tenants")
    assert (row["health"], row["lastError"]["error"]) == ("SecretNotFound", "ServerError")
    (need,) = attention.needs_of_tenant(tenant, datetime.datetime.now(datetime.UTC))
    assert (need.sentence.partition(";")[0], need.since) == ("crm fails with an error", None)


async def test_missing_secret_is_named_by_listings_and_log(tmp_path: Path, manifests: str) -> None:
    signing = 'crm", signing: {secretRefs: [{name: absent, key: signing}]}}'
    said = "Secret `absent` must exist in the same namespace"
    with structlog.testing.capture_logs() as logs:
        async with gateways.running(tmp_path, manifests.replace('crm"}', signing)) as gateway:
            await post(gateway, 1)
            await waiting.until(gateway.gateway.store.held_groups, bool)
            await gateway.gateway.hold_reviewer.review()
            destination, listener = await row_of(gateway), await row_of(gateway, "listeners")
    assert (destination["health"], destination["unresolved"]) == ("SecretNotFound", said)
    (held,) = listener["heldDeliveries"]
    assert (held["route"], held["reason"], held["missing"]) == ("crm", "SecretNotFound", said)
    (line,) = [line for line in logs if line["event"] == "deliveries_held"]
    assert (line["missing"], line["since"]) == ([said], held["since"])


async def test_failure_at_one_gateway_is_listed_by_the_others_of_its_store(
    tmp_path: Path, database: str, peer: receiver.Receiver, manifests: str
) -> None:
    peer.set_behaviour("/crm", receiving.Behaviour(status=503))
    async with contextlib.AsyncExitStack() as stack:
        fleet = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            environment = {"USHER_INSTALL_KEY": KEY}
            gateway = gateways.running(tmp_path / name, manifests, environment=environment, database=database)
            fleet.append(await stack.enter_async_context(gateway))
        first, second = fleet
        assert (await row_of(second))["health"] == "NotTried"
        await post(first, 1)
        row = await waiting.until(lambda: row_of(second), lambda row: row["health"] == "Failing")
    assert (row["error"], row["circuit"]) == ("ServerError", "Closed")


@pytest.mark.parametrize("expression", ["transform: body.guest.room", "when: body.guest.room == 'a'"])
async def test_hold_is_reported_within_five_seconds(tmp_path: Path, manifests: str, expression: str) -> None:
    held = manifests.replace("{name: crm, destinationRef: {name: crm}}", f"{{{CRM_ROUTE}, {expression}}}")
    async with gateways.running(tmp_path, held) as gateway:
        await gateway.gateway.health.since(None)
        await post(gateway, 1)
        async with asyncio.timeout(5):
            row = await waiting.until(lambda: row_of(gateway, "listeners"), lambda row: bool(row["heldDeliveries"]))
        changes = await gateway.gateway.health.since(None)
        state = changes.present["observed", "Listener", "agency/wifi"]
    (held_delivery,) = row["heldDeliveries"]
    assert (held_delivery["route"], held_delivery["missing"]) == ("crm", "NoSuchField (body.guest)")
    assert isinstance(state, states.ListenerState)
    assert [shown["missing"] for shown in state.held_deliveries] == ["NoSuchField (body.guest)"]
    assert ["fails with NoSuchField (body.guest)" in warning for warning in row["warnings"]] == [True]
