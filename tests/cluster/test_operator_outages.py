"""Rejected writes, aborted lists, a hanging API server, silent watches and changing APIs lose nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from local_cluster import foreign
from support import api, clusters, faulty_proxy, installs, waiting
from support.published_documents import declare, versions, wait_live

INCOMPLETE = 'usher_operator_resync_total{result="incomplete"}'
COMPLETE = 'usher_operator_resync_total{result="success"}'
ROOMS = ("room-0", "room-1", "room-2", "room-3", "room-4")


def writes_of(plural: str, namespace: str) -> faulty_proxy.Where:
    return lambda asked: asked.writes and f"/namespaces/{namespace}/{plural}/" in asked.path


async def test_rejected_writes_are_retried_and_forbidden_ones_show_in_conditions(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    await install.start_operator(account=install.operator.at(proxy.endpoint, tmp_path / "through"))
    faults = [
        proxy.refuse(429, faulty_proxy.writes, times=3, retry_after_seconds=1),
        proxy.refuse(500, faulty_proxy.writes, times=3),
    ]
    await declare(install, namespace, "bar")
    assert [fault.met for fault in faults] == [3, 3]
    faults = [
        proxy.refuse(403, writes_of("secrets", install.config)),
        proxy.refuse(403, writes_of("ingresses", install.system)),
    ]
    lobby, crm = api.Resource("Listener", "lobby", namespace), api.Resource("Destination", "crm", namespace)

    def is_forbidden(resource: Any, condition_type: str = "Programmed") -> bool:
        return bool(api.condition(resource, condition_type).get("reason") == "WriteForbidden")

    async with installs.ingress_class(install.server, f"edge-{namespace}") as exposure:
        await install.server.apply(install.klass(exposure=exposure))
        await install.server.apply(installs.destination(namespace, concurrency=2))
        await install.server.apply(installs.listener(install, namespace))
        await install.server.wait(crm, is_forbidden)
        forbidden = await install.server.wait(lobby, is_forbidden)
        assert api.condition(forbidden, "Ready")["status"] == "False"
        assert "403" in api.condition(forbidden, "Programmed")["message"]
        await install.server.wait(lobby, lambda current: is_forbidden(current, "Exposed"))
    for fault in faults:
        fault.lift()
    await install.server.merge(crm, {"metadata": {"labels": {"again": "now"}}})
    await install.server.merge(lobby, {"metadata": {"labels": {"again": "now"}}})
    for resource in (crm, lobby):
        await install.server.wait(resource, lambda current: not is_forbidden(current))


def second_page(asked: faulty_proxy.Asked) -> bool:
    return faulty_proxy.lists(asked) and asked.path.endswith("/listeners") and "continue=" in asked.query


async def wait_counted(operator: installs.Process, name: str, times: int) -> None:
    """Wait until a metric has grown by a number since now."""
    present = await operator.metric(name)
    await waiting.until(lambda: operator.metric(name), lambda count: count >= present + times)


async def test_list_rejected_at_its_second_page_removes_nothing(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    proxy.page = 2
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    operator = await install.start_operator("--resync-seconds", "0.5", account=through)
    await declare(install, namespace, *ROOMS)
    previous_versions = await versions(install, namespace)
    for status in (403, 410):
        with proxy.refuse(status, second_page):
            await wait_counted(operator, INCOMPLETE, 2)
            await install.server.apply(installs.tenant(namespace, displayName=f"edited during {status}"))
        await wait_counted(operator, COMPLETE, 1)
        assert (await versions(install, namespace)).keys() == previous_versions.keys()
    assert operator.taken_for_gone(namespace) == []


async def test_start_without_the_second_page_writes_nothing(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    first = await install.start_operator()
    await declare(install, namespace, *ROOMS)
    await first.stop()
    previous_versions = await versions(install, namespace)
    proxy.page = 2
    refused = proxy.refuse(403, second_page)
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    second = await install.start_operator(account=through, wait=False)
    await waiting.until(lambda: second.get("/readyz"), lambda answer: "listeners cannot be read: 403" in answer[1])
    refused.lift()
    await second.wait_ready()
    await declare(install, namespace, *ROOMS, "new")
    assert previous_versions.items() <= (await versions(install, namespace)).items()


async def test_hanging_api_server_ends_the_leader_and_the_next_one_works(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    quick = {"timing": {"lease_seconds": 8.0, "renew_deadline_seconds": 6.0, "lease_retry_seconds": 0.5}}
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    leader = await install.start_operator(account=through, changes=quick)
    await declare(install, namespace, "lobby", "bar")
    hanging = proxy.hang()
    await install.server.apply(installs.listener(install, namespace, "late"))
    await install.server.delete(api.Resource("Listener", "bar", namespace))
    async with asyncio.timeout(60):
        assert await leader.process.wait() == 1
    hanging.lift()
    previous_versions = await versions(install, namespace)
    await install.start_operator("--tombstone-seconds", "1", account=through, changes=quick)
    await wait_live(install, namespace, "lobby", "late")
    assert (await versions(install, namespace))[f"Listener {namespace}/lobby"] == previous_versions[
        f"Listener {namespace}/lobby"
    ]


async def test_list_finds_changes_that_a_silent_watch_missed(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    operator = await install.start_operator(
        *("--resync-seconds", "1", "--tombstone-seconds", "1"),
        account=through,
        changes={"timing": {"max_watch_silence_seconds": 3.0}},
    )
    await declare(install, namespace, "lobby", "bar")
    with proxy.silence():
        await install.server.apply(installs.listener(install, namespace, "late"))
        await install.server.delete(api.Resource("Listener", "bar", namespace))
        await wait_live(install, namespace, "lobby", "late")
        await waiting.until(
            lambda: operator.get("/healthz"), lambda answer: answer[0] == 503 and "watch of Listener" in answer[1]
        )
    await waiting.until(lambda: operator.get("/healthz"), lambda answer: answer[0] == 200)


async def test_list_finds_an_edited_secret_that_a_silent_watch_missed_beside_an_unreadable_namespace(
    install: installs.Install,
    namespace: str,
    make_namespace: installs.Namespaces,
    proxy: faulty_proxy.Proxy,
    tmp_path: Path,
) -> None:
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    await install.start_operator("--resync-seconds", "1", account=through)
    unreadable = await make_namespace()

    async def declare_with_token(place: str) -> None:
        bearer = {"type": "Bearer", "bearer": {"secretRef": {"name": "crm", "key": "token"}}}
        await declare(install, place)
        await set_token(place, "first-token-of-the-crm")
        await install.server.apply(
            installs.destination(place, http={"url": "https://crm.example.com/hook", "authentication": bearer})
        )
        await wait_published(place, "first-token-of-the-crm")

    async def set_token(place: str, token: str) -> None:
        metadata = {"name": "crm", "namespace": place, "labels": {"usher.dev/watch": "true"}}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}}
        await install.server.apply(secret)

    async def wait_published(place: str, token: str) -> None:
        def has_token(documents: dict[str, Any]) -> bool:
            published = documents.get(f"Destination {place}/crm")
            return published is not None and token.encode() in installs.decoded(published)["config.json"]

        await waiting.until(install.documents, has_token)

    def is_unreadable(asked: faulty_proxy.Asked) -> bool:
        return faulty_proxy.lists(asked) and asked.path.endswith(f"/namespaces/{unreadable}/secrets")

    await declare_with_token(unreadable)
    await declare_with_token(namespace)
    with proxy.refuse(403, is_unreadable), proxy.silence():
        await set_token(namespace, "second-token-of-the-crm")
        await wait_published(namespace, "second-token-of-the-crm")


async def test_watch_cut_loses_no_deletion_and_no_edit(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    operator, gateway = install.operator, install.gateway
    through = operator.at(proxy.endpoint, tmp_path / "operator")
    await install.start_operator(account=through, changes={"timing": {"watch_check_seconds": 1.0}})
    await declare(install, namespace, allowedHostnames=[{"hostname": "*.example.org"}], retiredAddressDays=0)
    hostname, names = f"{namespace}.example.org", ("deleted", "edited", "kept")
    for name in names:
        await install.server.apply(installs.placed(install, namespace, name, f"/{name}"))
    running = await install.start_gateway(account=gateway.at(proxy.endpoint, tmp_path / "gateway"))
    for name in names:
        await running.wait_answer(hostname, f"/{name}", 200)

    held = proxy.hang(faulty_proxy.watches)
    proxy.expire(faulty_proxy.watches, times=6)
    proxy.cut()
    await waiting.until(lambda: _value(held.met))
    await install.server.delete(api.Resource("Listener", "deleted", namespace))
    await install.server.apply(installs.placed(install, namespace, "edited", "/elsewhere"))
    await install.server.apply(installs.placed(install, namespace, "new", "/new"))
    assert [await running.answer(hostname, f"/{name}") for name in names] == [200, 200, 200]
    held.lift()
    await running.wait_answer(hostname, "/deleted", 404)
    await running.wait_answer(hostname, "/new", 200)
    await running.wait_answer(hostname, "/elsewhere", 200)
    await running.wait_answer(hostname, "/edited", 404)
    assert await running.answer(hostname, "/kept") == 200


async def _value(number: int) -> int:
    return number


@contextlib.asynccontextmanager
async def without(definitions: clusters.Cluster, files: list[Path]) -> AsyncIterator[None]:
    """Delete some CRDs, and restore them at the end."""
    await remove(definitions, files)
    try:
        yield
    finally:
        definitions.define(files)


async def remove(definitions: clusters.Cluster, files: list[Path]) -> None:
    await definitions.kubectl("delete", "crd", *(f"{file.stem.split('_', 1)[1]}.cert-manager.io" for file in files))


def reason(condition_type: str, *reasons: str) -> Any:
    return lambda resource: api.condition(resource, condition_type).get("reason") in reasons


async def test_cert_manager_may_appear_and_disappear_at_run_time(
    install: installs.Install, namespace: str, definitions: clusters.Cluster
) -> None:
    files, issuer = _of_cert_manager(), api.Resource("ClusterIssuer", namespace)
    feature = 'usher_operator_feature_available{feature="cert_manager"}'
    lobby = api.Resource("Listener", "lobby", namespace)
    certificates = api.Resource("Certificate", "", install.system)
    per_hostname = {"mode": "PerHostname", "issuerRef": {"name": issuer.name, "kind": issuer.kind}}
    async with without(definitions, files):
        operator = await install.start_operator("--resync-seconds", "1")
        await declare(install, namespace, "lobby", tls=per_hostname)
        previous_versions = await versions(install, namespace)
        await install.server.wait(lobby, reason("CertificateReady", "CertManagerMissing"))

        definitions.define(files)
        await install.server.wait(lobby, reason("CertificateReady", "IssuerNotFound"))
        fields = {"metadata": {"name": issuer.name}, "spec": {"selfSigned": {}}}
        await install.server.apply({"apiVersion": "cert-manager.io/v1", "kind": issuer.kind, **fields})
        await waiting.until(lambda: install.server.list(certificates))
        await install.server.wait(lobby, reason("CertificateReady", "Pending"))

        await remove(definitions, [file for file in files if file.stem.endswith("_certificates")])
        await install.server.wait(lobby, reason("CertificateReady", "CertManagerMissing"))
        await wait_counted(operator, COMPLETE, 3)
        assert await operator.metric(feature) == 0
        assert reason("CertificateReady", "CertManagerMissing")(await install.server.get(lobby))
        assert operator.process.returncode is None
        assert previous_versions == await versions(install, namespace)
        await install.server.delete(issuer)


def _of_cert_manager() -> list[Path]:
    suffixes = ("_certificates", "_issuers", "_clusterissuers")
    return [file for file in foreign.files(foreign.CERT_MANAGER) if file.stem.endswith(suffixes)]


async def test_issuer_counts_only_in_the_namespace_of_the_data_plane(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    await install.start_operator(account=install.operator.at(proxy.endpoint, tmp_path / "through"))
    issuer = {"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "spec": {"selfSigned": {}}}
    lobby = api.Resource("Listener", "lobby", namespace)
    await install.server.apply({**issuer, "metadata": {"name": "internal", "namespace": namespace}})
    await declare(install, namespace, "lobby", tls={"mode": "PerHostname", "issuerRef": {"name": "internal"}})
    await install.server.wait(lobby, reason("CertificateReady", "IssuerNotFound"))
    await install.server.apply({**issuer, "metadata": {"name": "internal", "namespace": install.system}})
    await install.server.wait(lobby, reason("CertificateReady", "Pending"))
    await install.server.delete(api.Resource("Issuer", "internal", install.system))
    await install.server.wait(lobby, reason("CertificateReady", "IssuerNotFound"))
    read_paths = {asked.path for asked in proxy.asked if asked.path.endswith("/issuers")}
    assert read_paths == {f"/apis/cert-manager.io/v1/namespaces/{install.system}/issuers"}


def watches_of_namespaces(asked: faulty_proxy.Asked) -> bool:
    return asked.watches and asked.path == "/api/v1/namespaces"


def reads_of_namespaces(asked: faulty_proxy.Asked) -> bool:
    return asked.path == "/api/v1/namespaces" and not asked.writes


async def test_refused_watches_of_the_platform_do_not_end_the_operator(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    operator = await install.start_operator("--resync-seconds", "3600", account=through)
    selector = {"from": "Selector", "selector": {"matchLabels": {"usher-test": "admitted"}}}
    await install.server.apply(install.klass(namespaces=selector))
    for document in (installs.tenant(namespace), installs.listener(install, namespace, "lobby")):
        await install.server.apply(document)
    lobby = api.Resource("Listener", "lobby", namespace)
    await install.server.wait(lobby, reason("Accepted", "ClassNotPermitted"))
    for status, where, label, verdict in (
        (404, reads_of_namespaces, "admitted", "Accepted"),
        (410, watches_of_namespaces, "refused", "ClassNotPermitted"),
    ):
        await _open_watch(proxy)
        with proxy.refuse(status, where) as fault:
            proxy.cut(watches_of_namespaces)
            await waiting.until(lambda: _value(fault.met), lambda met: met >= 2)
        await _open_watch(proxy)
        labels = {"metadata": {"labels": {"usher-test": label}}}
        await install.server.merge(api.Resource("Namespace", namespace), labels)
        await install.server.wait(lobby, reason("Accepted", verdict))
    assert operator.process.returncode is None


async def _open_watch(proxy: faulty_proxy.Proxy) -> None:
    async def look() -> int:
        return sum(map(watches_of_namespaces, proxy.open_watches))

    await waiting.until(look)
