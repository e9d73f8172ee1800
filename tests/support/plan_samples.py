"""A small agency without any problem. Each test changes it to cause one."""

import functools

from support.planning import Cluster
from usher_operator.state.values import ClusterFeatures

OBJECTS = """
apiVersion: usher.dev/v1alpha1
kind: ListenerClass
metadata: {name: public}
spec:
  controllerName: usher.dev/usher
  hostname: hooks.example.com
  allowedHostnames: [{hostname: "*.example.org"}]
  exposure: {type: None}
  tls: {mode: External}
---
apiVersion: v1
kind: Secret
metadata: {name: purple, labels: {usher.dev/watch: "true"}}
data: {username: cHVycGxl, password: cHc=, token: dG9r}
---
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: crm}
spec: {type: HTTP, http: {url: https://crm.example/}}
---
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {name: lobby}
spec:
  tenantRef: {name: acme}
  routes: [{name: crm, destinationRef: {name: crm}}]
"""
FEATURES = ClusterFeatures(
    gateway_api=True,
    cert_manager=True,
    ingress_classes={"nginx": "k8s.io/ingress-nginx"},
    issuers=frozenset({("ClusterIssuer", "letsencrypt")}),
)
LISTENER = "default/lobby"
DESTINATION = "default/crm"
INGRESS = {"type": "Ingress", "ingress": {"className": "nginx"}}
HTTP_ROUTE = {"type": "HTTPRoute", "httpRoute": {"parentRef": {"namespace": "infra", "name": "edge"}}}
PER_HOSTNAME = {"mode": "PerHostname", "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}}


def agency() -> Cluster:
    """Return an agency whose plans are applied and that one gateway runs."""
    cluster = _agency().restarted()
    cluster.gateways_run_it()
    return cluster


@functools.cache
def _agency() -> Cluster:
    cluster = Cluster()
    cluster.add(OBJECTS)
    cluster.set_features(FEATURES)
    cluster.settle()
    cluster.gateways_run_it()
    cluster.settle()
    return cluster


def listener(
    name: str, spec: str = "", *, namespace: str = "default", tenant: str = "acme", created: str = "02"
) -> str:
    """Return the manifest of another listener."""
    return f"""
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "2026-01-{created}T00:00:00Z"}}
spec:
  tenantRef: {{name: {tenant}}}
  {spec}
"""


def tenant(name: str, namespace: str = "default") -> str:
    """Return the manifest of another tenant."""
    return f"""
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {{name: {name}, namespace: {namespace}}}
"""


def listener_class(name: str, controller: str, hostname: str, *, created: str = "02") -> str:
    """Return the manifest of a ListenerClass of an install, which permits every namespace."""
    return f"""
apiVersion: usher.dev/v1alpha1
kind: ListenerClass
metadata: {{name: {name}, creationTimestamp: "2026-01-{created}T00:00:00Z"}}
spec: {{controllerName: {controller}, hostname: {hostname}}}
"""
