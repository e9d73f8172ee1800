"""The Certificate of a hostname: cert-manager gets it and keeps it new."""

from typing import Any

from usher_gateway.resources import listener_class
from usher_operator.children import identity, routing
from usher_operator.view import DesiredChild, Install, Key

GROUP = "cert-manager.io"
"""API group of cert-manager."""

API_VERSION = f"{GROUP}/v1"
"""Of every Certificate and issuer."""


def build(hostname: str, secret_name: str, issuer: listener_class.IssuerRef, install: Install) -> DesiredChild:
    """The Certificate. ``secret_name``: where cert-manager puts it."""
    manifest: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Certificate",
        "metadata": {
            "name": routing.object_name(hostname),
            "namespace": install.data_plane_namespace,
            "labels": identity.labels(install.controller_name),
            "annotations": identity.annotations(Key("Hostname", "", hostname)),
        },
        "spec": {
            "secretName": secret_name,
            "dnsNames": [hostname],
            "issuerRef": issuer_reference(issuer),
            # a stolen key is of no use after the next renewal
            "privateKey": {"rotationPolicy": "Always"},
        },
    }
    return identity.finish(manifest)


def issuer_reference(issuer: listener_class.IssuerRef) -> dict[str, str]:
    """A class's issuer with cert-manager's own defaults filled in."""
    return {"group": issuer.group or GROUP, "kind": issuer.kind or "Issuer", "name": issuer.name}
