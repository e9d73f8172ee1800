"""Values of metrics: from the first scrape on, and after a restart."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import test_utils, web
from prometheus_client import parser

from support import gateway as support
from support import leaks, waiting, wire
from usher_gateway import model
from usher_gateway.delivery import circuit
from usher_gateway.insight import tenants

ROUTES = support.MANIFESTS.replace(
    "routes: []",
    "routes: [{name: quiet, state: Paused, destinationRef: {name: crm}}, {name: lost, destinationRef: {name: crm}}]",
)

DESTINATION = """
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {{name: crm, namespace: agency}}
spec: {{type: HTTP, http: {{url: "{url}"}}}}
---
"""


def values(gateway: support.RunningGateway, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the values of a metric's samples by their labels."""
    families = parser.text_string_to_metric_families(gateway.exposition())
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


async def test_skips_and_consecutive_refusals_are_counted_per_listener(tmp_path: Path) -> None:
    assert ROUTES != support.MANIFESTS
    async with support.running(tmp_path, ROUTES) as gateway:
        await gateway.wait_configured()
        for _ in range(2):
            target = gateway.target()
            assert (await wire.exchange(gateway.port, wire.request(target, b"", method="DELETE"))).status == 405
        assert (await wire.exchange(gateway.port, wire.request("/stray", b"{}"))).status == 404
        refused = values(gateway, "usher_listener_consecutive_refusals")
        (labels,) = refused
        assert refused[labels] == 2
        by_reason = values(gateway, "usher_tenant_refused_total")
        assert by_reason == {(("reason", "MethodNotAllowed"), *TENANT): 2.0}, "a stray request has no tenant"
        body = b'{"user": {"id": 7, "firstName": "' + leaks.PERSON.encode() + b'", "venue": {"id": 1}}}'
        assert (await gateway.post(body)).acknowledges
        assert values(gateway, "usher_listener_consecutive_refusals")[labels] == 0
        assert values(gateway, "usher_listener_last_arrival_timestamp_seconds")[labels] > 1_700_000_000
        (skipped,) = values(gateway, "usher_skipped_total").items()
        assert dict(skipped[0])["reason"] == "Paused"
        assert skipped[1] == 1


async def test_listeners_of_an_agency_have_series_of_their_own(tmp_path: Path) -> None:
    """The board Tenant lists them; 300 companies of two webhooks each are an ordinary agency."""
    listeners = "".join(support.LISTENER.replace("wifi", f"wifi-{number}") for number in range(600))
    async with support.running(tmp_path, support.CLASS + support.TENANT + listeners) as gateway:
        await gateway.wait_configured("agency/wifi-0")
        assert len(values(gateway, "usher_listener_last_arrival_timestamp_seconds")) == 600


async def test_held_deliveries_are_counted_by_reason(tmp_path: Path) -> None:
    async with support.running(tmp_path, ROUTES) as gateway:
        await gateway.wait_configured()
        assert (await gateway.post(b'{"user": {"id": 7, "venue": {"id": 1}}}')).acknowledges
        await gateway.gateway.tenants.count_deliveries()
        held = values(gateway, "usher_held_deliveries")
        assert {dict(labels)["reason"]: count for labels, count in held.items()} == {"DestinationNotFound": 1}
        assert values(gateway, "usher_open_deliveries") == {(): 1}
        assert values(gateway, "usher_oldest_open_delivery_age_seconds") == {}


TENANT = (("tenant", "acme"), ("tenant_namespace", "agency"))


def words(label: str, series: dict[tuple[tuple[str, str], ...], float]) -> dict[str, float]:
    """Values by one label, for series of the tenant that differ in no other label."""
    return {dict(labels)[label]: value for labels, value in series.items() if set(TENANT) <= set(labels)}


async def test_counters_of_alerts_are_zero_before_the_first_event(tmp_path: Path) -> None:
    """``increase()`` does not see the first event of a series that begins with it."""
    async with support.running(tmp_path, ROUTES) as gateway:
        await gateway.wait_configured()
        arrivals = words("counted_as", values(gateway, "usher_arrivals_total"))
        assert arrivals == {counted_as.name.lower(): 0.0 for counted_as in model.CountedAs}
        outcomes = words("outcome", values(gateway, "usher_deliveries_total"))
        assert outcomes == dict.fromkeys(("delivered", "retried", "dead", "cancelled"), 0.0)
        refused = {dict(labels)["reason"] for labels in values(gateway, "usher_refused_total")}
        assert refused == {reason.value for reason in model.RefusedReason}
        for gauge in ("usher_dead_deliveries", "usher_tenant_last_arrival_timestamp_seconds"):
            assert values(gateway, gauge) == {TENANT: 0.0}


