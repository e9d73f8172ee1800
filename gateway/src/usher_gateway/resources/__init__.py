"""The custom resources as types, their manifests, and the compiler that makes documents from them. Pure: no I/O.

- ``types.py`` holds the types and rules that all kinds share. Each kind has one module, with its type and defaults, and
  with the checks and the part of a document that depend on this kind alone.
- ``manifests.py`` and ``yaml_reader.py`` read YAML into resources, with every problem and its line.
- ``compiler.py`` makes documents and conditions from resources; ``hostnames.py`` decides who gets which address.
"""

from usher_gateway.resources.destination import Destination
from usher_gateway.resources.listener import Listener
from usher_gateway.resources.listener_class import ListenerClass
from usher_gateway.resources.secret import Secret
from usher_gateway.resources.tenant import Tenant
from usher_gateway.resources.types import Metadata

Resource = ListenerClass | Tenant | Listener | Destination | Secret  # Any object that Usher reads

# (apiVersion, kind) -> type.
KINDS: dict[tuple[str, str], type[Resource]] = {
    ("usher.dev/v1alpha1", "ListenerClass"): ListenerClass,
    ("usher.dev/v1alpha1", "Tenant"): Tenant,
    ("usher.dev/v1alpha1", "Listener"): Listener,
    ("usher.dev/v1alpha1", "Destination"): Destination,
    ("v1", "Secret"): Secret,
}
