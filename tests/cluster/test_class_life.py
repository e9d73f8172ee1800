"""A class exposes hostnames, and deleted namespaces are removed under the removal limit."""

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

from support import agencies, api, waiting
from usher_operator import children

pytestmark = agencies.SHARED


@contextlib.asynccontextmanager
async def edge_class(agency: agencies.Agency) -> AsyncIterator[dict[str, Any]]:
    """Create a class with an Ingress and an exposed listener; delete both at the end."""
    server, name = agency.platform.server, f"edge-{agency.namespace}"
    ingress_class = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}}
    await server.create({**ingress_class, "spec": {"controller": "example.com/edge"}})
    exposure = {"type": "Ingress", "scope": "Hostname", "ingress": {"className": name}}
    klass = agency.platform.install.klass(hostname=f"{name}.example.com", exposure=exposure)
    klass["metadata"]["name"] = name
    try:
        await agency.apply(klass, agency.tenant(), agency.destination(), agency.listener(listenerClassName=name))
        await agency.wait("Listener", "lobby", "Exposed", "False", "AddressNotAssigned")
        (ingress,) = await agency.platform.children("Ingress", klass["spec"]["hostname"])
        status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
        await server.merge(api.of({"kind": "Ingress", **ingress}), {"status": status}, "status")
        await agency.wait("Listener", "lobby", "Exposed", "True", "Exposed")
        yield klass
    finally:
        await server.delete(api.of(klass))
        await server.delete(api.of(ingress_class))


def by_gateway(klass: dict[str, Any]) -> dict[str, Any]:
    """The class with HTTPRoutes at a Gateway instead of Ingresses."""
    parent = {"namespace": "infra", "name": "edge"}
    exposure = {"type": "HTTPRoute", "scope": "Hostname", "httpRoute": {"parentRef": parent}}
    return {**klass, "spec": {**klass["spec"], "exposure": exposure}}


