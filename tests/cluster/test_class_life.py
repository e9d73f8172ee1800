"""A class exposes hostnames, and deleted namespaces are removed under the removal limit."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from support import agencies, api, gateways, installs, waiting
from usher_operator.plan import children

pytestmark = agencies.SHARED


@contextlib.asynccontextmanager
async def edge_class(agency: agencies.Agency) -> AsyncIterator[dict[str, Any]]:
    """Create a class with an Ingress and an exposed listener; delete both at the end."""
    server, name = agency.platform.server, f"edge-{agency.namespace}"
    async with installs.ingress_class(server, name) as exposure:
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
        assert (await agency.post(url, gateways.visit(1))).acknowledges
        await platform.server.merge(api.of({"kind": "HTTPRoute", **routes[0]}), taken(routes[0]), "status")
        await agency.wait("Listener", "lobby", "Exposed", "True", "Exposed")
        await waiting.until(lambda: platform.children("Ingress", hostname), lambda ingresses: not ingresses)
        assert (await agency.post(url, gateways.visit(2))).acknowledges
        assert await platform.children("HTTPRoute", hostname)


async def test_ingress_keeps_its_class_until_the_new_one_exists(agency: agencies.Agency) -> None:
    platform = agency.platform
    async with edge_class(agency) as klass:
        hostname, old_name = klass["spec"]["hostname"], klass["metadata"]["name"]
        new_name = f"new-{old_name}"

        async def ingress_class() -> str:
            (ingress,) = await platform.children("Ingress", hostname)
            name: str = ingress["spec"]["ingressClassName"]
            return name

        exposure = {**klass["spec"]["exposure"], "ingress": {"className": new_name}}
        await agency.apply({**klass, "spec": {**klass["spec"], "exposure": exposure}})
        listener = await agency.wait("Listener", "lobby", "Exposed", "False", "IngressClassNotFound")
        assert await ingress_class() == old_name
        stays = f"; the present Ingress (class `{old_name}`) stays"
        assert api.condition(listener, "Exposed")["message"].endswith(stays)
        async with installs.ingress_class(platform.server, new_name):
            await waiting.until(ingress_class, lambda name: name == new_name)


async def _permit_certificate(agency: agencies.Agency, name: str) -> None:
    """Let the operator see whether a Secret exists beside the gateways, as the chart's `certificateSecrets` does."""
    install = agency.platform.install
    metadata = {"name": f"certificate-{name}", "namespace": install.system}
    rbac = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"]}
    subject = {"kind": "ServiceAccount", "name": "usher-operator", "namespace": install.system}
    reference = {"apiGroup": rbac, "kind": "Role", "name": metadata["name"]}
    about = {"apiVersion": f"{rbac}/v1", "metadata": metadata}
    await agency.platform.server.create({**about, "kind": "Role", "rules": [rule]})
    await agency.platform.server.create({**about, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]})


async def test_class_reports_a_missing_certificate_until_it_exists(
    agency: agencies.Agency,
) -> None:
    system = agency.platform.install.system
    async with edge_class(agency) as klass:
        name = klass["metadata"]["name"]
        await _permit_certificate(agency, name)
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
