"""`usher run --from-cluster` against a real API server, with exactly the permissions of a gateway."""

import asyncio
import base64
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib import parse

import aiohttp
import pytest

from support import accounts, api, faulty_proxy, gateways, leaks, waiting
from usher_gateway import config_secret, documents, model
from usher_gateway.config import cluster
from usher_gateway.kube import access, client

INSTALL_KEY = b"k" * 32
KEYS = model.derive_keys(INSTALL_KEY)
SAID_AT = "2026-11-25T12:00:00Z"

MakeNamespace = Callable[..., Awaitable[str]]
MakeAccount = Callable[..., Awaitable[accounts.Account]]


def listener(name: str, **changes: Any) -> documents.ListenerDocument:
    given: dict[str, Any] = {
        "namespace": "acme",
        "name": name,
        "tenant": documents.TenantDocument("hotels"),
        "addresses": (documents.Address(gateways.HOST, f"/{name}"),),
        **changes,
    }
    return documents.ListenerDocument(**given)


def wrap(document: config_secret.Document) -> config_secret.Envelope:
    return config_secret.envelope_of(document, "uid", KEYS.document)


def tombstone(document: config_secret.Document) -> config_secret.Envelope:
    envelope = wrap(document)
    return config_secret.tombstone_of(envelope.kind, envelope.owner, 1, SAID_AT, KEYS.document)


class Install:
    """A configuration namespace and a gateway that reads it."""

    def __init__(self, server: api.Api, namespace: str, gateway: gateways.Gateway) -> None:
        self._server = server
        self.namespace, self.gateway = namespace, gateway
        self.key = base64.b64encode(INSTALL_KEY).decode()
        leaks.add_secret(self.key)

    async def publish(self, envelope: config_secret.Envelope) -> None:
        """Write a document as the operator does."""
        name = config_secret.secret_name(*envelope.identity)
        await self._server.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": name,
                    "namespace": self.namespace,
                    "labels": config_secret.labels("usher.dev/usher", "uid"),
                    "annotations": {config_secret.OWNER_ANNOTATION: envelope.owner.key},
                },
                "type": config_secret.secret_type(envelope.kind),
                "data": config_secret.secret_data(envelope),
            }
        )

    async def delete(self, document: config_secret.Document) -> None:
        name = config_secret.secret_name(*wrap(document).identity)
        await self._server.delete(api.Resource("Secret", name, self.namespace))

    async def start(self) -> None:
        await self.gateway.start(USHER_INSTALL_KEY=self.key)

    async def config(self, cursor: str = "") -> Any:
        token = (self.gateway.data / "observe.token").read_text().strip()
        url = f"http://127.0.0.1:{self.gateway.admin}/api/config" + (f"?since={cursor}" if cursor else "")
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.get(url) as answer,
        ):
            assert answer.status == 200
            return await answer.json()

    async def status(self, name: str) -> int:
        """Return the status of an answer, or 0 while the gateway does not listen."""
        with contextlib.suppress(ConnectionError):
            return (await gateways.post(self.gateway.port, f"/{name}", b"{}")).status
        return 0

    async def until_answers(self, status: int, name: str, limit_seconds: float = 60.0) -> None:
        await waiting.until(
            lambda: self.status(name),
            lambda answered: answered == status,
            limit_seconds=limit_seconds,
            every_seconds=0.01,
        )


RIGHTS = [
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "usher-gateway", "namespace": "usher-config"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]}],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "usher-gateway", "namespace": "usher-config"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "usher-gateway"},
        "subjects": [{"kind": "ServiceAccount", "name": "gateway", "namespace": "usher-system"}],
    },
]


@pytest.fixture
async def install(
    server: api.Api, proxy: faulty_proxy.Proxy, make_namespace: MakeNamespace, make_account: MakeAccount, tmp_path: Path
) -> AsyncIterator[Install]:
    """Prepare a gateway behind the faulty proxy."""
    namespace, own = await make_namespace("config"), await make_namespace("system")
    account = await make_account(own, "gateway")
    rights = accounts.moved(RIGHTS, {"usher-config": namespace, "usher-system": own}, f"-{namespace}")
    await accounts.grant(server, rights)
    kubeconfig = account.at(proxy.endpoint, tmp_path / "through-proxy").kubeconfig
    async with gateways.Gateway(tmp_path, []) as gateway:
        gateway.configuration = ["--from-cluster", "--config-namespace", namespace, "--kubeconfig", str(kubeconfig)]
        yield Install(server, namespace, gateway)
    await accounts.withdraw(server, rights)


