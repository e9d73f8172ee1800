"""The kinds of objects that the operator watches: their paths at the API server, and which objects it needs."""

from typing import Literal

import msgspec

from usher_gateway import resources
from usher_gateway.resources import types
from usher_operator import children

FIELD_MANAGER = "usher-operator"
"""Owner of the fields that the operator writes."""

Feature = Literal["", "gateway_api", "cert_manager"]


class WatchedKind(msgspec.Struct, frozen=True):
    """One kind of object."""

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True
    selector: str = ""
    """Label selector; empty: all."""
    feature: Feature = ""
    """The optional API that the kind belongs to; `""`: every cluster has the kind."""

    @property
    def api_version(self) -> str:
        """`apiVersion` of a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Path of the API group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def collection(self, namespace: str = "") -> str:
        """Path of all objects, or of the objects in one namespace."""
        where = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.root}{where}/{self.plural}"

    def path(self, namespace: str, name: str) -> str:
        """Path of one object."""
        return f"{self.collection(namespace if self.namespaced else '')}/{name}"


_GROUP, _VERSION = types.API_VERSION.split("/")

LISTENER_CLASS = WatchedKind("ListenerClass", _GROUP, _VERSION, "listenerclasses", namespaced=False)
"""How listeners are exposed."""
TENANT = WatchedKind("Tenant", _GROUP, _VERSION, "tenants")
"""A company."""
LISTENER = WatchedKind("Listener", _GROUP, _VERSION, "listeners")
"""A webhook."""
DESTINATION = WatchedKind("Destination", _GROUP, _VERSION, "destinations")
"""A receiving system."""
CREDENTIAL = WatchedKind("Credential", "", "v1", "secrets", selector=f"{types.WATCH_LABEL}=true")
"""A Secret that resources may reference."""
NAMESPACE = WatchedKind("Namespace", "", "v1", "namespaces", namespaced=False)
"""The operator reads only the labels."""
SECRET = WatchedKind("Secret", "", "v1", "secrets", selector=children.CHILD_SELECTOR)
"""A Secret that the operator wrote."""
INGRESS = WatchedKind("Ingress", "networking.k8s.io", "v1", "ingresses", selector=children.CHILD_SELECTOR)
"""An Ingress that the operator wrote."""
INGRESS_CLASS = WatchedKind("IngressClass", "networking.k8s.io", "v1", "ingressclasses", namespaced=False)
"""Names the Ingress controllers of the cluster."""
HTTP_ROUTE = WatchedKind(
    "HTTPRoute",
    "gateway.networking.k8s.io",
    "v1",
    "httproutes",
    selector=children.CHILD_SELECTOR,
    feature="gateway_api",
)
"""A route of the Gateway API that the operator wrote."""
CERTIFICATE = WatchedKind(
    "Certificate", "cert-manager.io", "v1", "certificates", selector=children.CHILD_SELECTOR, feature="cert_manager"
)
"""A certificate that the operator requested from cert-manager."""
ISSUER = WatchedKind("Issuer", "cert-manager.io", "v1", "issuers", feature="cert_manager")
"""Issues certificates in the namespace of the data plane."""
CLUSTER_ISSUER = WatchedKind(
    "ClusterIssuer", "cert-manager.io", "v1", "clusterissuers", namespaced=False, feature="cert_manager"
)
"""Issues certificates in every namespace."""

OWN = (LISTENER_CLASS, TENANT, LISTENER, DESTINATION)
"""The custom resources."""

CHILDREN = (SECRET, INGRESS, HTTP_ROUTE, CERTIFICATE)
"""Objects that the operator writes. It watches them itself, because kopf needs 1 ms of CPU per event."""

WATCHED_BY_KOPF = (NAMESPACE, INGRESS_CLASS, ISSUER, CLUSTER_ISSUER, CREDENTIAL, *OWN)
"""Objects that other programs and people write. Kopf watches them."""

ALL = (*CHILDREN, *WATCHED_BY_KOPF)
"""All kinds that the operator reads and watches."""

BY_NAME = {one.name: one for one in ALL}
"""Name of a kind -> the kind."""

RESOURCES: dict[str, type[resources.Resource]] = {kind: found for (_, kind), found in resources.KINDS.items()}
"""Name of a kind -> the type of its resources."""
