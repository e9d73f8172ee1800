"""The answers of gateways become reports, and EndpointSlices become the URLs to ask."""

import datetime
from collections.abc import AsyncIterator
from typing import Any, cast
from unittest import mock

import aiohttp
import msgspec
import pytest
from aiohttp import test_utils, web

from support import plan_samples, work
from support.planning import Cluster
from usher_gateway import config_secret, model
from usher_operator.report import gateways
from usher_operator.run.health import OperatorMetrics
from usher_operator.settings import GatewayService, OperatorSettings
from usher_operator.state.values import (
    AppliedDocument,
    DegradedRoute,
    DestinationReport,
    HeldRoute,
    Key,
    ListenerReport,
)

LOBBY = Key("Listener", "agency", "lobby")
CRM = Key("Destination", "agency", "crm")


def answer(**fields: Any) -> gateways.ConfigReport:
    return msgspec.convert({"cursor": "c.1", "complete": False, **fields}, gateways.ConfigReport)


def document(key: Key = LOBBY, content_hash: str | None = "h1", rejected: str | None = None) -> dict[str, Any]:
    return {"kind": key.kind, "key": key.path, "hash": content_hash, "rejected": rejected, "vanished": False}


@pytest.fixture
def report() -> gateways.GatewayAnswers:
    answers = gateways.GatewayAnswers("http://one", OperatorSettings())
    answers.take(answer(complete=True, documents=[document(), document(CRM, "h2")]))
    return answers


def test_complete_answer_replaces_earlier_answers(report: gateways.GatewayAnswers) -> None:
    assert report.take(answer(complete=True, documents=[document()])) == {CRM}
    assert dict(report.report.applied) == {LOBBY: AppliedDocument("h1")}
    assert report.cursor == "c.1"


def test_partial_answer_returns_only_changed_keys(report: gateways.GatewayAnswers) -> None:
    assert report.take(answer(documents=[document(content_hash="h3"), document(CRM, "h2")])) == {LOBBY}
    assert report.take(answer()) == set()


def test_work_for_an_answer_does_not_grow_with_the_documents_in_force() -> None:
    def cost(count: int) -> int:
        answers = gateways.GatewayAnswers("http://one", OperatorSettings())
        present = [document(Key("Listener", "agency", f"l{number}")) for number in range(count)]
        answers.take(answer(complete=True, documents=present))
        edited = answer(documents=[document(Key("Listener", "agency", "l0"), "h2")])
        return work.instructions(lambda: answers.take(edited))

    assert cost(1000) == cost(10)


def test_rejected_document_has_its_reason(report: gateways.GatewayAnswers) -> None:
    assert report.take(answer(documents=[document(content_hash=None, rejected="too new")])) == {LOBBY}
    assert report.report.applied[LOBBY] == AppliedDocument("", "too new")


def test_removed_document_is_forgotten(report: gateways.GatewayAnswers) -> None:
    assert report.take(answer(removed=[{"kind": "Destination", "key": "agency/crm"}])) == {CRM}
    assert CRM not in report.report.applied


@pytest.mark.parametrize(("gateway_day", "counted_day"), [(10, 10), (40, 40), (3, 10)])
def test_arrival_counts_never_earlier_than_by_the_confirmed_time(
    report: gateways.GatewayAnswers, gateway_day: int, counted_day: int
) -> None:
    """The day is the 10th by the confirmed time; the gateway's clock may differ."""
    now = datetime.datetime(2027, 1, 10, 12, 20, tzinfo=datetime.UTC)
    by_gateway = now + datetime.timedelta(days=gateway_day - 10, minutes=1)
    arrival = by_gateway.replace(minute=0) + datetime.timedelta(hours=1)
    state = {"retiredArrivals": {"a": arrival.isoformat()}}
    report.take(
        answer(now=by_gateway.isoformat(), listeners={LOBBY.path: state}), round(now.timestamp()) * model.MICROSECONDS
    )
    counted = arrival + datetime.timedelta(days=counted_day - gateway_day)
    assert report.report.listeners[LOBBY.path].retired_arrivals == {"a": counted}


def vanished(**fields: str) -> dict[str, str]:
    told = {"kind": "Listener", "key": "agency/lobby", "since": "2027-01-31T12:00:00Z", "uid": "1"}
    return {**told, "install": "usher.dev_usher", **fields}


def test_document_without_a_secret_is_stale_after_a_while(report: gateways.GatewayAnswers) -> None:
    assert report.take(answer(now="2027-01-31T12:00:59Z", vanished=[vanished()])) == set()
    assert report.take(answer(now="2027-01-31T12:01:00Z", vanished=[vanished()])) == {LOBBY}
    assert report.report.stale == {LOBBY: "1"}
    assert report.take(answer(now="2027-01-31T12:01:05Z")) == {LOBBY}
    assert report.report.stale == {}


