"""Resources of a namespace in a cluster, and the documents that the operator publishes for them."""

import base64
import json
from typing import Any

from support import installs, waiting


async def declare(install: installs.Install, namespace: str, *names: str, **klass: Any) -> None:
    """Apply a class with some fields, a tenant, a destination and listeners, and wait for their documents."""
    documents = [install.klass(**klass), installs.tenant(namespace), installs.destination(namespace)]
    for document in [*documents, *(installs.listener(install, namespace, name) for name in names)]:
        await install.server.apply(document)
    await wait_live(install, namespace, *names)


async def live(install: installs.Install, namespace: str) -> set[str]:
    """Return the names in a namespace whose documents are in force, also those of other installs."""
    secrets = await install.documents()
    owners = {owner for owner, secret in secrets.items() if "tombstone" not in content(secret)}
    return {owner.rpartition("/")[2] for owner in owners if f" {namespace}/" in owner}


async def versions(install: installs.Install, namespace: str) -> dict[str, str]:
    """Return the versions of the documents of one namespace, because other tests may be deleting theirs."""
    versions_by_owner = {
        owner: secret["metadata"]["resourceVersion"] for owner, secret in (await install.documents()).items()
    }
    return {owner: version for owner, version in versions_by_owner.items() if f" {namespace}/" in owner}


async def wait_live(install: installs.Install, namespace: str, *listeners: str) -> None:
    """Wait until exactly these listeners of a namespace, and its Destination, have documents in force."""
    await waiting.until(lambda: live(install, namespace), lambda names: names == {"crm", *listeners})


def content(secret: dict[str, Any]) -> dict[str, Any]:
    """Return what a config Secret holds: a document or a tombstone in its envelope."""
    envelope: dict[str, Any] = json.loads(base64.b64decode(secret["data"]["config.json"]))
    return envelope
