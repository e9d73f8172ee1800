"""The test cluster behaves like Kubernetes: it validates, authorizes, and its controllers work."""

import base64
import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from local_cluster import control_plane
from local_cluster import kubectl as kubectls
from support import accounts, api, audit, clusters, installs, waiting

MakeNamespace = Callable[[str], Awaitable[str]]
MakeAccount = Callable[[str, str], Awaitable[accounts.Account]]

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seen"}, "data": {"word": "first"}}

HTTP_ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "hooks"},
    "spec": {
        "parentRefs": [{"name": "public"}],
        "hostnames": ["hooks.test"],
        "rules": [{"backendRefs": [{"name": "usher-gateway", "port": 80}]}],
    },
}
CERTIFICATE = {
    "apiVersion": "cert-manager.io/v1",
    "kind": "Certificate",
    "metadata": {"name": "hooks"},
    "spec": {"secretName": "hooks-tls", "dnsNames": ["hooks.test"], "issuerRef": {"name": "ca"}},
}

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


async def test_kubectl_and_the_api_client_read_the_same_objects(
    kubectl: kubectls.Kubectl, server: api.Api, namespace: str
) -> None:
    await kubectl.apply(in_namespace(CONFIG_MAP, namespace))
    config_map = await server.get(api.Resource("ConfigMap", "seen", namespace))
    same = await kubectl.json("get", "configmap", "seen", f"--namespace={namespace}")
    assert config_map["data"] == same["data"] == {"word": "first"}
    assert config_map["metadata"]["uid"] == same["metadata"]["uid"]
    assert await server.get(api.Resource("ConfigMap", "unseen", namespace)) is None


async def test_kubectl_error_has_the_message_of_the_server(kubectl: kubectls.Kubectl, namespace: str) -> None:
    with pytest.raises(kubectls.KubectlError, match="not found") as raised:
        await kubectl("get", "configmap", "unseen", f"--namespace={namespace}")
    assert raised.value.code == 1


async def test_controllers_work(server: api.Api, namespace: str) -> None:
    await server.wait(api.Resource("ServiceAccount", "default", namespace), bool)


async def test_object_without_its_owner_is_garbage_collected(server: api.Api, namespace: str) -> None:
    owner = await server.create(in_namespace(CONFIG_MAP, namespace))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "seen", "uid": owner["metadata"]["uid"]}
    owned = api.Resource("ConfigMap", "owned", namespace)
    await server.create(in_namespace(CONFIG_MAP, namespace, name="owned", ownerReferences=[reference]))
    await server.delete(api.Resource("ConfigMap", "seen", namespace))
    await server.wait(owned, lambda current: current is None)


async def test_foreign_definitions_validate_objects(
    foreign_definitions: clusters.Cluster, server: api.Api, namespace: str
) -> None:
    for document in (HTTP_ROUTE, CERTIFICATE):
        await server.apply(in_namespace(document, namespace))
    bad = in_namespace(HTTP_ROUTE, namespace, name="bad") | {"spec": {"hostnames": ["no hostname"]}}
    with pytest.raises(api.ApiError, match=r"spec\.hostnames") as raised:
        await server.apply(bad)
    assert raised.value.status == 422


async def test_account_has_exactly_the_granted_permissions(
    cluster: clusters.Cluster, server: api.Api, make_namespace: MakeNamespace, make_account: MakeAccount
) -> None:
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


async def test_account_has_the_files_of_a_pod(make_account: MakeAccount, namespace: str) -> None:
    account = await make_account(namespace, "gateway")
    assert (account.folder / "namespace").read_text() == namespace
    assert (account.folder / "token").read_text() == account.token
    claims = account.token.split(".")[1]
    assert f"system:serviceaccount:{namespace}:gateway".encode() in base64.urlsafe_b64decode(claims + "==")
    assert account.kubeconfig.stat().st_mode & 0o077 == 0


async def test_audit_log_has_the_user_of_each_write(cluster: clusters.Cluster, server: api.Api, namespace: str) -> None:
    log = cluster.audit
    position = log.position()
    await server.create(in_namespace(CONFIG_MAP, namespace))

    async def written() -> list[audit.Asked]:
        return [asked for asked in log.since(position) if asked.writes and asked.namespace == namespace]

    requests = await waiting.until(written, lambda requests: any(each.resource == "configmaps" for each in requests))
    (asked,) = [each for each in requests if each.resource == "configmaps"]
    assert (asked.verb, asked.status, asked.agent) == ("create", 201, api.MANAGER)


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


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "tools")}
STARTS_AND_WAITS = """
import pathlib, sys, time
from local_cluster import control_plane
with control_plane.running(pathlib.Path(sys.argv[1])) as running:
    print("up", flush=True)
    time.sleep(600)
"""


async def test_cluster_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert control_plane.runs(tmp_path)
        assert len(programs_of(tmp_path)) == 4

    async def left() -> list[str]:
        return programs_of(tmp_path)

    await waiting.until(left, lambda programs: not programs)


@contextlib.contextmanager
def started(state: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that starts a cluster, and kill it at the end of the ``with`` block."""
    program = [sys.executable, "-c", STARTS_AND_WAITS, str(state)]
    with subprocess.Popen(program, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def programs_of(state: Path) -> list[str]:
    """Find the servers of a cluster by its folder in their arguments."""
    told = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True, timeout=10).stdout
    return [line for line in told.splitlines() if f"{state}/" in line]


def test_detached_cluster_runs_until_down(tmp_path: Path) -> None:
    state = tmp_path / "own"
    try:
        up = run(state, "up")
        assert up.stdout.startswith(f"export KUBECONFIG={state}/admin.kubeconfig\n")
        assert len(programs_of(state)) == 4
        again = run(state, "up")
        assert (again.returncode, again.stdout) == (1, "")
    finally:
        assert run(state, "down").returncode == 0
    assert programs_of(state) == []
    assert not state.exists()
    assert run(state, "down").returncode == 1


def run(state: Path, command: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "local_cluster", f"--state={state}", command]
    return subprocess.run(program, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=250)
