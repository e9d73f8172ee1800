"""The operator removes nothing when the install key is wrong or gone."""

import base64
from collections.abc import Callable
from typing import Any

from support import api, installs, waiting
from support.published_documents import declare, live, versions


async def test_restored_install_key_takes_effect_without_a_restart(install: installs.Install, namespace: str) -> None:
    first = await install.start_operator()
    await declare(install, namespace, "lobby")
    secret = api.Resource("Secret", "usher-install-key", install.system)
    right = (await install.server.get(secret))["data"]
    await first.stop()
    wrong = base64.b64encode(base64.b64encode(bytes(32))).decode()
    await install.server.merge(secret, {"data": {"install.key": wrong}})
    await install.start_operator()
    second = install.klass(hostname="second.example.com")
    second["metadata"] = {"name": f"{second['metadata']['name']}-second"}
    await install.server.apply(second)
    try:
        refused = await install.server.wait(api.of(second), accepted("InstallKeyChanged"))
        assert "installKeyFingerprint" not in refused["status"]
        previous_versions = await versions(install, namespace)
        await install.server.merge(secret, {"data": right})
        stamped = await install.server.wait(api.of(second), accepted("Accepted"))
        first_class = await install.server.wait(api.of(install.klass()), accepted("Accepted"))
        assert stamped["status"]["installKeyFingerprint"] == first_class["status"]["installKeyFingerprint"]
        await declare(install, namespace, "lobby", "bar")
        assert previous_versions.items() <= (await versions(install, namespace)).items()
    finally:
        await install.server.delete(api.of(second))


def accepted(reason: str) -> Callable[[Any], bool]:
    """Return a check whether Accepted has a reason."""
    return lambda resource: api.condition(resource, "Accepted").get("reason") == reason


async def test_deleted_install_key_is_not_recreated_while_documents_exist(
    install: installs.Install, namespace: str
) -> None:
    first = await install.start_operator()
    await declare(install, namespace, "lobby")
    await first.stop()
    listeners_before = await live(install, namespace)
    secret, klass = api.Resource("Secret", "usher-install-key", install.system), api.of(install.klass())
    await install.server.delete(secret)
    await install.server.delete(klass)
    await install.server.apply(install.klass())  # without the status that has the fingerprint
    second = await install.start_operator(wait=False)
    await waiting.until(lambda: second.get("/readyz"), lambda answer: "usher-install-key was deleted" in answer[1])
    assert await install.server.get(secret) is None
    assert await live(install, namespace) == listeners_before
