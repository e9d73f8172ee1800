"""A tenant that fills the store up to its class's maximum gets 503; its neighbour does not notice."""

from pathlib import Path

import structlog

from support import gateway as in_process
from support import gateways, wire

MIB = 1024**2
OTHER_HOST = "other.example"


def tenant(name: str) -> gateways.Manifest:
    return {**gateways.TENANT, "metadata": {"name": name}}


def listener(name: str, of_tenant: str, host: str) -> gateways.Manifest:
    addresses = [{"name": "a", "hostname": host, "path": f"/{name}"}]
    return gateways.listener(name, [], tenantRef={"name": of_tenant}, listenerClassName="small", addresses=addresses)


CLASS: gateways.Manifest = {
    "apiVersion": "usher.dev/v1alpha1",
    "kind": "ListenerClass",
    "metadata": {"name": "small"},
    "spec": {
        "controllerName": "usher.dev/usher",
        "hostname": "class.example",
        "allowedHostnames": [{"hostname": name, "namespaces": {"from": "All"}} for name in (gateways.HOST, OTHER_HOST)],
        "maximums": {"storedBytesPerTenant": MIB},
    },
}


async def test_tenant_at_its_storage_limit_gets_503_and_others_do_not(tmp_path: Path) -> None:
    manifests = [CLASS, tenant("acme"), tenant("globex"), listener("loud", "acme", gateways.HOST)]
    manifests += [listener("quiet", "globex", OTHER_HOST)]
    with structlog.testing.capture_logs() as logs:
        async with in_process.running(tmp_path, manifests) as gateway:
            padding = "x" * 200_000
            statuses = []
            for number in range(20):
                reply = await gateways.post(gateway.port, "/loud", gateways.visit(number, filling=padding))
                statuses.append(reply.status)
            assert statuses[0] == 200
            assert statuses[-1] == 503
            assert statuses == sorted(statuses)
            (stored,) = gateway.store.rows("select sum(length(body)) from bodies")[0]
            assert stored <= MIB
            request = wire.request("/quiet", gateways.visit(1), host=OTHER_HOST)
            assert (await wire.exchange(gateway.port, request)).acknowledges
    assert [line["event"] for line in logs].count("storage_limit_reached") == 1
