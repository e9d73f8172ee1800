"""Programmed follows from the answers of each ready endpoint in a real EndpointSlice."""

from pathlib import Path
from typing import Any

from local_cluster import ports
from support import api, faulty_proxy, installs, waiting

# Programmed turns False sooner than after 30 s, and the operator asks more often, so that the test is short.
QUICK = {"grace_seconds": 2.0, "timing": {"gateway_poll_seconds": 1.0}}


def slice_of(install: installs.Install, gateway: installs.Process, *, ready: bool = True) -> dict[str, Any]:
    """The EndpointSlice of one gateway, as an endpoint controller would write it (each has its own port here)."""
    metadata = {
        "name": f"usher-gateway-{gateway.admin}",
        "namespace": install.system,
        "labels": {"kubernetes.io/service-name": "usher-gateway"},
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "ports": [{"name": "admin", "port": gateway.admin, "protocol": "TCP"}],
        "endpoints": [{"addresses": [gateway.host], "conditions": {"ready": ready}}],
    }


async def wait_programmed(install: installs.Install, namespace: str, status: str, reason: str, part: str = "") -> None:
    """Wait until the condition of the listener's newest generation has these values."""

    async def look() -> dict[str, Any]:
        listener = await install.server.get(api.Resource("Listener", "lobby", namespace))
        condition = api.condition(listener, "Programmed")
        return {**condition, "isNewest": condition.get("observedGeneration") == listener["metadata"]["generation"]}

    def is_so(condition: dict[str, Any]) -> bool:
        return (condition.get("status"), condition.get("reason")) == (status, reason) and part in condition["message"]

    await waiting.until(look, lambda condition: condition["isNewest"] and is_so(condition))


async def test_programmed_needs_every_ready_gateway(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    address = installs.own_address()
    await install.start_operator("--gateway-service", f"{install.system}/usher-gateway", changes=QUICK)
    for document in (
        install.klass(),
        installs.tenant(namespace),
        installs.destination(namespace),
        installs.listener(install, namespace),
    ):
        await install.server.apply(document)
    await wait_programmed(install, namespace, "False", "GatewayUnavailable", "no gateway is ready")

    prompt = await install.start_gateway(host=address)
    lagging = await install.start_gateway(host=address, account=install.gateway.at(proxy.endpoint, tmp_path / "other"))
    for gateway in (prompt, lagging):
        await install.server.apply(slice_of(install, gateway))
    await wait_programmed(install, namespace, "True", "Programmed")

    silence = proxy.silence()
    await install.server.apply(installs.listener(install, namespace, late={"afterSeconds": 60}))
    await wait_programmed(install, namespace, "False", "PartiallyProgrammed", f"{address}:{lagging.admin}")
    silence.lift()
    await wait_programmed(install, namespace, "True", "Programmed")

    await lagging.stop()
    await wait_programmed(install, namespace, "False", "PartiallyProgrammed", f"{address}:{lagging.admin}")
    await install.server.apply(slice_of(install, lagging, ready=False))
    await wait_programmed(install, namespace, "True", "Programmed")

    await install.server.delete(api.of(slice_of(install, prompt)))
    await install.server.apply(installs.listener(install, namespace, late={"afterSeconds": 70}))
    await wait_programmed(install, namespace, "False", "GatewayUnavailable", "no gateway is ready")


async def test_gateway_away_longer_than_a_tombstone_drops_deleted_listeners(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    port = ports.free()
    quick = {"timing": {"stale_document_seconds": 5.0, "gateway_poll_seconds": 1.0}}
    gateways = ("--gateways", f"http://127.0.0.1:{port}")
    await install.start_operator(*gateways, "--tombstone-seconds", "1", changes=quick)
    await install.server.apply(install.klass())
    await install.server.apply(installs.tenant(namespace))
    for name in ("lobby", "bar"):
        await install.server.apply(installs.listener(install, namespace, name))
    through = install.gateway.at(proxy.endpoint, tmp_path / "through")
    gateway = await install.start_gateway(admin=port, account=through)

    async def served() -> tuple[set[str], set[str]]:
        """Listeners of the namespace that the gateway runs, and those of them without a Secret."""
        config = await install.ask(gateway, "/api/config")
        documents, vanished = (
            {document["key"] for document in config[part] if document["key"] in (lobby, bar)}
            for part in ("documents", "vanished")
        )
        return documents, vanished

    lobby, bar = f"{namespace}/lobby", f"{namespace}/bar"
    await waiting.until(served, lambda listeners: listeners == ({lobby, bar}, set()))
    await proxy.disappear()
    await install.server.delete(api.Resource("Listener", "lobby", namespace))
    await waiting.until(install.documents, lambda documents: f"Listener {lobby}" not in documents)
    assert await served() == ({lobby, bar}, set())
    proxy.expire(times=1)  # the API server no longer has the events of that time
    await proxy.appear()
    await waiting.until(served, lambda listeners: listeners == ({lobby, bar}, {lobby}))
    await waiting.until(served, lambda listeners: listeners == ({bar}, set()))


async def test_hostname_waits_for_a_gateway_away_longer_than_a_tombstone(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    port = ports.free()
    gateways = ("--gateways", f"http://127.0.0.1:{port}", "--tombstone-seconds", "0")
    operator = await install.start_operator(*gateways, changes={"timing": {"gateway_poll_seconds": 1.0}})
    hostnames = [{"hostname": f"{namespace}.example.org"}]
    await install.server.apply(install.klass(allowedHostnames=hostnames, removalLimit=100))
    for name in ("acme", "globex"):
        await install.server.apply(installs.tenant(namespace, name))
    former = installs.placed(install, namespace, "lobby", "/hook")
    rival = installs.placed(install, namespace, "bar", "/hook", tenantRef={"name": "globex"})
    for listener in (former, installs.listener(install, namespace, "other")):
        await install.server.apply(listener)
    await install.start_gateway(admin=port, account=install.gateway.at(proxy.endpoint, tmp_path / "through"))
    await wait_programmed(install, namespace, "True", "Programmed")
    await proxy.disappear()
    await install.server.delete(api.of(former))
    await waiting.until(install.documents, lambda documents: is_removed(documents, f"Listener {namespace}/lobby"))
    await install.server.apply(rival)
    await operator.stop()
    await install.server.delete(install.mark)
    await install.start_again(operator)
    await install.server.wait(install.mark, bool)  # each resource was looked at again
    decided = await install.server.get(api.of(rival))
    assert api.condition(decided, "Accepted")["reason"] == "HostnameConflict"
    assert f"Listener {namespace}/bar" not in await install.documents()

    await proxy.appear()
    await waiting.until(install.documents, lambda documents: f"Listener {namespace}/bar" in documents)


def is_removed(documents: dict[str, Any], name: str) -> bool:
    """Return whether a document's config Secret is gone, or has a tombstone."""
    return name not in documents or b'"tombstone":"2' in installs.decoded(documents[name])["config.json"]
