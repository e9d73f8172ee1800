"""The tests of this folder rely on this: the audit log shows refusals, and a cluster in use is not touched."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from support import accounts, api, audit, clusters, installs, waiting

MakeNamespace = Callable[[str], Awaitable[str]]
MakeAccount = Callable[[str, str], Awaitable[accounts.Account]]

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seen"}, "data": {"word": "first"}}

RIGHTS = [
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "reader", "namespace": "usher-config"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reader", "namespace": "usher-config"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "gateway", "namespace": "usher-system"}],
    },
]


def in_namespace(document: Mapping[str, Any], namespace: str, **metadata: Any) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], "namespace": namespace, **metadata}}


async def test_account_has_exactly_the_granted_permissions(
    cluster: clusters.Cluster, server: api.Api, make_namespace: MakeNamespace, make_account: MakeAccount
) -> None:
    clusters.require_audit_log()
    system, config = await make_namespace("system"), await make_namespace("config")
    account = await make_account(system, "gateway")
    rights = accounts.moved(RIGHTS, {"usher-system": system, "usher-config": config}, "-here")
    await accounts.grant(server, rights)
    await server.create(in_namespace(CONFIG_MAP, config))
    async with api.connected(account.endpoint, account.token) as as_account:
        readable = api.Resource("ConfigMap", "seen", config)
        await waiting.until(lambda: allowed(as_account, readable))
        assert not await allowed(as_account, api.Resource("ConfigMap", "seen", system))
        assert not await allowed(as_account, api.Resource("Secret", "seen", config))
    refused = await waiting.until(lambda: refusals(cluster.audit, account), lambda requests: len(requests) >= 2)
    assert {(each.resource, each.namespace) for each in refused} >= {("configmaps", system), ("secrets", config)}


async def allowed(server: api.Api, resource: api.Resource) -> bool:
    try:
        await server.get(resource)
    except api.ApiError as error:
        if error.status != 403:
            raise
        return False
    return True


async def refusals(log: audit.Log, account: accounts.Account) -> list[audit.Asked]:
    return list(log.refusals(account.user))


async def test_cluster_with_resources_of_usher_is_refused(
    definitions: clusters.Cluster, server: api.Api, namespace: str
) -> None:
    await server.create(installs.tenant(namespace))
    clusters.refuse_one_in_use(definitions.kubectl)
    theirs = {"controllerName": "usher.dev/usher", "hostname": "hooks.example.com"}
    klass = {**installs.OURS, "kind": "ListenerClass", "metadata": {"name": namespace}, "spec": theirs}
    await server.create(klass)
    try:
        with pytest.raises(AssertionError, match=f"in use: .* ListenerClass /{namespace}"):
            clusters.refuse_one_in_use(definitions.kubectl)
    finally:
        await server.delete(api.of(klass))