def taken(route: dict[str, Any]) -> dict[str, Any]:
    """The status that a Gateway's controller writes on a route that it accepts."""
    about = {"observedGeneration": 1, "lastTransitionTime": "2027-01-31T12:00:00Z", "message": ""}
    conditions = [
        {"type": "Accepted", "status": "True", "reason": "Accepted", **about},
        {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", **about},
    ]
    parent = {"parentRef": route["spec"]["parentRefs"][0], "controllerName": "example.com/edge"}
    return {"status": {"parents": [{**parent, "conditions": conditions}]}}


async def test_ingress_is_removed_once_the_http_route_is_accepted(agency: agencies.Agency) -> None:
    platform = agency.platform
    async with edge_class(agency) as klass:
        hostname = klass["spec"]["hostname"]
        url = await agency.url()
        await agency.apply(by_gateway(klass))
        routes = await waiting.until(lambda: platform.children("HTTPRoute", hostname))
        await agency.wait("Listener", "lobby", "Exposed", "Unknown", "Pending")
        assert await platform.children("Ingress", hostname), "no route leads to the listener"
        assert (await agency.post(url, agencies.visit(1))).acknowledges
        await platform.server.merge(api.of({"kind": "HTTPRoute", **routes[0]}), taken(routes[0]), "status")
        await agency.wait("Listener", "lobby", "Exposed", "True", "Exposed")
        await waiting.until(lambda: platform.children("Ingress", hostname), lambda ingresses: not ingresses)
        assert (await agency.post(url, agencies.visit(2))).acknowledges
        assert await platform.children("HTTPRoute", hostname)


async def test_class_reports_a_missing_certificate_until_it_exists(
    agency: agencies.Agency,
) -> None:
    system = agency.platform.install.system
    async with edge_class(agency) as klass:
        name = klass["metadata"]["name"]
        tls = {"mode": "Provided", "secretName": name}
        await agency.apply({**klass, "spec": {**klass["spec"], "tls": tls}})
        await agency.wait("Listener", "lobby", "CertificateReady", "False", "SecretNotFound")
        certificate = {"tls.crt": "MQ==", "tls.key": "MQ=="}
        metadata = {"name": name, "namespace": system}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls"}
        await agency.platform.server.create({**secret, "data": certificate})
        await agency.wait("Listener", "lobby", "CertificateReady", "True", "Provided")
        is_provided = agencies.says("CertificateReady", "True", "Provided")
        await agency.platform.server.wait(api.of(klass), is_provided)


async def test_former_hostname_keeps_its_ingress_until_its_retired_urls_end(
    agency: agencies.Agency, make_agency: agencies.Make
) -> None:
    server, other = agency.platform.server, await make_agency()
    async with edge_class(agency) as klass:
        former, old_url = klass["spec"]["hostname"], await agency.url()
        (original,) = await agency.platform.children("Ingress", former)
        moved = {**klass["spec"], "hostname": f"new-{former}", "allowedHostnames": [{"hostname": "*.example.com"}]}
        await server.apply({**klass, "spec": moved})
        await agency.wait("Listener", "lobby", "AddressRetired", "True", "AddressRetired")
        address = {"name": "former", "hostname": former, "path": "/hooks/purple.php"}
        claim = other.listener(
            listenerClassName=klass["metadata"]["name"], addresses=[address], authentication={"type": "None"}
        )
        await other.apply(other.tenant(), other.destination(), claim)
        await other.wait("Listener", "lobby", "Accepted", "False", "HostnameReserved")
        assert (await agency.post(old_url, b"{}")).acknowledges
        (present,) = await agency.platform.children("Ingress", former)
        assert (present["metadata"]["uid"], present["spec"]) == (original["metadata"]["uid"], original["spec"])
        await server.apply({**klass, "spec": {**moved, "retiredAddressDays": 0}})
        await agency.until_answers(old_url, 404)
        await other.wait("Listener", "lobby", "Accepted", "True", "Accepted")
        await other.until_answers(f"https://{former}/hooks/purple.php", 200)


async def test_ingress_that_somebody_else_made_is_never_written(agency: agencies.Agency) -> None:
    server, install = agency.platform.server, agency.platform.install
    async with edge_class(agency) as klass:
        hostname = f"taken-{klass['spec']['hostname']}"
        theirs = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": children.object_name(hostname), "namespace": install.system},
            "spec": {"defaultBackend": {"service": {"name": "theirs", "port": {"number": 80}}}},
        }
        original = await server.create(theirs)
        await agency.apply({**klass, "spec": {**klass["spec"], "hostname": hostname}})
        listener = await agency.wait("Listener", "lobby", "Exposed", "False", "ObjectNameTaken")
        assert children.object_name(hostname) in api.condition(listener, "Exposed")["message"]
        present = await server.get(api.of(theirs))
        assert (present["spec"], present["metadata"]["resourceVersion"]) == (
            original["spec"],
            original["metadata"]["resourceVersion"],
        )
        await server.delete(api.of(theirs))
        await waiting.until(lambda: agency.platform.children("Ingress", hostname))


async def open_rooms(agency: agencies.Agency, count: int) -> list[str]:
    """Apply some listeners; return their URLs once all answer."""
    names = [f"room-{number}" for number in range(count)]
    await agency.apply(agency.tenant(), agency.destination(), *map(agency.listener, names))
    urls = [await agency.url(name) for name in names]
    for url in urls:
        await agency.until_answers(url, 200)
    return urls


async def test_deleted_namespace_removes_its_few_listeners(agency: agencies.Agency) -> None:
    urls = await open_rooms(agency, 2)
    await agency.platform.server.delete(api.Resource("Namespace", agency.namespace))
    for url in urls:
        await agency.until_answers(url, 404)
    documents = await agency.platform.install.documents()
    for name in ("room-0", "room-1"):
        assert documents[f"Listener {agency.namespace}/{name}"], "a tombstone stays for ten minutes"


async def test_deleted_namespace_with_many_listeners_waits_for_confirmation(
    agency: agencies.Agency,
) -> None:
    server, klass = agency.platform.server, api.of(agency.platform.install.klass())
    urls = await open_rooms(agency, 6)
    await server.delete(api.Resource("Namespace", agency.namespace))
    halted_class = await server.wait(
        klass, lambda current: api.condition(current, "Ready").get("reason") == "RemovalsHalted"
    )
    await server.wait(api.Resource("Namespace", agency.namespace), lambda current: current is None)
    for url in urls:
        assert (await agency.post(url, b"{}")).acknowledges
    digest = re.findall(r'"([0-9a-f]{12})"', api.condition(halted_class, "Ready")["message"])[0]
    await agency.kubectl("annotate", "listenerclass", klass.name, f"usher.dev/confirm-removals={digest}")
    for url in urls:
        await agency.until_answers(url, 404)
    await server.wait(klass, lambda current: api.condition(current, "Ready")["reason"] == "Ready")