async def test_metrics_of_a_tenant_come_from_the_ledger_after_a_restart(tmp_path: Path) -> None:
    async def refuse(_: web.BaseRequest) -> web.Response:
        return web.Response(status=400)

    async with test_utils.RawTestServer(refuse) as destination:
        manifests = ROUTES + DESTINATION.format(url=destination.make_url("/"))
        async with support.running(tmp_path, manifests) as gateway:
            await gateway.wait_configured()
            assert (await gateway.post(b'{"user": {"id": 7, "venue": {"id": 1}}}')).acknowledges
            await waiting.wait_until(lambda: words("outcome", values(gateway, "usher_deliveries_total"))["dead"] == 1.0)
            last_arrival = values(gateway, "usher_tenant_last_arrival_timestamp_seconds")[TENANT]
        async with support.running(tmp_path, manifests) as gateway:
            await gateway.wait_configured()
            await waiting.wait_until(lambda: values(gateway, "usher_dead_deliveries")[TENANT] == 1.0)
            last_arrival_after_restart = values(gateway, "usher_tenant_last_arrival_timestamp_seconds")[TENANT]
    assert last_arrival_after_restart == last_arrival > 1_700_000_000


async def test_lag_is_that_of_the_delivery_that_waits_for_its_first_attempt(tmp_path: Path) -> None:
    may_answer = asyncio.Event()

    async def answer_late(_: web.BaseRequest) -> web.Response:
        await may_answer.wait()
        return web.Response()

    async with test_utils.RawTestServer(answer_late) as server:
        slow = DESTINATION.format(url=server.make_url("/")).replace("spec: {", "spec: {concurrency: 1, ")
        async with support.running(tmp_path, ROUTES + slow) as gateway:
            await gateway.wait_configured()
            assert values(gateway, "usher_delivery_lag_seconds") == {}
            for user in (7, 8, 9):
                assert (await gateway.post(b'{"user": {"id": %d}}' % user)).acknowledges
            key = (("destination", "crm"), *TENANT)
            await waiting.wait_until(lambda: values(gateway, "usher_lane_deliveries") == {key: 2.0})
            for gauge in ("usher_delivery_lag_seconds", "usher_oldest_open_delivery_age_seconds"):
                (shown,) = values(gateway, gauge).items()
                assert shown[0] == key
                assert shown[1] > 0
            may_answer.set()
            await waiting.wait_until(lambda: values(gateway, "usher_delivery_lag_seconds") == {})


async def test_circuit_is_shown_for_each_tenant_of_a_destination(tmp_path: Path) -> None:
    """Two tenants share one destination; another one belongs to a tenant that receives nothing."""

    async def fail(_: web.BaseRequest) -> web.Response:
        return web.Response(status=503)

    inn = (support.TENANT + support.LISTENER).replace("acme", "inn").replace("wifi", "lobby")
    inn = inn.replace(
        "routes: []", "routes: [{name: a, destinationRef: {name: crm}}, {name: b, destinationRef: {name: own}}]"
    )
    async with test_utils.RawTestServer(fail) as server:
        manifests = ROUTES.replace("name: lost", "name: crm") + inn
        for name in ("crm", "own"):
            manifests += DESTINATION.replace("name: crm", f"name: {name}").format(url=server.make_url("/"))
        async with support.running(tmp_path, manifests) as gateway:
            await gateway.wait_configured()
            for user in range(circuit.OPENS_AFTER):
                assert (await gateway.post(b'{"user": {"id": %d}}' % user)).acknowledges
            await waiting.wait_until(lambda: values(gateway, "usher_circuits_open") == {(): 1.0})
            shown = values(gateway, "usher_destination_circuit_open")
    by_tenant = {(dict(labels)["tenant"], dict(labels)["destination"]): value for labels, value in shown.items()}
    assert by_tenant == {("acme", "crm"): 1.0, ("inn", "crm"): 1.0, ("inn", "own"): 0.0}


