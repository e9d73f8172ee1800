"""crds/access: a policy that refuses hostnames at admission, and permissions for the standard cluster roles."""

import functools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from support import api, clusters, dry_run, waiting

ACCESS = clusters.DEFINITIONS / "access"
POLICY = "hostnames.usher.dev"

MakeListener = Callable[..., Awaitable[dry_run.Answer]]


@pytest.fixture(scope="module")
def policy(definitions: clusters.Cluster) -> Iterator[None]:
    """Apply the shipped policy, and remove it again unless the cluster had it before."""
    call = definitions.kubectl
    present_policy = call.run("get", "validatingadmissionpolicy", POLICY, "--ignore-not-found", "--output=name")
    call.run("apply", "--server-side", "--force-conflicts", f"--filename={ACCESS / 'hostnames.yaml'}")
    yield
    if not present_policy:
        call.run("delete", f"--filename={ACCESS / 'hostnames.yaml'}")


@pytest.fixture
async def class_name(server: api.Api, judge: dry_run.Server, namespace: str, policy: None) -> AsyncIterator[str]:
    """Create a class with hostnames for all, for some and for no namespaces; wait until the policy is in force."""
    name = f"access-{secrets.token_hex(4)}"
    await server.create(listener_class(name, ALLOWED))
    await waiting.until(
        lambda: judge.create(api.Resource("Listener", "", namespace), listener(name, [f"never.{name}.example"])),
        lambda answer: "HostnameNotAllowed" in answer.message,
    )
    yield name
    await server.delete(api.Resource("ListenerClass", name))


def expression(operator: str, values: list[str] | None = None) -> dict[str, Any]:
    requirement = {"key": "tier", "operator": operator} | ({} if values is None else {"values": values})
    return {"from": "Selector", "selector": {"matchExpressions": [requirement]}}


ALLOWED = [
    {"hostname": "*.open.example"},
    {"hostname": "exact.example", "namespaces": {"from": "All"}},
    {"hostname": "label.example", "namespaces": {"from": "Selector", "selector": {"matchLabels": {"tier": "gold"}}}},
    {"hostname": "in.example", "namespaces": expression("In", ["gold", "silver"])},
    {"hostname": "notin.example", "namespaces": expression("NotIn", ["gold"])},
    {"hostname": "exists.example", "namespaces": expression("Exists")},
    {"hostname": "absent.example", "namespaces": expression("DoesNotExist")},
]


def listener_class(name: str, allowed: list[Any]) -> dict[str, Any]:
    spec = {"controllerName": "access.example/none", "hostname": f"hooks.{name}.example", "allowedHostnames": allowed}
    return {"apiVersion": "usher.dev/v1alpha1", "kind": "ListenerClass", "metadata": {"name": name}, "spec": spec}


def listener(class_name: str, hostnames: list[str], extra: str = "") -> str:
    addresses = ", ".join(f"{{name: a{index}, hostname: {hostname}}}" for index, hostname in enumerate(hostnames))
    return f"""
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {{name: lobby}}
spec: {{tenantRef: {{name: acme}}, listenerClassName: {class_name}, addresses: [{addresses}]{extra}}}
"""


@pytest.mark.parametrize(
    ("tier", "granted"),
    [
        ("gold", {"label", "in", "exists"}),
        ("silver", {"in", "notin", "exists"}),
        ("", {"notin", "absent"}),
    ],
)
async def test_hostname_is_only_for_the_namespaces_of_the_class(
    judge: dry_run.Server, class_name: str, make_namespace: Callable[..., Awaitable[str]], tier: str, granted: set[str]
) -> None:
    place = api.Resource("Listener", "", await make_namespace("access", {"tier": tier} if tier else {}))
    for name in ("label", "in", "notin", "exists", "absent"):
        answer = await judge.create(place, listener(class_name, [f"{name}.example"]))
        assert answer.is_accepted == (name in granted), (name, answer.message)
    for hostname in ("exact.example", "a.open.example", "a.b.open.example"):
        assert (await judge.create(place, listener(class_name, [hostname]))).is_accepted


async def test_refusal_names_the_hostname_and_the_reason(
    judge: dry_run.Server, class_name: str, namespace: str
) -> None:
    place = api.Resource("Listener", "", namespace)
    for hostname in ("open.example", "xopen.example", "sub.exact.example"):
        answer = await judge.create(place, listener(class_name, ["exact.example", hostname]))
        assert not answer.is_accepted
        assert "HostnameNotAllowed" in answer.message
        assert answer.message.endswith(f"not: {hostname}")
    answer = await judge.create(place, listener(class_name, [f"hooks.{class_name}.example"]))
    assert "HostnameReserved" in answer.message


