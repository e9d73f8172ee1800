"""Another configuration namespace, or another controllerName, takes nothing out of service."""

import base64
import json
from typing import Any

from support import api, installs
from usher_gateway import config_secret


def documents_of(secrets: dict[str, dict[str, Any]], name: str) -> Any:
    return json.loads(installs.decoded(secrets[name])[config_secret.DATA_KEY])["document"]


async def may_write(server: api.Api, install: installs.Install, namespace: str) -> None:
    """Give the operator its rights in another configuration namespace."""
    subject = {"kind": "ServiceAccount", "name": installs.OPERATOR, "namespace": install.system}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}
    await server.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "operator", "namespace": namespace},
            "roleRef": role,
            "subjects": [subject],
        }
    )


async def test_documents_move_with_their_retired_addresses(
    install: installs.Install, server: api.Api, namespace: str, make_namespace: installs.Namespaces
) -> None:
    lobby = f"Listener {namespace}/lobby"
    for manifest in (
        install.klass(),
        installs.tenant(namespace),
        installs.destination(namespace),
        installs.listener(install, namespace),
    ):
        await server.apply(manifest)
    operator = await install.start_operator()
    listener = api.Resource("Listener", "lobby", namespace)
    await server.wait(listener, lambda raw: raw and raw.get("status", {}).get("addresses"))
    await server.apply(installs.listener(install, namespace, token={"generation": 1}))
    await server.wait(listener, lambda raw: raw and api.condition(raw, "AddressRetired"))
    moved_from = await install.documents()
    assert len(documents_of(moved_from, lobby)["addresses"]) == 2
    assert await operator.stop() == 0

    previous, install.config = install.config, await make_namespace("moved", is_admitted=False)
    await may_write(server, install, install.config)
    operator = await install.start_operator()
    assert documents_of(await install.documents(), lobby) == documents_of(moved_from, lobby)
    assert '"documents_copied"' in operator.log.read_text("utf-8")
    install.config = previous
    assert (await install.documents()).keys() == moved_from.keys()


async def test_class_says_that_its_controller_name_is_gone(
    install: installs.Install, server: api.Api, namespace: str
) -> None:
    await server.apply(install.klass())
    operator = await install.start_operator()
    public = api.of(install.klass())
    await server.wait(public, lambda raw: raw and (api.condition(raw, "Ready") or {}).get("status") == "True")
    assert await operator.stop() == 0
    await install.start_operator("--controller-name", f"{install.controller}-renamed")
    await server.wait(public, lambda raw: raw and (api.condition(raw, "Ready") or {}).get("reason") == "NotServed")


async def test_gateways_await_documents_while_the_install_key_is_wrong(
    install: installs.Install, server: api.Api, namespace: str
) -> None:
    """The documents are lost and another install key is there: nothing says that everything was published."""
    for manifest in (install.klass(), installs.tenant(namespace), installs.listener(install, namespace)):
        await server.apply(manifest)
    operator = await install.start_operator()
    await server.wait(install.mark, bool)
    assert await operator.stop() == 0
    for secret in await server.list(api.Resource("Secret", "", install.config), "usher.dev/config=true"):
        await server.delete(api.Resource("Secret", secret["metadata"]["name"], install.config))
    key = api.Resource("Secret", "usher-install-key", install.system)
    right = (await server.get(key))["data"]["install.key"]
    wrong = base64.b64encode(base64.b64encode(bytes(32))).decode()
    await server.merge(key, {"data": {"install.key": wrong}})
    await install.start_operator()
    listener = api.Resource("Listener", "lobby", namespace)
    await server.wait(listener, lambda raw: (api.condition(raw, "Accepted") or {}).get("reason") == "InstallKeyChanged")
    assert await server.get(install.mark) is None
    await server.merge(key, {"data": {"install.key": right}})
    await server.wait(install.mark, bool)
    assert f"Listener {namespace}/lobby" in await install.documents()
