"""The Secret ``<listener>-url`` beside a Listener: its whole URLs, which are credentials (design §7)."""

import base64
from typing import Any

from usher_gateway import documents, resources
from usher_gateway.resources import hostnames
from usher_operator.children import identity
from usher_operator.view import CachedResource, DesiredChild, Key

CLASS_ADDRESS = "class"
"""Name of the address of a listener without ``addresses``: it is at the class's hostname."""


def build(
    seen: CachedResource[resources.Listener], found: dict[str, documents.Address], controller_name: str
) -> DesiredChild:
    """The Secret: ``url`` (the first one), and each URL as ``<address>.url``."""
    meta = seen.resource.metadata
    key = Key("Listener", meta.namespace, meta.name)
    urls = [address.url for address in found.values()]
    data = {"url": urls[0], **{f"{name}.url": url for name, url in zip(found, urls, strict=True)}}
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"{meta.name}-url",
            "namespace": meta.namespace,
            "labels": identity.labels(controller_name, seen.uid),
            "annotations": identity.annotations(key),
            "ownerReferences": [
                {
                    "apiVersion": seen.resource.api_version,
                    "kind": "Listener",
                    "name": meta.name,
                    "uid": seen.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "type": "Opaque",
        "data": {name: base64.b64encode(url.encode()).decode("ascii") for name, url in data.items()},
    }
    return identity.finish(manifest)


def named_addresses(
    one: resources.Listener, document: documents.Listener, install_key: bytes
) -> dict[str, documents.Address]:
    """Which address of a document a person pastes into the portal, for each declared one that was granted.

    Old tokens that are still accepted are left out.
    """
    token = hostnames.tokens_of(one, install_key).paths[0][0]
    if not one.spec.addresses:
        return {CLASS_ADDRESS: document.addresses[0]}
    known = {(address.host, address.path, address.query): address for address in document.addresses}
    found = {}
    for declared in one.spec.addresses:
        query = tuple((pair.name, pair.value) for pair in declared.query or ())
        address = known.get((declared.hostname, declared.path or token, query))
        if address is not None:
            found[declared.name] = address
    return found