async def test_hostname_of_another_class_is_reserved_too(
    judge: dry_run.Server, server: api.Api, class_name: str, namespace: str
) -> None:
    other = f"{class_name}-2"
    await server.create(listener_class(other, [{"hostname": f"*.{class_name}.example"}]))
    try:
        place = api.Resource("Listener", "", namespace)
        answer = await waiting.until(
            lambda: judge.create(place, listener(other, [f"hooks.{class_name}.example"])),
            lambda answer: "HostnameReserved" in answer.message,
        )
        assert not answer.is_accepted
    finally:
        await server.delete(api.Resource("ListenerClass", other))


async def test_listener_can_be_suspended_after_it_lost_its_hostname(
    judge: dry_run.Server, server: api.Api, class_name: str, namespace: str
) -> None:
    place = api.Resource("Listener", "lobby", namespace)
    assert (await judge.apply(place, listener(class_name, ["exact.example"]), keep=True)).is_accepted
    await server.merge(api.Resource("ListenerClass", class_name), {"spec": {"allowedHostnames": []}})
    await waiting.until(
        lambda: judge.create(api.Resource("Listener", "", namespace), listener(class_name, ["exact.example"])),
        lambda answer: "HostnameNotAllowed" in answer.message,
    )
    answer = await judge.apply(place, listener(class_name, ["exact.example"], ", state: Suspended"))
    assert answer.is_accepted, answer.message
    answer = await judge.apply(place, listener(class_name, ["exact.example", "a.open.example"]))
    assert not answer.is_accepted


async def test_largest_class_and_listener_fit_the_cost_limit_of_a_policy(
    judge: dry_run.Server, server: api.Api, class_name: str, namespace: str
) -> None:
    """They have as many hostnames, selectors and addresses as the definitions allow."""
    large = f"{class_name}-large"
    requirement = {"key": "tier", "operator": "NotIn", "values": [f"v{index}" for index in range(16)]}
    namespaces = {"from": "Selector", "selector": {"matchExpressions": [requirement] * 8}}
    allowed = [{"hostname": f"*.h{index}.example", "namespaces": namespaces} for index in range(256)]
    await server.create(listener_class(large, allowed))
    try:
        place = api.Resource("Listener", "", namespace)
        await waiting.until(
            lambda: judge.create(place, listener(large, ["never.example"])),
            lambda answer: "HostnameNotAllowed" in answer.message,
        )
        hostnames = [f"a{index}.h255.example" for index in range(16)]
        answer = await judge.create(place, listener(large, hostnames))
        assert answer.is_accepted, answer.message
        # A policy over its limit would be ignored, and would let this through.
        answer = await judge.create(place, listener(large, [*hostnames[1:], "never.example"]))
        assert "HostnameNotAllowed" in answer.message
    finally:
        await server.delete(api.Resource("ListenerClass", large))


@pytest.fixture(scope="module")
def roles(definitions: clusters.Cluster) -> None:
    call = definitions.kubectl
    call.run("apply", "--server-side", "--force-conflicts", f"--filename={ACCESS / 'roles.yaml'}")


KINDS = ("tenants", "listeners", "destinations")

RIGHTS = {
    "view": {(verb, kind) for verb in ("get", "list", "watch") for kind in KINDS},
    "edit": {
        (verb, kind) for verb in ("get", "list", "watch", "create", "update", "patch", "delete") for kind in KINDS
    },
}
RIGHTS["admin"] = RIGHTS["edit"] | {("deletecollection", kind) for kind in KINDS}

ASKED = {
    (verb, kind)
    for verb in ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    for kind in (*KINDS, *(f"{kind}/status" for kind in KINDS))
}


@pytest.mark.parametrize("role", RIGHTS)
async def test_cluster_roles_grant_exactly_an_agencys_permissions(
    server: api.Api, namespace: str, roles: None, role: str
) -> None:
    user = f"somebody-{namespace}"
    await server.create(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "somebody", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }
    )
    for verb, kind in RIGHTS[role]:  # the controller of the cluster adds them up
        await waiting.until(functools.partial(may, server, (user, namespace), verb, kind))
    allowed = {(verb, kind) for verb, kind in ASKED if await may(server, (user, namespace), verb, kind)}
    assert allowed == RIGHTS[role]
    for verb in ("create", "update", "patch", "delete", "deletecollection"):
        assert not await may(server, (user, ""), verb, "listenerclasses")


async def may(server: api.Api, who: tuple[str, str], verb: str, resource: str) -> bool:
    """Ask the API server whether a user may do something in a namespace."""
    user, namespace = who
    kind, _, subresource = resource.partition("/")
    wish = {"group": "usher.dev", "resource": kind, "subresource": subresource, "verb": verb, "namespace": namespace}
    return await server.may(user, wish)