@pytest.mark.parametrize("fields", [{"install": "usher.dev_other"}, {"install": ""}, {"uid": ""}])
def test_document_of_another_install_is_not_stale(report: gateways.GatewayAnswers, fields: dict[str, str]) -> None:
    report.take(answer(now="2027-01-31T13:00:00Z", vanished=[vanished(**fields)]))
    assert report.report.stale == {}


def test_document_without_a_secret_holds_its_hostnames_at_once(report: gateways.GatewayAnswers) -> None:
    told = {**vanished(), "tenant": "acme", "hostnames": ["www.example.com"]}
    report.take(answer(now="2027-01-31T12:00:00Z", vanished=[told]))
    assert report.report.vanished == {LOBBY: config_secret.TenantHostnames("acme", ("www.example.com",))}
    report.take(answer(now="2027-01-31T12:00:05Z", vanished=[{**told, "install": "usher.dev_other"}]))
    assert report.report.vanished == {}


def test_answer_is_read_into_listener_and_destination_reports(report: gateways.GatewayAnswers) -> None:
    states = {
        "receiving": "Silent",
        "refusing": True,
        "refusedReason": "Unauthenticated",
        "verifiedAddresses": ["one"],
        "probedAddresses": ["one", "two"],
        "quarantinedShare": 0.02,
        "quarantining": True,
        "companyMismatch": True,
        "degradedRoutes": [{"route": "slow", "reason": "ExpressionTooSlow"}, {"route": "other", "reason": "New"}],
        "heldDeliveries": [{"route": "crm", "reason": "SecretNotFound", "missing": "Secret `key` must exist"}],
        "timesUntrusted": True,
        "somethingNew": 1,
    }
    crm = {"health": "CircuitOpen", "error": "ServerError", "status": 503}
    changed = report.take(answer(listeners={"agency/lobby": states}, destinations={"agency/crm": crm}))
    assert changed == {LOBBY, CRM}
    assert report.report.listeners["agency/lobby"] == ListenerReport(
        receiving="Silent",
        verified_addresses=("one",),
        probed_addresses=("one", "two"),
        refusing=True,
        refused_reason="Unauthenticated",
        quarantining=True,
        degraded_routes=(DegradedRoute("slow", "ExpressionTooSlow"), DegradedRoute("other", "New")),
        company_mismatch=True,
        held_deliveries=(HeldRoute("crm", "SecretNotFound", "Secret `key` must exist"),),
        times_untrusted=True,
    )
    assert report.report.destinations["agency/crm"] == DestinationReport(
        health="CircuitOpen", error="ServerError", status=503
    )


def slices(*endpoints: dict[str, Any], **ports: int) -> list[dict[str, Any]]:
    return [{"ports": [{"name": name, "port": port} for name, port in ports.items()], "endpoints": list(endpoints)}]


READY = {"addresses": ["10.0.0.1"], "conditions": {"ready": True}}


def endpoint(**conditions: bool) -> dict[str, Any]:
    return {"addresses": ["10.0.0.2"], "conditions": conditions}


@pytest.mark.parametrize(
    ("endpoint_slices", "port", "urls"),
    [
        (slices(READY, public=8080, admin=9090), "", {"http://10.0.0.1:9090": True}),
        (slices(READY, public=8080, admin=9090), "public", {"http://10.0.0.1:8080": True}),
        (slices(READY, public=8080, admin=9090), "7000", {"http://10.0.0.1:7000": True}),
        (slices(READY, other=9000), "", {"http://10.0.0.1:9000": True}),
        (slices(READY, public=8080, other=9000), "", {}),
        (slices(endpoint(ready=False), admin=9090), "", {"http://10.0.0.2:9090": False}),
        (slices(endpoint(ready=False, terminating=True), admin=9090), "", {}),
        (slices(endpoint(ready=False), endpoint(ready=True), admin=9090), "", {"http://10.0.0.2:9090": True}),
        (slices({"addresses": ["fd00::1"], "conditions": {}}, admin=9090), "", {"http://[fd00::1]:9090": True}),
        ([{"ports": None, "endpoints": None}], "", {}),
    ],
)
def test_admin_urls_name_endpoints_at_the_admin_port(
    endpoint_slices: list[dict[str, Any]], port: str, urls: dict[str, bool]
) -> None:
    assert gateways.admin_urls(endpoint_slices, port) == urls


class SlicesApi:
    """Lists the EndpointSlices that it was given last."""

    def __init__(self) -> None:
        self.slices: list[dict[str, Any]] = []

    async def pages(self, _: str, __: object, selector: str) -> AsyncIterator[Any]:
        assert selector == "kubernetes.io/service-name=usher-gateway"
        yield mock.Mock(items=self.slices)