async def test_edit_is_live_within_a_second_and_only_tombstones_remove(install: Install) -> None:
    await install.publish(wrap(listener("a")))
    await install.start()
    assert await install.status("a") == 200

    seconds = []
    for name in ("b", "c", "d", "e", "f"):
        await install.publish(wrap(listener(name)))
        published = time.monotonic()
        await install.until_answers(200, name)
        seconds.append(time.monotonic() - published)
    # the median, because the whole cluster shares the cores of the test machine
    assert statistics.median(seconds) < 1

    await install.delete(listener("b"))
    config = await waiting.until(install.config, lambda config: config["vanished"])
    assert [document["key"] for document in config["vanished"]] == ["acme/b"]
    assert await install.status("b") == 200

    for name in ("a", "b", "c", "d", "e", "f"):
        await install.publish(tombstone(listener(name)))
        await install.until_answers(404, name)
    await install.delete(listener("a"))
    config = await install.config()
    assert (config["documents"], config["vanished"], config["source"]) == ([], [], "cluster")


async def test_gateway_serves_and_restarts_without_the_api_server(install: Install, proxy: faulty_proxy.Proxy) -> None:
    for name in ("a", "b"):
        await install.publish(wrap(listener(name)))
    await install.start()
    await waiting.until(lambda: _kept(install), lambda kept: kept)

    await proxy.disappear()
    assert await install.status("a") == 200
    await install.gateway.kill()
    await install.gateway.launch(USHER_INSTALL_KEY=install.key)
    await install.until_answers(200, "a")
    assert await install.status("b") == 200
    assert await install.status("nowhere") == 404
    assert (await install.config())["source"] == "cache"

    await install.publish(tombstone(listener("a")))
    await install.publish(wrap(listener("c")))
    await proxy.appear()
    await install.until_answers(200, "c", limit_seconds=60)
    assert await install.status("a") == 404
    assert (await install.config())["source"] == "cluster"


async def _kept(install: Install) -> bool:
    with contextlib.suppress(OSError):
        return (install.gateway.data / "config.cache").stat().st_size > 0
    return False


async def test_account_without_permissions_gets_a_hint(
    install: Install, make_account: MakeAccount, namespace: str
) -> None:
    account = await make_account(namespace, "nobody")
    install.gateway.configuration[-1] = str(account.kubeconfig)
    await install.gateway.launch(USHER_INSTALL_KEY=install.key)
    await waiting.until(lambda: _said(install, "needs `list` and `watch` on Secrets"))
    await install.until_answers(503, "a")


async def test_pod_reads_with_its_service_account(
    install: Install, make_account: MakeAccount, server: api.Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await make_account(install.namespace, "pod")
    rights = accounts.moved(RIGHTS, {"usher-config": install.namespace, "usher-system": install.namespace}, "-pod")
    rights = json.loads(json.dumps(rights).replace('"gateway"', '"pod"').replace("usher-gateway", "usher-pod"))
    await accounts.grant(server, rights)
    await install.publish(wrap(listener("a")))
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", account.folder)
    place = parse.urlsplit(account.endpoint.server)
    environ = {"KUBERNETES_SERVICE_HOST": str(place.hostname), "KUBERNETES_SERVICE_PORT": str(place.port)}
    options = cluster.ClusterOptions(keys=KEYS, namespace=install.namespace, data=tmp_path)
    reader = client.Client(access.find_access(None, environ))
    source = cluster.ClusterSource(options, client=reader, check=lambda _: None, now=lambda: 1)
    async with asyncio.timeout(60), contextlib.aclosing(source.snapshots()) as snapshots:
        assert list((await anext(snapshots)).listeners) == ["acme/a"]
    await accounts.withdraw(server, rights)


async def _said(install: Install, words: str) -> bool:
    return words in install.gateway.log_tail(1_000)
