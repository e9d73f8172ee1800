"""`usher run --from-cluster` against a real API server, with exactly the permissions of a gateway."""

import asyncio
import base64
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib import parse

import pytest

from support import accounts, agencies, api, faulty_proxy, installs, waiting
from support.published_documents import declare, wait_live
from usher_gateway import model
from usher_gateway.config import cache, cluster
from usher_gateway.kube import access, client


async def test_gateway_serves_and_restarts_without_operator_and_api_server(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    hostname, server = f"{namespace}.example.org", install.server
    operator = await install.start_operator()
    await declare(install, namespace, allowedHostnames=[{"hostname": "*.example.org"}])
    for name in ("kept", "lost"):
        await server.apply(installs.placed(install, namespace, name, f"/{name}"))
    gateway = await install.start_gateway(account=install.gateway.at(proxy.endpoint, tmp_path / "through"))
    for path, status in (("/kept", 200), ("/lost", 200), ("/nowhere", 404)):  # 404 once everything was published
        await gateway.wait_answer(hostname, path, status, limit_seconds=120.0)

    async def config(satisfied: Callable[[Any], Any]) -> Any:
        return await waiting.until(
            lambda: install.ask(gateway, "/api/config"), lambda config: config and satisfied(config)
        )

    async def cached() -> bool:
        key = base64.b64decode((await install.secret("usher-install-key", install.system))["install.key"])
        return bool(cache.read(install.folder / f"data-{gateway.admin}", model.derive_keys(key).cache))

    assert await operator.stop() == 0
    lost = (await install.documents())[f"Listener {namespace}/lost"]
    await server.delete(api.of({"kind": "Secret", **lost}))
    (vanished,) = (await config(lambda config: config["vanished"]))["vanished"]
    assert vanished["key"] == f"{namespace}/lost"
    assert await gateway.answer(hostname, "/lost") == 200

    await waiting.until(cached)
    await proxy.disappear()
    await gateway.stop(signal.SIGKILL)
    gateway = await install.start_again(gateway)
    await config(lambda config: config["source"] == "cache")
    for path, status in (("/kept", 200), ("/lost", 200), ("/nowhere", 503)):  # which may be new
        assert await gateway.answer(hostname, path) == status

    await install.start_operator()
    await wait_live(install, namespace, "kept", "lost")
    await server.delete(api.Resource("Listener", "lost", namespace))
    await server.apply(installs.placed(install, namespace, "new", "/new"))
    await wait_live(install, namespace, "kept", "new")
    await proxy.appear()
    await gateway.wait_answer(hostname, "/new", 200)
    await gateway.wait_answer(hostname, "/lost", 404)
    await config(lambda config: config["source"] == "cluster")


@agencies.SHARED
async def test_account_without_permissions_gets_a_hint(platform: agencies.Platform, tmp_path: Path) -> None:
    install = platform.install
    account = api.Resource("ServiceAccount", "nobody", await platform.make_namespace())
    nobody = await accounts.log_in(platform.server, install.cluster.endpoint, account, tmp_path)
    gateway = await install.start_gateway(account=nobody, wait=False)

    async def said() -> str:
        return gateway.log.read_text("utf-8")

    await waiting.until(said, lambda log: "needs `list` and `watch` on Secrets" in log)
    await gateway.stop()


@agencies.SHARED
async def test_pod_reads_with_its_service_account(
    agency: agencies.Agency, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = agency.platform.install
    await agency.apply(agency.tenant(), agency.destination(), agency.listener())
    await agency.wait_ready("listeners.usher.dev/lobby")
    key = (await install.secret("usher-install-key", install.system))["install.key"]
    keys = model.derive_keys(base64.b64decode(key))
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", install.gateway.folder)
    place = parse.urlsplit(install.gateway.endpoint.server)
    environ = {"KUBERNETES_SERVICE_HOST": str(place.hostname), "KUBERNETES_SERVICE_PORT": str(place.port)}
    options = cluster.ClusterOptions(keys=keys, namespace=install.config, data=tmp_path)
    reader = client.Client(access.find_access(None, environ))
    source = cluster.ClusterSource(options, client=reader, check=lambda _: None, now=lambda: 1)
    async with asyncio.timeout(60), contextlib.aclosing(source.snapshots()) as snapshots:
        assert f"{agency.namespace}/lobby" in (await anext(snapshots)).listeners
