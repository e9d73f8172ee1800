"""Every kind of object that the operator watches: where the API server has it, and which of it is of interest."""

from typing import Literal

import msgspec

from usher_gateway import resources
from usher_gateway.resources import types
from usher_operator import children

FIELD_MANAGER = "usher-operator"
"""Owner of the fields that the operator writes."""

Feature = Literal["", "gateway_api", "cert_manager"]


class Watched(msgspec.Struct, frozen=True):
    """One kind of object."""

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True
    selector: str = ""
    """Label selector; empty: all."""
    feature: Feature = ""
    """The optional API that it is part of."""

    @property
    def api_version(self) -> str:
        """As in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Path of the group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def collection(self, namespace: str = "") -> str:
        """Path of all objects, or of those in a namespace."""
        where = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.root}{where}/{self.plural}"

    def path(self, namespace: str, name: str) -> str:
        """Path of one object."""
        return f"{self.collection(namespace if self.namespaced else '')}/{name}"


_GROUP, _VERSION = types.API_VERSION.split("/")

LISTENER_CLASS = Watched("ListenerClass", _GROUP, _VERSION, "listenerclasses", namespaced=False)
"""How listeners are exposed."""
TENANT = Watched("Tenant", _GROUP, _VERSION, "tenants")
"""A company."""
LISTENER = Watched("Listener", _GROUP, _VERSION, "listeners")
"""A webhook."""
DESTINATION = Watched("Destination", _GROUP, _VERSION, "destinations")
"""A receiving system."""
CREDENTIAL = Watched("Credential", "", "v1", "secrets", selector=f"{types.WATCH_LABEL}=true")
"""A Secret that resources may refer to."""
NAMESPACE = Watched("Namespace", "", "v1", "namespaces", namespaced=False)
"""Only its labels are of interest."""
SECRET = Watched("Secret", "", "v1", "secrets", selector=children.CHILD_SELECTOR)
"""A Secret that the operator made."""
INGRESS = Watched("Ingress", "networking.k8s.io", "v1", "ingresses", selector=children.CHILD_SELECTOR)
"""A route that the operator made."""
INGRESS_CLASS = Watched("IngressClass", "networking.k8s.io", "v1", "ingressclasses", namespaced=False)
"""Which Ingress controllers there are."""
HTTP_ROUTE = Watched(
    "HTTPRoute",
    "gateway.networking.k8s.io",
    "v1",
    "httproutes",
    selector=children.CHILD_SELECTOR,
    feature="gateway_api",
)
"""A route of the Gateway API that the operator made."""
CERTIFICATE = Watched(
    "Certificate", "cert-manager.io", "v1", "certificates", selector=children.CHILD_SELECTOR, feature="cert_manager"
)
"""A certificate of cert-manager that the operator asked for."""
ISSUER = Watched("Issuer", "cert-manager.io", "v1", "issuers", feature="cert_manager")
"""Who issues certificates in the data plane's namespace."""
CLUSTER_ISSUER = Watched(
    "ClusterIssuer", "cert-manager.io", "v1", "clusterissuers", namespaced=False, feature="cert_manager"
)
"""Who issues certificates everywhere."""

OWN = (LISTENER_CLASS, TENANT, LISTENER, DESTINATION)
"""The custom resources."""

CHILDREN = (SECRET, INGRESS, HTTP_ROUTE, CERTIFICATE)
"""What the operator makes. It watches that itself: kopf takes a millisecond of the CPU for each echo of a write."""

DECLARED = (NAMESPACE, INGRESS_CLASS, ISSUER, CLUSTER_ISSUER, CREDENTIAL, *OWN)
"""What others make. Kopf watches it."""

ALL = (*CHILDREN, *DECLARED)
"""Everything that is read and watched."""

BY_NAME = {one.name: one for one in ALL}
"""Kind -> where the API server has it."""

RESOURCES: dict[str, type[resources.Resource]] = {kind: found for (_, kind), found in resources.KINDS.items()}
"""Kind -> type of a resource."""
