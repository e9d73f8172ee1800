"""The faulty proxy applies its faults between clients and the real API server."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from local_cluster import kubeconfigs
from support import api, clusters, faulty_proxy, waiting


@pytest.fixture
async def through(cluster: clusters.Cluster, proxy: faulty_proxy.Proxy) -> AsyncIterator[api.Api]:
    """Connect to the API server through the proxy."""
    async with api.connected(proxy.endpoint, cluster.token) as ready:
        yield ready


@contextlib.asynccontextmanager
async def session_with(endpoint: kubeconfigs.Endpoint, token: str) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=api.trusting(endpoint))
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(endpoint.server, connector=connector, headers=headers) as ready:
        yield ready


@pytest.fixture
async def session(cluster: clusters.Cluster, proxy: faulty_proxy.Proxy) -> AsyncIterator[aiohttp.ClientSession]:
    """Return a client that uses the proxy."""
    async with session_with(proxy.endpoint, cluster.token) as ready:
        yield ready


@pytest.fixture
async def direct(cluster: clusters.Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    """Return a client that does not use the proxy."""
    async with session_with(cluster.endpoint, cluster.token) as ready:
        yield ready


class Watch:
    """A watch on the ConfigMaps of a namespace: the added names in order, and how the watch ended."""

    def __init__(self, session: aiohttp.ClientSession, namespace: str) -> None:
        self._session, self._path = session, api.Resource("ConfigMap", "", namespace).path
        self.added: list[str] = []
        self.errors: list[int] = []
        self.began = asyncio.Event()

    async def run(self) -> None:
        async with self._session.get(self._path, params={"watch": "true"}) as answer:
            self.began.set()
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    self.errors.append(event["object"]["code"])
                elif event["object"]["metadata"]["name"] != "kube-root-ca.crt":  # every namespace has one
                    self.added.append(event["object"]["metadata"]["name"])

    async def wait_added(self, name: str) -> None:
        async def added() -> list[str]:
            return self.added

        await waiting.until(added, lambda names: name in names)


@contextlib.asynccontextmanager
async def watching(session: aiohttp.ClientSession, namespace: str) -> AsyncIterator[tuple[Watch, asyncio.Task[None]]]:
    watch = Watch(session, namespace)
    task = asyncio.create_task(watch.run(), name="watch")
    try:
        async with asyncio.timeout(60):
            await watch.began.wait()
        yield watch, task
    finally:
        task.cancel()
        await asyncio.wait({task})


def config_map(namespace: str, name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}


def of(namespace: str, name: str) -> api.Resource:
    return api.Resource("ConfigMap", name, namespace)


async def test_proxy_without_a_fault_behaves_like_the_api_server(
    through: api.Api, server: api.Api, proxy: faulty_proxy.Proxy, namespace: str
) -> None:
    await through.create(config_map(namespace, "one"))
    assert await through.get(of(namespace, "one")) == await server.get(of(namespace, "one"))
    assert await through.get(of(namespace, "two")) is None
    await through.merge(of(namespace, "one"), {"data": {"word": "second"}})
    assert (await server.get(of(namespace, "one")))["data"] == {"word": "second"}
    assert [(each.method, each.writes) for each in proxy.asked] == [
        ("POST", True),
        ("GET", False),
        ("GET", False),
        ("PATCH", True),
    ]


@pytest.mark.parametrize("status", [429, 500, 410])
async def test_refused_requests_do_not_reach_the_server(
    through: api.Api, server: api.Api, proxy: faulty_proxy.Proxy, namespace: str, status: int
) -> None:
    await server.create(config_map(namespace, "known"))
    fault = proxy.refuse(status, faulty_proxy.writes, times=1)
    assert await through.list(of(namespace, "")), "reads are not met"
    with pytest.raises(api.ApiError) as raised:
        await through.create(config_map(namespace, "one"))
    assert raised.value.status == status
    assert await server.get(of(namespace, "one")) is None
    await through.create(config_map(namespace, "one"))
    assert fault.met == 1


async def test_refusal_has_retry_after(session: aiohttp.ClientSession, proxy: faulty_proxy.Proxy) -> None:
    with proxy.refuse(429, retry_after_seconds=7):
        async with session.get("/version") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    async with session.get("/version") as answer:
        assert answer.status == 200


async def test_hanging_request_continues_when_the_fault_is_lifted(
    through: api.Api, server: api.Api, proxy: faulty_proxy.Proxy, namespace: str
) -> None:
    fault = proxy.hang(faulty_proxy.writes)
    hanging = asyncio.create_task(through.create(config_map(namespace, "one")))
    await waiting.until(lambda: met(fault))
    assert await server.get(of(namespace, "one")) is None
    assert not hanging.done()
    fault.lift()
    await asyncio.wait_for(hanging, 60)
    assert await server.get(of(namespace, "one"))


async def met(fault: faulty_proxy.Fault) -> int:
    return fault.met


async def test_slow_answer_arrives_late(through: api.Api, proxy: faulty_proxy.Proxy) -> None:
    proxy.slow(0.2)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert "v1" in str(await through.request("GET", "/version"))
    assert loop.time() - began >= 0.2


async def test_watch_passes_through(
    session: aiohttp.ClientSession, server: api.Api, proxy: faulty_proxy.Proxy, namespace: str
) -> None:
    async with watching(session, namespace) as (watch, _):
        await server.create(config_map(namespace, "one"))
        await watch.wait_added("one")
        assert [each.path for each in proxy.open_watches] == [of(namespace, "").path]
    await waiting.until(lambda: open_watches(proxy), lambda count: count == 0)


async def open_watches(proxy: faulty_proxy.Proxy) -> int:
    return len(proxy.open_watches)


async def test_cut_watch_ends_without_an_event(
    session: aiohttp.ClientSession, proxy: faulty_proxy.Proxy, namespace: str
) -> None:
    async with watching(session, namespace) as (watch, task):
        assert proxy.cut() == 1
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(task, 60)
        assert watch.errors == []


async def test_open_watch_expires(session: aiohttp.ClientSession, proxy: faulty_proxy.Proxy, namespace: str) -> None:
    async with watching(session, namespace) as (watch, task):
        assert proxy.expire_open() == 1
        await asyncio.wait_for(task, 60)
        assert watch.errors == [410]


async def test_new_watches_expire_at_once(
    session: aiohttp.ClientSession, proxy: faulty_proxy.Proxy, namespace: str
) -> None:
    proxy.expire(times=1)
    async with watching(session, namespace) as (watch, task):
        await asyncio.wait_for(task, 60)
        assert watch.errors == [410]
    async with watching(session, namespace) as (watch, _):
        await waiting.until(lambda: open_watches(proxy), lambda count: count == 1)
        assert watch.errors == []


async def test_silent_watch_stays_open_without_events(
    session: aiohttp.ClientSession,
    direct: aiohttp.ClientSession,
    server: api.Api,
    proxy: faulty_proxy.Proxy,
    namespace: str,
) -> None:
    async with watching(session, namespace) as (watch, task), watching(direct, namespace) as (other, _):
        await server.create(config_map(namespace, "before"))
        await watch.wait_added("before")
        with proxy.silence():
            await server.create(config_map(namespace, "during"))
            await other.wait_added("during")
            assert not task.done()
            assert watch.added == ["before"]
        await watch.wait_added("during")


async def test_outage_closes_every_connection_until_it_ends(
    session: aiohttp.ClientSession, through: api.Api, proxy: faulty_proxy.Proxy, namespace: str
) -> None:
    async with watching(session, namespace) as (_, task):
        await proxy.disappear()
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(task, 60)
    with pytest.raises(aiohttp.ClientError):
        await through.request("GET", "/version")
    await proxy.appear()
    assert "v1" in str(await through.request("GET", "/version"))
