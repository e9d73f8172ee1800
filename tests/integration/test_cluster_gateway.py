"""A gateway with the configuration of a cluster: its readiness, its answers, and its reports."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from support import api_server, config_samples, followers, gateways, waiting, wire
from support import gateway as harness
from support.api_server import ApiServer
from usher_gateway import app, config_secret, documents, model
from usher_gateway import settings as all_settings

INSTALL_KEY = b"k" * 32  # The key of `config_samples.KEYS`

SECRET = "hunter2-signing-secret"
CREDENTIAL = "Bearer open-sesame"


class Running:
    """A gateway in the event loop of the test."""

    def __init__(self, gateway: app.Gateway) -> None:
        self.gateway = gateway
        self.cursor: str | None = None

    async def get(self, path: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {(self.gateway.settings.data / 'observe.token').read_text().strip()}"}
        url = f"http://127.0.0.1:{self.gateway.admin.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            return answer.status, await answer.text()

    async def changes(self) -> Any:
        """Return the changes that ``/api/config`` reports since the previous call."""
        status, text = await self.get("/api/config" + (f"?since={self.cursor}" if self.cursor else ""))
        assert status == 200
        assert SECRET not in text
        reported = json.loads(text)
        self.cursor = reported["cursor"]
        return reported

    async def status(self, name: str, body: bytes = b"{}") -> int:
        request = wire.request(f"/{name}", body, host="hooks.example.com")
        return (await wire.exchange(self.gateway.port, request)).status


@contextlib.asynccontextmanager
async def running(server: ApiServer, folder: Path) -> AsyncIterator[Running]:
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(api_server.kubeconfig(server))
    key = {"USHER_INSTALL_KEY": base64.b64encode(INSTALL_KEY).decode()}
    settings: dict[str, Any] = {"files": (), "from_cluster": True, "kubeconfig": kubeconfig}
    async with harness.running(folder, "", environment=key, **settings) as running_gateway:
        yield Running(running_gateway.gateway)


@contextlib.asynccontextmanager
async def configured(server: ApiServer, folder: Path) -> AsyncIterator[Running]:
    """Run a gateway whose configuration is in force."""
    async with running(server, folder) as running_gateway:
        await waiting.wait_until(running_gateway.gateway.state.configured.is_set)
        yield running_gateway


async def test_gateway_is_ready_after_its_first_list_and_stays_ready(server: ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    server.faults += [api_server.Answer(503)] * 1000
    async with running(server, tmp_path) as running_gateway:
        assert await running_gateway.status("a") == 503
        status, text = await running_gateway.get("/readyz")
        assert (status, "was not read yet" in text) == (503, True)
        server.faults.clear()
        await waiting.wait_until(running_gateway.gateway.state.configured.is_set)
        assert await running_gateway.status("a") == 200
        await server.stop()
        assert (await running_gateway.get("/readyz"))[0] == 200
        assert await running_gateway.status("a") == 200
        await server.start()


async def test_gateway_of_a_new_install_is_ready_and_answers_503(server: ApiServer, tmp_path: Path) -> None:
    async with running(server, tmp_path) as running_gateway:
        await waiting.wait_until(lambda: running_gateway.gateway.source.status().is_empty)
        status, text = await running_gateway.get("/readyz")
        [warning] = json.loads(text)["warnings"]
        assert (status, "has no document yet" in warning) == (200, True)
        assert await running_gateway.status("a") == 503
        server.put(followers.wrap(config_samples.listener("a")))
        await waiting.wait_until(running_gateway.gateway.state.configured.is_set)
        assert await running_gateway.status("a") == 200
        assert json.loads((await running_gateway.get("/readyz"))[1])["warnings"] == []


async def test_unknown_url_is_not_found_only_after_the_first_publication(server: ApiServer, tmp_path: Path) -> None:
    slow = (documents.Route("crm", "acme/crm", transform="visit.email + visit.mobile"),)
    async with running(server, tmp_path) as running_gateway:
        gateway = running_gateway.gateway
        server.put(followers.wrap(config_samples.listener("a")))
        await waiting.wait_until(gateway.state.configured.is_set)
        assert [await running_gateway.status(name) for name in ("a", "b")] == [200, 503]
        server.put(followers.wrap(config_samples.listener("b", routes=slow)))
        server.put_mark(listeners=2)
        await waiting.wait_until(lambda: gateway.registry.is_complete)
        assert [await running_gateway.status(name) for name in ("a", "b", "none")] == [200, 200, 404]
    async with configured(server, tmp_path) as running_gateway:
        assert [await running_gateway.status(name) for name in ("b", "none")] == [200, 404]


async def test_address_of_a_rejected_document_is_not_unknown(server: ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    name = server.put(followers.wrap(config_samples.listener("b")))
    server.put_raw(name, {config_secret.DATA_KEY: base64.b64encode(b"garbage").decode()}, "acme/b")
    server.put_mark()
    async with configured(server, tmp_path) as running_gateway:
        await waiting.wait_until(lambda: bool(running_gateway.gateway.source.status().rejected))
        assert [await running_gateway.status(name) for name in ("a", "b")] == [200, 503]
        server.put(followers.wrap(config_samples.listener("b")))
        await waiting.wait_until(lambda: running_gateway.gateway.registry.is_complete)
        assert [await running_gateway.status(name) for name in ("a", "b", "none")] == [200, 200, 404]


async def test_address_of_a_document_that_is_rejected_later_is_not_unknown(server: ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    server.put_mark()
    async with configured(server, tmp_path) as running_gateway:
        registry = running_gateway.gateway.registry
        await waiting.wait_until(lambda: registry.is_complete)
        assert await running_gateway.status("b") == 404
        name = config_secret.secret_name("Listener", "acme/b")
        server.put_raw(name, {config_secret.DATA_KEY: base64.b64encode(b"garbage").decode()}, "acme/b")
        await waiting.wait_until(lambda: bool(running_gateway.gateway.source.status().rejected))
        await waiting.wait_until(lambda: not registry.is_complete)
        assert [await running_gateway.status(name) for name in ("a", "b")] == [200, 503]


async def test_silent_api_server_is_a_warning_and_leaves_the_gateway_ready(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    async with configured(server, tmp_path) as running_gateway:
        assert json.loads((await running_gateway.get("/readyz"))[1])["warnings"] == []
        clock = running_gateway.gateway.clock
        later = clock.now() + 121 * model.MICROSECONDS
        monkeypatch.setattr(clock, "now", lambda: later)
        status, text = await running_gateway.get("/readyz")
        [warning] = json.loads(text)["warnings"]
        assert (status, "has answered nothing since" in warning) == (200, True)


async def test_other_install_key_is_reported_with_a_hint(server: ApiServer, tmp_path: Path) -> None:
    other = model.derive_keys(b"another" * 5)
    server.put(config_secret.envelope_of(config_samples.listener("a"), "uid", other.document))
    async with running(server, tmp_path) as running_gateway:
        await waiting.wait_until(lambda: bool(running_gateway.gateway.source.status().rejected))
        status, text = await running_gateway.get("/readyz")
        assert status == 503
        assert "another install key than this gateway's" in text
        assert model.key_fingerprint(INSTALL_KEY) in text
        assert "usher-install-key" in text
        assert await running_gateway.status("a") == 503


async def test_document_is_reported_once_it_is_in_force(server: ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    crm = documents.DestinationDocument("acme", "crm", "https://crm.example/", signing_secrets=(SECRET,))
    server.put(followers.wrap(crm))
    async with configured(server, tmp_path) as running_gateway:
        first = await running_gateway.changes()
        assert (first["complete"], first["source"], first["removed"]) == (True, "cluster", [])
        hashes = {(document["kind"], document["key"]): document["hash"] for document in first["documents"]}
        assert hashes == {
            ("Listener", "acme/a"): followers.wrap(config_samples.listener("a")).hash,
            ("Destination", "acme/crm"): followers.wrap(crm).hash,
        }
        assert first["listeners"]["acme/a"]["receiving"] == "NoVisitYet"
        assert first["destinations"]["acme/crm"]["circuit"] == "Closed"

        second = followers.wrap(config_samples.listener("b"))
        server.put(second)
        told: list[Any] = []
        while not told:
            answer = await running_gateway.changes()
            assert not answer["complete"]
            told = answer["documents"]
        assert told == [{"kind": "Listener", "key": "acme/b", "hash": second.hash, "rejected": None, "vanished": False}]
        assert await running_gateway.status("b") == 200


async def test_rejected_vanished_and_removed_documents_are_reported(server: ApiServer, tmp_path: Path) -> None:
    good = followers.wrap(config_samples.listener("a"))
    name = server.put(good)
    async with configured(server, tmp_path) as running_gateway:
        await running_gateway.changes()

        bad = config_samples.listener("a", occurred_at_zone="Nowhere/At-All")
        server.put(followers.wrap(bad))
        [told] = await _documents(running_gateway)
        assert told["hash"] == good.hash
        assert "DocumentUnreadable" in told["rejected"]
        assert await running_gateway.status("a") == 200
        assert "usher_config_rejected 1.0" in (await running_gateway.get("/metrics"))[1]

        server.put(good)
        [told] = await _documents(running_gateway)
        assert (told["hash"], told["rejected"]) == (good.hash, None)

        server.delete(name)
        [told] = await _documents(running_gateway)
        assert (told["hash"], told["vanished"]) == (good.hash, True)
        assert "usher_config_vanished 1.0" in (await running_gateway.get("/metrics"))[1]
        assert await running_gateway.status("a") == 200

        server.put(followers.tombstone(config_samples.listener("a")))
        removed: list[Any] = []
        while not removed:
            removed = (await running_gateway.changes())["removed"]
        assert removed == [{"kind": "Listener", "key": "acme/a"}]
        assert await running_gateway.status("a") == 503  # another document could still have this address


async def _documents(running_gateway: Running) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        while True:
            if told := (await running_gateway.changes())["documents"]:
                return list(told)


async def test_unusable_destination_is_rejected(server: ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    server.put(followers.wrap(config_samples.destination(headers=(("x-key", "a\x01b"),))))
    async with configured(server, tmp_path) as running_gateway:
        [told] = [
            document for document in (await running_gateway.changes())["documents"] if document["kind"] == "Destination"
        ]
        assert told["hash"] is None
        assert "x-key" in told["rejected"].lower()


async def test_health_of_a_listener_is_reported(server: ApiServer, tmp_path: Path) -> None:
    authentication = documents.Authentication(
        "Header", "authorization", documents.credential_digest(CREDENTIAL.encode(), config_samples.KEYS.credential)
    )
    tenant = documents.TenantDocument("hotels", company_id="77")
    server.put(followers.wrap(config_samples.listener("open", tenant=tenant)))
    server.put(followers.wrap(config_samples.listener("closed", authentication=authentication)))
    async with configured(server, tmp_path) as running_gateway:
        await running_gateway.changes()
        for number in range(9):
            assert await running_gateway.status("open", gateways.visit(number)) == 200
        assert await running_gateway.status("open", b"no visit") == 200
        stranger = {"user": {"id": 99, "venue": {"id": 7, "company": {"id": 78}}}}
        assert await running_gateway.status("open", json.dumps(stranger).encode()) == 200
        for _ in range(3):
            assert await running_gateway.status("closed", gateways.visit(1)) == 401
        await running_gateway.gateway.health.sweep()
        told = await running_gateway.changes()
        states = told["listeners"]
        opened, closed = states["acme/open"], states["acme/closed"]
        assert opened["receiving"] == "Receiving"
        assert opened["verifiedSince"] is not None
        assert told["now"] >= opened["lastArrival"] >= opened["verifiedSince"]
        assert (opened["quarantinedShare"], opened["quarantining"]) == (0.091, True)
        assert (opened["companyMismatch"], opened["companyMismatches"]) == (True, 1)
        assert not opened["refusing"]
        assert (closed["receiving"], closed["refusing"]) == ("NoVisitYet", True)
        await running_gateway.gateway.health.sweep()
        assert (await running_gateway.changes())["listeners"] == {}


async def test_restarted_gateway_knows_when_a_listener_was_used(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(followers.wrap(config_samples.listener("open", silence_after_seconds=3600)))
    async with configured(server, tmp_path) as running_gateway:
        assert await running_gateway.status("open", gateways.visit(1)) == 200
        earlier = (await running_gateway.changes())["listeners"]["acme/open"]
        assert earlier["receiving"] == "Receiving"
    async with configured(server, tmp_path) as running_gateway:
        later = (await running_gateway.changes())["listeners"]["acme/open"]
        names = ("receiving", "lastArrival", "verifiedSince", "verifiedAddresses")
        assert [later[name] for name in names] == [earlier[name] for name in names]
        assert len(later["verifiedAddresses"]) == 1
        hour_later = running_gateway.gateway.clock.now() + model.HOUR
        monkeypatch.setattr(running_gateway.gateway.clock, "now", lambda: hour_later)
        await running_gateway.gateway.health.sweep()
        assert (await running_gateway.changes())["listeners"]["acme/open"]["receiving"] == "Silent"


async def test_probe_is_reported_with_its_address(server: ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("open")))
    async with configured(server, tmp_path) as running_gateway:
        assert await running_gateway.status("open", b"{}") == 200
        await running_gateway.gateway.health.sweep()
        state = (await running_gateway.changes())["listeners"]["acme/open"]
        assert (len(state["probedAddresses"]), state["verifiedAddresses"]) == (1, [])


async def test_held_deliveries_and_untrusted_times_are_reported(server: ApiServer, tmp_path: Path) -> None:
    fields = documents.DEFAULT_FIELDS | {"occurredAt": ("/at",)}
    routes = (documents.Route("crm", "acme/absent"),)
    server.put(followers.wrap(config_samples.listener("open", routes=routes, fields=fields)))
    async with configured(server, tmp_path) as running_gateway:
        gateway = running_gateway.gateway
        with structlog.testing.capture_logs() as logs:
            await post_without_offset(running_gateway, 0)
            for _ in range(2):
                await gateway.hold_reviewer.review()
        for number in range(1, 10):
            await post_without_offset(running_gateway, number)
        await gateway.health.sweep()
        state = (await running_gateway.changes())["listeners"]["acme/open"]
        (held,) = state["heldDeliveries"]
        assert (held["route"], held["reason"], held["missing"]) == ("crm", "DestinationNotFound", "")
        assert (state["timesUntrusted"], state["untrustedTimeReason"]) == (True, "NoOffset")
        (line,) = [line for line in logs if line["event"] == "deliveries_held"]
        assert (line["listener"], line["reason"], line["count"]) == ("acme/open", "DestinationNotFound", 1)


async def post_without_offset(running_gateway: Running, number: int) -> None:
    body = json.loads(gateways.visit(number)) | {"at": "2026-11-26T12:00:00"}
    assert await running_gateway.status("open", json.dumps(body).encode()) == 200


async def test_new_listener_is_not_silent(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put(followers.wrap(config_samples.listener("old")))
    async with configured(server, tmp_path) as running_gateway:
        gateway = running_gateway.gateway
        await gateway.health.sweep()
        two_days_later = gateway.clock.now() + 2 * model.DAY
        monkeypatch.setattr(gateway.clock, "now", lambda: two_days_later)
        server.put(followers.wrap(config_samples.listener("new")))
        await waiting.wait_until(lambda: "acme/new" in gateway.snapshot.listeners)
        await gateway.health.sweep()
        told = (await running_gateway.changes())["listeners"]
        assert {key: state["receiving"] for key, state in told.items()} == {
            "acme/old": "Silent",
            "acme/new": "NoVisitYet",
        }


async def test_gateway_without_the_install_key_does_not_start(server: ApiServer, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(api_server.kubeconfig(server))
    settings = all_settings.Settings(from_cluster=True, kubeconfig=kubeconfig, data=tmp_path / "data")
    with pytest.raises(model.ConfigurationError, match="install key") as caught:
        app.Gateway(settings, {})
    assert "USHER_INSTALL_KEY" in caught.value.hint
    assert not (tmp_path / "data" / "install.key").exists()