async def test_quota_and_silence_of_a_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenants, "_COUNT_SECONDS", 0.1)
    limited = ROUTES.replace("spec: {displayName: Acme}", "spec: {quota: {visitsPerMonth: 4}}")
    limited = limited.replace("tenantRef: {name: acme}", "tenantRef: {name: acme}\n  silence: {afterSeconds: 60}")
    async with support.running(tmp_path, limited) as gateway:
        await gateway.wait_configured()
        assert values(gateway, "usher_tenant_silent_listeners") == {TENANT: 0.0}
        assert (await gateway.post(b'{"user": {"id": 7, "venue": {"id": 1}}}')).acknowledges
        listener = gateway.gateway.counters.of(model.ListenerName("agency", "acme", "wifi"))
        listener.last_accepted -= 61 * model.MICROSECONDS
        assert values(gateway, "usher_tenant_silent_listeners") == {TENANT: 1.0}
    async with support.running(tmp_path, limited) as gateway:
        await gateway.wait_configured()
        await waiting.wait_until(lambda: values(gateway, "usher_quota_used_ratio") == {TENANT: 0.25})


async def test_backlog_is_counted_for_each_destination_of_a_tenant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dead system must not hide another."""
    monkeypatch.setattr(tenants, "_COUNT_SECONDS", 0.1)

    async def fail_unless_fine(request: web.BaseRequest) -> web.Response:
        return web.Response(status=200 if request.path == "/fine" else 503)

    async with test_utils.RawTestServer(fail_unless_fine) as server:
        names = ("crm", "mailer", "fine")
        routes = ", ".join(f"{{name: {name}, destinationRef: {{name: {name}}}}}" for name in names)
        manifests = support.MANIFESTS.replace("routes: []", f"routes: [{routes}]")
        for name in names:
            manifests += DESTINATION.replace("name: crm", f"name: {name}").format(url=server.make_url(f"/{name}"))
        async with support.running(tmp_path, manifests) as gateway:
            await gateway.wait_configured()
            for user in (7, 8):
                assert (await gateway.post(b'{"user": {"id": %d}}' % user)).acknowledges
            keys = {(("destination", name), *TENANT) for name in ("crm", "mailer")}
            await waiting.wait_until(lambda: values(gateway, "usher_backlog_deliveries") == dict.fromkeys(keys, 2.0))
            ages = values(gateway, "usher_oldest_open_delivery_age_seconds")
            assert ages.keys() == keys
            assert all(age > 0 for age in ages.values())


def acme_series(gateway: support.RunningGateway) -> set[str]:
    """Return the names of the metrics with a series of the tenant acme."""
    return {line.partition("{")[0] for line in gateway.exposition().splitlines() if 'tenant="acme"' in line}


async def test_series_of_a_removed_tenant_end_unless_deliveries_are_left(tmp_path: Path) -> None:
    """Otherwise the counters of all tenants that ever left would stay until a restart."""
    others = "".join(
        (support.TENANT + support.LISTENER).replace("acme", name).replace("wifi", name) for name in ("blue", "gold")
    )
    async with support.running(tmp_path, ROUTES + others) as gateway:
        await gateway.wait_configured()
        assert (await gateway.post(b'{"user": {"id": 7, "venue": {"id": 1}}}')).acknowledges
        assert {"usher_arrivals_total", "usher_skipped_total"} <= acme_series(gateway)
        gateway.write(support.CLASS + others)
        await waiting.wait_until(lambda: "agency/wifi" not in gateway.gateway.snapshot.listeners)
        await gateway.gateway.tenants.count_deliveries()
        assert "usher_held_deliveries" in acme_series(gateway), "the destination of one delivery is missing"
        assert values(gateway, "usher_arrivals_total")[(("counted_as", "visit"), *TENANT)] == 1
        gateway.gateway.tenants.deliveries.clear()
        assert acme_series(gateway) == set()
        gateway.write(ROUTES + others)
        await gateway.wait_configured()
        assert values(gateway, "usher_arrivals_total")[(("counted_as", "visit"), *TENANT)] == 1