async def test_gateway_counts_as_heard_once_it_answered_until_its_endpoint_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateways, "_ENDPOINTS_SECONDS", 0.0)
    cluster, api = Cluster(), SlicesApi()
    settings = OperatorSettings(gateway_service=GatewayService("usher-system", "usher-gateway", ""))
    vanished = {"kind": "Listener", "key": "agency/lobby", "tenant": "acme", "hostnames": ["www.acme.example"]}

    async def answer_vanished(_: web.BaseRequest) -> web.Response:
        return web.json_response({"cursor": "1", "vanished": [{**vanished, "install": settings.install_label}]})

    async with test_utils.RawTestServer(answer_vanished) as server, aiohttp.ClientSession() as session:
        observer = make_observer(cluster, settings, api)
        listed = {"ports": [{"name": "admin", "port": server.port}]}

        async def sweep(**conditions: bool) -> tuple[str, ...] | None:
            api.slices = [{**listed, "endpoints": [{"addresses": ["127.0.0.1"], "conditions": conditions}]}]
            await observer.sweep(session)
            return cluster.cache.reports.unheard

        url = f"http://127.0.0.1:{server.port}"
        await observer.sweep(session)
        assert cluster.cache.reports.unheard == ("of Service usher-system/usher-gateway",)
        assert await sweep(ready=False) == (url,)
        assert await sweep(ready=True) == ()
        assert await sweep(ready=False) == ()
        assert cluster.cache.reports.ready == ()
        assert cluster.cache.holders("www.acme.example") == {("agency", "acme")}
        assert await sweep(ready=False, terminating=True) == ("of Service usher-system/usher-gateway",)
        assert await sweep(ready=False) == (url,)


async def test_listeners_are_planned_again_once_no_gateway_is_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "_ENDPOINTS_SECONDS", 0.0)

    async def answer_nothing(_: web.BaseRequest) -> web.Response:
        return web.json_response({"cursor": "1"})

    cluster, api, queue = plan_samples.agency(), SlicesApi(), mock.Mock()
    settings = OperatorSettings(gateway_service=GatewayService("usher-system", "usher-gateway", ""))
    async with test_utils.RawTestServer(answer_nothing) as server, aiohttp.ClientSession() as session:
        observer = make_observer(cluster, settings, api, queue)

        async def plans_again(*endpoints: dict[str, Any]) -> bool:
            api.slices = [{"ports": [{"name": "admin", "port": server.port}], "endpoints": list(endpoints)}]
            await observer.sweep(session)
            return plan_samples.LISTENER in {key.path for key in queue.add_all.call_args[0][0]}

        answering = {"addresses": ["127.0.0.1"], "conditions": {"ready": True}}
        assert await plans_again(answering)
        assert not await plans_again(answering)
        assert not await plans_again(answering, endpoint(ready=False)), "nobody waits yet"
        assert await plans_again(answering)


def make_observer(
    cluster: Cluster, settings: OperatorSettings, api: object = None, queue: object = None
) -> gateways.GatewayObserver:
    return gateways.GatewayObserver(
        api=cast("Any", api),
        settings=settings,
        cache=cluster.cache,
        queue=cast("Any", queue or mock.Mock()),
        installation=cast("Any", mock.Mock(observe_token="token")),
        metrics=OperatorMetrics(),
    )


# Something else than a gateway answers


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"cursor":"\xff"}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"now":"2026-01-01T00:00:00"}',
        b'{"now":"0001-01-01T00:00:00Z","listeners":{"a/b":{"retiredArrivals":{"x":"9999-12-31T23:59:59Z"}}}}',
        b'{"now":"2020-01-01T00:00:00Z","listeners":{"a/b":{"retiredArrivals":{"x":"2026-01-01T00:00:00"}}}}',
        b" " * 2_000_000,
    ],
    ids=["html", "array", "not UTF-8", "deep", "no zone", "far times", "arrival without a zone", "long"],
)
async def test_gateway_whose_answer_cannot_be_read_is_not_reached(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer_with_body(_: web.BaseRequest) -> web.Response:
        return web.Response(body=body)

    monkeypatch.setattr(gateways, "_MOST_BYTES", 1_000_000)
    cluster = Cluster()
    async with test_utils.RawTestServer(answer_with_body) as server, aiohttp.ClientSession() as session:
        settings = OperatorSettings(gateways=(str(server.make_url("")).rstrip("/"),))
        observer = make_observer(cluster, settings)
        await observer.sweep(session)
    assert cluster.cache.reports.ready is not None
    assert [gateway.reachable for gateway in cluster.cache.reports.ready] == [False]
    assert cluster.cache.reports.unheard == settings.gateways
