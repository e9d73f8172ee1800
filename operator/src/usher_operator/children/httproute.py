"""The HTTPRoute of a hostname."""

from typing import Any

from usher_gateway.resources import listener_class
from usher_operator.children import identity, routing
from usher_operator.view import DesiredChild, Install, Key

GROUP = "gateway.networking.k8s.io"
"""API group of the Gateway API."""

API_VERSION = f"{GROUP}/v1"
"""Of every HTTPRoute and Gateway."""


def build(part: routing.Part, parent: listener_class.ParentRef, install: Install) -> DesiredChild:
    """The HTTPRoute; its Gateway terminates TLS."""
    key = Key("Hostname", "", part.hostname)
    paths = [("PathPrefix", "/")] if part.paths is None else [("Exact", path) for path in part.paths]
    manifest: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "HTTPRoute",
        "metadata": {
            "name": part.name,
            "namespace": install.data_plane_namespace,
            "labels": identity.labels(install.controller_name),
            "annotations": identity.annotations(key),
        },
        "spec": {
            "parentRefs": [parent_reference(parent)],
            "hostnames": [part.hostname],
            "rules": [
                {
                    "matches": [{"path": {"type": type_, "value": path}} for type_, path in paths],
                    "backendRefs": [
                        {
                            "group": "",
                            "kind": "Service",
                            "name": install.service_name,
                            "port": install.service_port,
                            "weight": 1,
                        }
                    ],
                }
            ],
        },
    }
    return identity.finish(manifest)


def parent_reference(parent: listener_class.ParentRef) -> dict[str, str]:
    """The Gateway that a class's routes attach to, with every default written out: controllers repeat it so."""
    found = {"group": GROUP, "kind": "Gateway", "namespace": parent.namespace, "name": parent.name}
    return {**found, "sectionName": parent.section_name} if parent.section_name else found
