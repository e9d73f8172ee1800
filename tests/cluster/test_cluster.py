"""The tests of this folder rely on this: the audit log shows refusals, and a cluster in use is not touched."""

from pathlib import Path

import pytest

from support import accounts, api, clusters, installs, waiting


async def test_audit_log_shows_what_an_account_may_not_do(
    cluster: clusters.Cluster, server: api.Api, namespace: str, tmp_path: Path
) -> None:
    clusters.require_audit_log()
    resource = api.Resource("ServiceAccount", "nobody", namespace)
    account = await accounts.log_in(server, cluster.endpoint, resource, tmp_path)
    async with api.connected(account.endpoint, account.token) as as_account:
        with pytest.raises(api.ApiError, match="forbidden"):
            await as_account.get(api.Resource("Secret", "any", namespace))

    async def refused() -> list[tuple[str, str]]:
        return [(request.resource, request.namespace) for request in cluster.audit.refusals(account.user)]

    await waiting.until(refused, lambda requests: requests == [("secrets", namespace)])


async def test_cluster_with_resources_of_usher_is_refused(
    definitions: clusters.Cluster, server: api.Api, namespace: str
) -> None:
    await server.create(installs.tenant(namespace))
    theirs = {"controllerName": "usher.dev/usher", "hostname": "hooks.example.com"}
    klass = {**installs.OURS, "kind": "ListenerClass", "metadata": {"name": namespace}, "spec": theirs}
    await server.create(klass)
    try:
        with pytest.raises(AssertionError, match=f"in use: .* ListenerClass /{namespace}") as error:
            clusters.refuse_one_in_use(definitions.kubectl)
    finally:
        await server.delete(api.of(klass))
    assert "Tenant" not in str(error.value), "it is in a namespace of the tests"
