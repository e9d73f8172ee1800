"""Objects of an agency with one listener, as the API server gives them to the operator's cache."""

from typing import Any

from support.planning import KEYS, Cluster
from usher_gateway import config_secret, documents
from usher_gateway.resources import listener_class
from usher_operator.plan import children
from usher_operator.settings import OperatorSettings
from usher_operator.state import child_labels
from usher_operator.state.values import Key

LOBBY = Key("Listener", "agency", "lobby")
BAR = Key("Listener", "agency", "bar")
CRM = Key("Destination", "agency", "crm")
ACME = Key("Tenant", "agency", "acme")
PUBLIC = Key("ListenerClass", "", "public")

WWW = "www.example.com"
ALLOWED = {"allowedHostnames": [{"hostname": "*.example.com"}]}


def raw(kind: str, name: str, spec: dict[str, Any], *, namespace: str = "agency", **meta: Any) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 1, **meta}
    if namespace:
        about["namespace"] = namespace
    return {"apiVersion": "usher.dev/v1alpha1", "kind": kind, "metadata": about, "spec": spec}


def listener(name: str = "lobby", *hostnames: str, tenant: str = "acme", **meta: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "tenantRef": {"name": tenant},
        "listenerClassName": "public",
        "routes": [{"name": "crm", "destinationRef": {"name": "crm"}}],
    }
    if hostnames:
        spec["addresses"] = [{"name": f"a{index}", "hostname": host} for index, host in enumerate(hostnames)]
    return raw("Listener", name, spec, **meta)


def destination(**meta: Any) -> dict[str, Any]:
    token = {"secretRef": {"name": "token", "key": "token"}}
    http = {"url": "https://crm.example.com", "authentication": {"type": "Bearer", "bearer": token}}
    return raw("Destination", "crm", {"type": "HTTP", "http": http}, **meta)


def klass(**spec: Any) -> dict[str, Any]:
    spec = {"controllerName": "usher.dev/usher", "hostname": "hooks.example.com", **spec}
    return raw("ListenerClass", "public", spec, namespace="")


def secret(name: str = "token", value: str = "YWJj", **labels: str) -> dict[str, Any]:
    labels = labels or {"usher.dev/watch": "true"}
    about = {"name": name, "namespace": "agency", "uid": "uid", "resourceVersion": "1", "labels": labels}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": about, "data": {"token": value}}


def config(
    host: str = "hooks.example.com",
    tenant: str = "acme",
    listener: str = "lobby",
    *,
    path: str = "/v1/token",
    is_class_address: bool = False,
    retired_at: int = 0,
    **meta: Any,
) -> dict[str, Any]:
    address = documents.Address(host, path, retired_at=retired_at, is_class_address=is_class_address)
    document = documents.ListenerDocument(
        "agency", listener, documents.TenantDocument(tenant), (address,), generation=1
    )
    envelope = config_secret.envelope_of(document, f"uid-{listener}", KEYS.document)
    return config_secret_of(envelope, Key("Listener", "agency", listener), **meta)


def certificate(host: str, counts_for: str = "agency", since: str = "", **meta: Any) -> dict[str, Any]:
    settings = OperatorSettings()
    issuer = listener_class.IssuerRef(name="letsencrypt")
    child = children.build_certificate(host, "tls", issuer, settings, counts_for=counts_for)
    if since:
        spec = child.manifest["spec"]
        child = children.build_unused_certificate(host, spec, settings, counts_for=counts_for, since=since)
    about = {"uid": f"uid-{host}", "resourceVersion": "1", **meta}
    return {**child.manifest, "metadata": {**child.manifest["metadata"], **about}}


def tombstone(host: str, owner_uid: str = "uid-lobby") -> dict[str, Any]:
    owner = config_secret.Owner("agency", "lobby", owner_uid)
    held = config_secret.TenantHostnames("acme", (host,))
    removed_at = "2026-11-25T12:00:00Z"
    return config_secret_of(config_secret.tombstone_of("Listener", owner, 1, removed_at, KEYS.document, held=held))


def config_secret_of(envelope: config_secret.Envelope, key: Key = LOBBY, **meta: Any) -> dict[str, Any]:
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "namespace": "usher-config",
            "name": config_secret.secret_name("Listener", key.path),
            "labels": config_secret.labels("usher.dev/usher", envelope.owner.uid),
            "annotations": child_labels.annotations(key),
        },
        "type": config_secret.secret_type("Listener"),
        "data": config_secret.secret_data(envelope),
    }
    finished = dict(children.finish(manifest).manifest)
    finished["metadata"] = {**finished["metadata"], "uid": "uid-config", "resourceVersion": "1", **meta}
    return finished


def aged(number: int, *hostnames: str) -> dict[str, Any]:
    """Return a listener whose number says its age; 0 is the oldest."""
    created = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    return listener(f"l{number}", *hostnames, creationTimestamp=created)


def numbered(number: int) -> Key:
    return Key("Listener", "agency", f"l{number}")


def plan_all(cluster: Cluster) -> None:
    """Plan every key, so that the cache knows what each plan reads."""
    for key in cluster.every_key():
        cluster.plan(key)


def limited(cluster: Cluster, count: int, limit: int = 2, **spec: Any) -> None:
    """Fill a namespace with listeners of one tenant, ``l0`` the oldest, and plan them."""
    cluster.put(klass(maximums={"listenersPerNamespace": limit}, **spec))
    cluster.put(raw("Tenant", "acme", {}))
    for number in range(count):
        cluster.put(aged(number))
    plan_all(cluster)
