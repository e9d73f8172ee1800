"""The config Secret of a document: what gateways read (design §6)."""

from typing import Any

from usher_gateway import config_secret
from usher_operator.children import identity
from usher_operator.view import DesiredChild, Install, Key


def build(envelope: config_secret.Envelope, install: Install) -> DesiredChild:
    """The Secret that holds a document.

    Raises:
        DocumentTooLargeError: no Secret holds it.
    """
    owner = envelope.owner
    key = Key(envelope.kind, owner.namespace, owner.name)
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": config_secret.secret_name(envelope.kind, owner.key),
            "namespace": install.config_namespace,
            "labels": config_secret.labels(install.controller_name, owner.uid),
            "annotations": identity.annotations(key),
        },
        "type": config_secret.secret_type(envelope.kind),
        "data": config_secret.secret_data(envelope),
    }
    return identity.finish(manifest)
