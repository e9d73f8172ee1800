"""The operator uses the Secrets of a namespace only while the platform admits it; it notices changes while it runs."""

import shlex
from typing import Any

import pytest
import pytest_asyncio

from local_cluster import kubectl as kubectls
from support import agencies, api, gateways

pytestmark = agencies.SHARED

BEARER = {"authentication": {"type": "Bearer", "bearer": {"secretRef": {"name": "token", "key": "token"}}}}


@pytest_asyncio.fixture(loop_scope="package")
async def stranger(platform: agencies.Platform) -> agencies.Agency:
    """An agency that the platform has not admitted, with a listener and a destination with a Secret."""
    namespace = await platform.make_namespace("stranger", is_admitted=False)
    agency = agencies.Agency(platform, namespace)
    await agency.apply(
        agency.tenant(),
        agency.secret("token", token="open-sesame-7"),
        agency.destination(http=BEARER),
        agency.listener(),
    )
    return agency


async def test_namespace_is_admitted_by_the_command_in_the_condition(stranger: agencies.Agency) -> None:
    refused = await stranger.wait("Listener", "lobby", "Accepted", "False", "NamespaceNotPermitted")
    await stranger.wait("Destination", "crm", "Accepted", "False", "NamespaceNotPermitted")
    command = message_of(refused).partition("kubectl ")[2]
    await stranger.platform.install.cluster.kubectl(*shlex.split(command))
    await stranger.wait_ready("listeners.usher.dev/lobby", "destinations.usher.dev/crm")
    await stranger.post(await stranger.url(), gateways.visit(1))
    (received,) = await stranger.until_received(1)
    assert received.headers["authorization"] == "Bearer open-sesame-7"


async def test_admin_of_a_namespace_can_admit_it_and_an_editor_cannot(stranger: agencies.Agency) -> None:
    refused = await stranger.wait("Listener", "lobby", "Accepted", "False", "NamespaceNotPermitted")
    command = shlex.split(message_of(refused).partition("kubectl ")[2])
    kubectl = stranger.platform.install.cluster.kubectl
    for role in ("edit", "admin"):
        binding = f"--clusterrole={role}", f"--user={role}-of-{stranger.namespace}"
        await kubectl("create", "rolebinding", role, f"--namespace={stranger.namespace}", *binding)
    with pytest.raises(kubectls.KubectlError, match="forbidden"):
        await kubectl(*command, f"--as=edit-of-{stranger.namespace}")
    await kubectl(*command, f"--as=admin-of-{stranger.namespace}")
    await stranger.wait_ready("listeners.usher.dev/lobby")


async def test_withdrawn_admission_leaves_the_listener_in_service_until_it_is_deleted(agency: agencies.Agency) -> None:
    await agency.apply(agency.tenant(), agency.destination(), agency.listener())
    await agency.wait_ready("listeners.usher.dev/lobby")
    url = await agency.url()
    await agency.kubectl("delete", "rolebinding", "usher-agency")
    await agency.wait("Listener", "lobby", "Accepted", "False", "NamespaceNotPermitted")
    assert (await agency.post(url, gateways.visit(1))).status == 200
    await agency.until_received(1)
    await agency.kubectl("delete", "listeners.usher.dev", "lobby")
    await agency.until_answers(url, 404)


async def test_admission_without_the_right_to_get_secrets_shows_in_the_conditions(stranger: agencies.Agency) -> None:
    kubectl, namespace = stranger.platform.install.cluster.kubectl, f"--namespace={stranger.namespace}"
    refused = await stranger.wait("Listener", "lobby", "Accepted", "False", "NamespaceNotPermitted")
    account = shlex.split(message_of(refused).partition("kubectl ")[2])[-1]
    await kubectl("create", "role", "usher-agency", namespace, "--verb=list,watch,create,patch", "--resource=secrets")
    await kubectl("create", "rolebinding", "usher-agency", namespace, "--role=usher-agency", account)
    await stranger.apply(stranger.listener("new"))
    await stranger.wait("Listener", "new", "Accepted", "False", "NamespaceNotPermitted")
    await kubectl("delete", "rolebinding", "usher-agency", namespace)
    await kubectl("create", "rolebinding", "usher-agency", namespace, "--clusterrole=usher-agency", account)
    await stranger.wait_ready("listeners.usher.dev/lobby", "listeners.usher.dev/new")


async def test_operator_has_no_right_on_the_secrets_of_other_namespaces(stranger: agencies.Agency) -> None:
    server, user = stranger.platform.server, stranger.platform.install.operator.user
    for namespace in ("kube-system", "default", stranger.namespace, ""):
        for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
            asked = {"verb": verb, "resource": "secrets", "namespace": namespace}
            assert not await server.may(user, asked), asked


def message_of(listener: Any) -> str:
    return str(api.condition(listener, "Accepted")["message"])
