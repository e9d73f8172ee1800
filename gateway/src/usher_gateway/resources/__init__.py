"""The custom resources, typed; loading them from YAML; compiling them into documents. Pure: no client, no I/O.

Use as ``from usher_gateway import resources`` and ``resources.Listener``; ``from usher_gateway.resources import load``.
"""

from usher_gateway.resources.destination import Destination
from usher_gateway.resources.listener import Listener
from usher_gateway.resources.listener_class import ListenerClass
from usher_gateway.resources.secret import Secret
from usher_gateway.resources.tenant import Tenant
from usher_gateway.resources.types import Metadata

Resource = ListenerClass | Tenant | Listener | Destination | Secret
"""Any object that Usher reads."""

KINDS: dict[tuple[str, str], type[Resource]] = {
    ("usher.dev/v1alpha1", "ListenerClass"): ListenerClass,
    ("usher.dev/v1alpha1", "Tenant"): Tenant,
    ("usher.dev/v1alpha1", "Listener"): Listener,
    ("usher.dev/v1alpha1", "Destination"): Destination,
    ("v1", "Secret"): Secret,
}
"""(apiVersion, kind) -> type."""


__all__ = [
    "KINDS",
    "Destination",
    "Listener",
    "ListenerClass",
    "Metadata",
    "Resource",
    "Secret",
    "Tenant",
]
