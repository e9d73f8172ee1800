"""A delivery that a failed filter held continues only if no other reason holds it."""

import asyncio
from pathlib import Path

import pytest

from support import gateway as gateways
from support import samples, waiting, wire
from support.gateway import visit
from usher_gateway.delivery import holds
from usher_gateway.ingest import cpu_limits
from usher_gateway.store.base import Filter

BROKEN = "visit.visitCount > 0"  # Fails if a body has no count

ROUTES = f"""  routes:
  - name: crm
    destinationRef: {{name: missing}}
    when: {BROKEN}
"""

MENDED = "visit.visitCount == null"

# No server listens at this address.
DESTINATION = """
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: missing, namespace: agency}
spec: {type: HTTP, state: Paused, http: {url: "http://127.0.0.1:9/"}}
---
"""


async def held(gateway: gateways.RunningGateway) -> dict[str, int]:
    return {group.reason.name: group.count for group in await gateway.gateway.store.held_groups()}


async def wait_held(gateway: gateways.RunningGateway, expected: dict[str, int]) -> None:
    """Wait for these holds, because the review at the start may have claimed a delivery for a moment."""
    await waiting.until(lambda: held(gateway), lambda held_by_reason: held_by_reason == expected)


OLD_TOKEN = ", alsoAccept: [{generation: 0, action: Hold}]"


@pytest.mark.parametrize(
    "lifted",
    [
        pytest.param(OLD_TOKEN.replace("Hold", "Accept"), id="accepted"),
        pytest.param("", id="removed, so that its address is retired"),
    ],
)
async def test_held_token_still_holds_after_the_filter_is_repaired(tmp_path: Path, lifted: str) -> None:
    rotated = f"  token: {{generation: 1{OLD_TOKEN}}}\n"
    listener = gateways.LISTENER.replace("  routes: []\n", rotated + ROUTES)
    manifests = gateways.CLASS + gateways.TENANT + listener
    async with gateways.running(tmp_path, manifests) as gateway:
        assert (await gateway.post(visit(1))).acknowledges
        assert (await wire.exchange(gateway.port, wire.request(gateway.target(address=1), visit(2)))).acknowledges
        await wait_held(gateway, {"FilterError": 2})
        manifests = manifests.replace(BROKEN, MENDED)
        gateway.write(manifests)
        await wait_held(gateway, {"DestinationNotFound": 1, "TokenHeld": 1})
        gateway.write(manifests.replace(OLD_TOKEN, lifted))
        await wait_held(gateway, {"DestinationNotFound": 2})


async def test_filter_without_time_in_its_arrival_is_evaluated_at_every_review(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_limits, "ARRIVAL_SECONDS", 0.0)
    reviewed, review = asyncio.Event(), holds.HoldReviewer.review

    async def watched(self: holds.HoldReviewer) -> None:
        await review(self)
        reviewed.set()

    monkeypatch.setattr(holds.HoldReviewer, "review", watched)
    listener = gateways.LISTENER.replace("  routes: []\n", ROUTES.replace(BROKEN, MENDED))
    async with gateways.running(tmp_path, gateways.CLASS + gateways.TENANT + listener) as gateway:
        async with asyncio.timeout(60):
            await reviewed.wait()  # the review at the start, which may evaluate the filter of a visit already
        for user in (1, 2):
            assert (await gateway.post(visit(user))).acknowledges
            assert (await held(gateway)).get("ExpressionTooSlow") == 1
            await gateway.gateway.hold_reviewer.review()
            await wait_held(gateway, {"DestinationNotFound": user})


async def test_cancelled_hold_that_is_redriven_waits_for_its_filter_again(tmp_path: Path) -> None:
    manifests = gateways.CLASS + gateways.TENANT + gateways.LISTENER.replace("  routes: []\n", ROUTES)
    async with gateways.running(tmp_path, manifests) as gateway:
        assert (await gateway.post(visit(1))).acknowledges
        store, now = gateway.gateway.store, gateway.gateway.clock.now
        await wait_held(gateway, {"FilterError": 1})
        assert await store.cancel(Filter(), now(), lambda _: None) == 1
        assert await held(gateway) == {}
        assert await store.redrive(Filter(state="cancelled"), now(), samples.no_holds, lambda _: None) == 1
        await wait_held(gateway, {"FilterError": 1})
        gateway.write(manifests.replace(BROKEN, "visit.visitCount != null"))

        async def reason_of_the_end() -> object:
            (delivery,) = (await store.deliveries(Filter(), None, 10)).rows
            return delivery["cancelled"]

        assert await waiting.until(reason_of_the_end, lambda reason: reason is not None) == "Filter"


async def test_delivery_is_held_again_if_the_edited_filter_fails_too(tmp_path: Path) -> None:
    manifests = gateways.CLASS + gateways.TENANT + gateways.LISTENER.replace("  routes: []\n", ROUTES)
    async with gateways.running(tmp_path, manifests) as gateway:
        assert (await gateway.post(visit(1))).acknowledges
        await wait_held(gateway, {"FilterError": 1})
        store = gateway.gateway.store
        (first,) = await store.held_groups()
        gateway.write(manifests.replace(BROKEN, "visit.visitCount > 1"))
        await waiting.until(store.held_groups, lambda groups: any(group.since > first.since for group in groups))
        await wait_held(gateway, {"FilterError": 1})


