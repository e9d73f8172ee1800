"""The reconciler queues other keys that what it finds out concerns."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support import plan_samples
from support.cache_samples import ACME, CRM, LOBBY, destination, klass, listener, raw, secret
from support.operator_parts import OperatorParts
from support.planning import Cluster
from usher_gateway.kube.client import ApiError
from usher_operator.state.values import Key

OTHER = Key("Destination", "agency", "other")


class Server:
    """Stands in for the client: has one Secret, and stores what is applied."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = None
        self.forbidden_namespace = ""
        self.refused = "nothing"  # Part of the paths of objects that cannot be written
        self.status = 422
        self.reading = self.most_reading = self.read = 0
        self.meanwhile: Callable[[], object] = lambda: None  # Called while a lookup runs

    async def get(self, path: str, *, missing_ok: bool) -> dict[str, Any] | None:
        assert missing_ok
        if f"/namespaces/{self.forbidden_namespace}/" in path:
            raise ApiError(403, "Forbidden", "GET")
        self.reading += 1
        self.most_reading = max(self.reading, self.most_reading)
        await asyncio.sleep(0)
        self.meanwhile()
        self.reading -= 1
        self.read += 1
        return self.secret

    async def apply(self, path: str, manifest: dict[str, Any], *, is_status: bool = False) -> dict[str, Any]:
        if self.refused in path:
            raise ApiError(self.status, "Refused", f"apply {path}", "policy `urls` denied it")
        about = {"uid": "uid", "resourceVersion": "2", "generation": 1, **manifest["metadata"]}
        return {**manifest, "metadata": about, **({"spec": {}} if is_status else {})}


async def test_secret_that_a_lookup_finds_concerns_the_other_keys_that_read_it() -> None:
    cluster, server = Cluster(), Server()
    cluster.set_gateways()
    other = destination(uid="uid-other")
    other["metadata"]["name"] = OTHER.name
    for manifest in (klass(), raw("Tenant", ACME.name, {}), destination(), other):
        cluster.put(manifest)
    cluster.settle()
    server.secret = secret()
    cluster.now += 61_000_000  # after this time the plan of CRM looks the Secret up again
    parts = OperatorParts(server, cluster.cache)
    await parts.reconciler.reconcile(CRM)
    assert OTHER in parts.queued()


async def test_answer_to_a_lookup_does_not_replace_what_the_watch_reported_meanwhile() -> None:
    cluster, server = Cluster(), Server()
    cluster.set_gateways()
    for manifest in (klass(), raw("Tenant", ACME.name, {}), destination()):
        cluster.put(manifest)
    server.secret = secret(value="b2xk")
    server.meanwhile = lambda: cluster.put(secret(value="bmV3"))
    await OperatorParts(server, cluster.cache).reconciler.reconcile(CRM)
    known = cluster.cache.secret("agency/token")
    assert known is not None
    assert known.data == {"token": "bmV3"}


async def test_plan_looks_up_one_missing_secret_at_a_time() -> None:
    """All namespaces share a few lookups, so a plan with many must not take them all."""
    cluster, server = Cluster(), Server()
    cluster.set_gateways()
    many = destination()
    names = [f"s{number}" for number in range(8)]
    many["spec"]["http"]["headers"] = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}} for name in names
    ]
    for manifest in (klass(), raw("Tenant", ACME.name, {}), many):
        cluster.put(manifest)
    await OperatorParts(server, cluster.cache).reconciler.reconcile(CRM)
    assert server.read >= len(names)
    assert server.most_reading == 1


async def test_certificate_that_the_operator_may_not_read_is_unknown() -> None:
    cluster, server = Cluster(), Server()
    cluster.set_gateways()
    tls = {"mode": "Provided", "secretName": "wildcard"}
    for manifest in (klass(tls=tls), raw("Tenant", ACME.name, {}), destination(), listener()):
        cluster.put(manifest)
    server.forbidden_namespace = cluster.cache.settings.data_plane_namespace
    await OperatorParts(server, cluster.cache).reconciler.reconcile(LOBBY)
    condition = cluster.condition("Listener", LOBBY.path, "CertificateReady")
    assert (condition.status, condition.reason) == ("Unknown", "Pending")
    assert "`operator.certificateSecrets` must have its name" in condition.message


@pytest.mark.parametrize("status", [400, 403, 413, 422])
async def test_refused_secret_with_the_url_shows_in_the_status(cluster: Cluster, status: int) -> None:
    server = Server()
    cluster.delete("Secret", "default/lobby-url")
    server.refused, server.status = "/secrets/lobby-url", status
    with pytest.raises(ApiError):
        await OperatorParts(server, cluster.cache).reconciler.reconcile(Key("Listener", "default", "lobby"))
    programmed = cluster.condition("Listener", plan_samples.LISTENER, "Programmed")
    assert (programmed.status, programmed.reason) == ("False", "WriteForbidden")
    assert "policy `urls` denied it" in programmed.message