async def post_three_visits(gateway: gateways.RunningGateway) -> None:
    """Post two visits, and one more after they were counted: with a quota of one, only the third comes over it."""
    for user in (1, 2):
        assert (await gateway.post(visit(user))).acknowledges
    await gateway.gateway.hold_reviewer.review()
    assert (await gateway.post(visit(3))).acknowledges


async def test_quota_hold_remains_after_the_filter_is_repaired(tmp_path: Path) -> None:
    tenant = gateways.TENANT.replace(
        "displayName: Acme", "displayName: Acme, quota: {visitsPerMonth: 1, whenExceeded: Hold}"
    )
    manifests = gateways.CLASS + tenant + gateways.LISTENER.replace("  routes: []\n", ROUTES)
    async with gateways.running(tmp_path, manifests) as gateway:
        await post_three_visits(gateway)
        await wait_held(gateway, {"FilterError": 3})
        manifests = manifests.replace(BROKEN, MENDED)
        gateway.write(manifests)
        await wait_held(gateway, {"DestinationNotFound": 2, "QuotaExceeded": 1})
        gateway.write(manifests.replace("visitsPerMonth: 1", "visitsPerMonth: 100"))
        await wait_held(gateway, {"DestinationNotFound": 3})


async def test_corrected_transform_of_a_destination_releases_its_deliveries(tmp_path: Path) -> None:
    listener = gateways.LISTENER.replace("  routes: []\n", ROUTES.replace(f"    when: {BROKEN}\n", ""))
    broken = DESTINATION.replace("state: Paused, http", f"transform: {BROKEN}, http")
    async with gateways.running(tmp_path, gateways.CLASS + gateways.TENANT + listener + broken) as gateway:
        assert (await gateway.post(visit(1))).acknowledges
        await wait_held(gateway, {"TransformError": 1})
        gateway.write(gateways.CLASS + gateways.TENANT + listener + broken.replace(BROKEN, MENDED))
        await wait_held(gateway, {})


async def test_quota_hold_remains_after_the_tenant_is_resumed(tmp_path: Path) -> None:
    tenant = gateways.TENANT.replace(
        "displayName: Acme", "displayName: Acme, state: Suspended, quota: {visitsPerMonth: 1, whenExceeded: Hold}"
    )
    listener = gateways.LISTENER.replace("  routes: []\n", ROUTES.replace(f"    when: {BROKEN}\n", ""))
    manifests = gateways.CLASS + tenant + listener + DESTINATION
    async with gateways.running(tmp_path, manifests) as gateway:
        await post_three_visits(gateway)
        await wait_held(gateway, {"TenantSuspended": 3})
        manifests = manifests.replace("state: Suspended, ", "")
        gateway.write(manifests)
        await wait_held(gateway, {"DestinationPaused": 2, "QuotaExceeded": 1})
        gateway.write(manifests.replace("visitsPerMonth: 1", "visitsPerMonth: 100"))
        await wait_held(gateway, {"DestinationPaused": 3})


async def test_new_tenant_does_not_decide_holds_of_the_former_one(
    tmp_path: Path,
) -> None:
    other = gateways.TENANT.replace("name: acme", "name: globex")
    tenants = gateways.TENANT + other
    listener = gateways.LISTENER.replace("  routes: []\n", ROUTES)
    async with gateways.running(tmp_path, gateways.CLASS + tenants + listener) as gateway:
        assert (await gateway.post(visit(1))).acknowledges
        await wait_held(gateway, {"FilterError": 1})
        moved = listener.replace("name: acme", "name: globex").replace(BROKEN, MENDED).replace("missing", "theirs")
        gateway.write(gateways.CLASS + tenants + moved)
        await waiting.wait_until(lambda: gateway.gateway.registry.listeners["agency/wifi"].name.tenant == "globex")
        await gateway.gateway.hold_reviewer.review()
        await gateway.gateway.store.flush()
        await wait_held(gateway, {"FilterError": 1})
        opened = await gateway.gateway.store.open_deliveries(0)
        assert not opened


async def test_suspension_hold_remains_when_the_listener_changes_tenant(tmp_path: Path) -> None:
    suspended = gateways.TENANT.replace("displayName: Acme", "displayName: Acme, state: Suspended")
    tenants = suspended + gateways.TENANT.replace("name: acme", "name: globex")
    listener = gateways.LISTENER.replace("  routes: []\n", ROUTES.replace(f"    when: {BROKEN}\n", ""))
    async with gateways.running(tmp_path, gateways.CLASS + tenants + listener) as gateway:
        assert (await gateway.post(visit(1))).acknowledges
        await wait_held(gateway, {"TenantSuspended": 1})
        gateway.write(gateways.CLASS + tenants + listener.replace("name: acme", "name: globex"))
        await waiting.wait_until(lambda: gateway.gateway.registry.listeners["agency/wifi"].name.tenant == "globex")
        await gateway.gateway.hold_reviewer.review()
        await wait_held(gateway, {"TenantSuspended": 1})
