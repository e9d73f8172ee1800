"""Random histories of a cluster: the cache names every key whose plan a change alters."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from support import plan_samples
from support.planning import Cluster
from usher_gateway.config_secret import TenantHostnames
from usher_operator import plan
from usher_operator.state.child_labels import COUNTS_FOR_ANNOTATION
from usher_operator.state.values import ClusterFeatures, GatewayReport, Key, ObjectRef, Plan, WriteFailure

NAMESPACES = ["red", "blue"]
HOSTS = ["x.example.org", "y.example.org", "hooks.example.com"]
INGRESS = {"type": "Ingress", "scope": "Path", "ingress": {"className": "nginx"}}
PER_HOSTNAME = {"mode": "PerHostname", "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}}


class History:
    """Random changes of everything that a plan may read."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cluster = Cluster(removes_at_once=False)
        self.cluster.set_features(plan_samples.FEATURES)
        self.put("ListenerClass", "", "public", self.listener_class())

    def change(self) -> None:
        changes: list[tuple[int, Callable[[], None]]] = [
            (12, self.change_listener),
            (5, self.change_tenant),
            (3, self.change_destination),
            (3, self.change_secret),
            (3, self.change_namespace),
            (2, self.change_class),
            (2, self.change_route),
            (1, self.change_features),
            (1, self.change_gateways),
            (1, self.change_write_failure),
            (2, self.change_status),
            (4, self.lose_child),
            (2, self.change_certificate),
            (2, self.cluster.end_removals),
        ]
        weights = [weight for weight, _ in changes]
        (make,) = self.random.choices([make for _, make in changes], weights)
        make()

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def put(self, kind: str, namespace: str, name: str, spec: dict[str, Any]) -> None:
        """Create a resource, or edit it."""
        key = Key(kind, namespace, name)  # type: ignore[arg-type]
        metadata: dict[str, Any] = {"name": name, **({"namespace": namespace} if namespace else {})}
        if self.cluster.has(kind, key.path):
            raw = self.cluster.raw(kind, key.path)
            metadata = {**raw["metadata"], "generation": raw["metadata"]["generation"] + 1}
            status = {"status": raw.get("status", {})}
        else:
            metadata["creationTimestamp"] = f"2026-01-{self.random.randint(1, 9):02}T00:00:00Z"
            metadata["uid"] = f"uid-{self.random.random()}"
            status = {}
        self.cluster.put(
            {"apiVersion": "usher.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec, **status}
        )

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.cluster.delete(kind, f"{namespace}/{name}" if namespace else name)

    def change_listener(self) -> None:
        namespace, name = self.random.choice(NAMESPACES), self.random.choice(["l0", "l1", "l2"])
        if self.chance(0.25):
            self.delete("Listener", namespace, name)
            return
        spec: dict[str, Any] = {
            "tenantRef": {"name": self.random.choice(["t1", "t1", "t2"])},
            "authentication": self.random.choice(
                [{"type": "None"}, {"type": "Basic", "basic": {"secretRef": {"name": "s1"}}}]
            ),
            "routes": [{"name": "crm", "destinationRef": {"name": self.random.choice(["d1", "d2"])}}],
        }
        if self.chance(0.15):
            spec["listenerClassName"] = "other"
        if self.chance(0.7):
            hosts = self.random.sample(HOSTS, self.random.choice([1, 1, 2]))
            spec["addresses"] = [{"name": f"a{number}", "hostname": host} for number, host in enumerate(hosts)]
            for address in spec["addresses"]:
                address.update(self.random.choice([{}, {"path": "/p"}, {"path": f"/{address['name']}"}]))
        self.put("Listener", namespace, name, spec)

    def change_tenant(self) -> None:
        namespace, name = self.random.choice(NAMESPACES), self.random.choice(["t1", "t2"])
        if self.chance(0.3):
            self.delete("Tenant", namespace, name)
        else:
            company = {"companyID": self.random.choice(["1", "2"])} if self.chance(0.5) else {}
            self.put("Tenant", namespace, name, {"state": self.random.choice(["Active", "Suspended"]), **company})

    def change_destination(self) -> None:
        namespace, name = self.random.choice(NAMESPACES), self.random.choice(["d1", "d2"])
        if self.chance(0.3):
            self.delete("Destination", namespace, name)
            return
        spec: dict[str, Any] = {"type": "HTTP", "http": {"url": f"https://crm.example/{self.random.randint(1, 3)}"}}
        if self.chance(0.5):
            token = {"secretRef": {"name": "s1", "key": self.random.choice(["username", "token"])}}
            spec["http"]["authentication"] = {"type": "Bearer", "bearer": token}
        if self.chance(0.5):
            spec["tenantRef"] = {"name": self.random.choice(["t1", "t2"])}
        self.put("Destination", namespace, name, spec)

    def change_secret(self) -> None:
        namespace, name = self.random.choice(NAMESPACES), self.random.choice(["s1", "l0-url"])
        if self.chance(0.3):
            self.delete("Secret", namespace, name)
        else:
            labels = {"usher.dev/watch": "true"} if self.chance(0.7) else {}
            value = self.random.choice(["cHc=", "bmV3"])
            about = {"name": name, "namespace": namespace, "labels": labels}
            data = {"username": value, "password": value, "token": value}
            self.cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": about, "data": data})

    def change_namespace(self) -> None:
        namespace = self.random.choice(NAMESPACES)
        if self.chance(0.3):
            self.cluster.set_access(namespace, self.random.choice(["Permitted", "Permitted", "Denied", "Unknown"]))
        else:
            labels = {"plan": self.random.choice(["free", "paid"])}
            metadata = {"name": namespace, "labels": labels}
            self.cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def listener_class(self) -> dict[str, Any]:
        paid = {"from": "Selector", "selector": {"matchLabels": {"plan": "paid"}}}
        spec: dict[str, Any] = {
            "controllerName": "usher.dev/usher",
            "hostname": self.random.choice(["hooks.example.com", "hooks.example.com", "new.example.com"]),
            "allowedHostnames": [{"hostname": "*.example.org", **({"namespaces": paid} if self.chance(0.3) else {})}],
            "retiredAddressDays": self.random.choice([0, 7]),
            "exposure": self.random.choice([{"type": "None"}, INGRESS, INGRESS]),
            "tls": self.random.choice(
                [PER_HOSTNAME, PER_HOSTNAME, {"mode": "External"}, {"mode": "Provided", "secretName": "tls"}]
            ),
        }
        if self.chance(0.6):
            limit = self.random.randint(1, 2)
            spec["maximums"] = {"listenersPerNamespace": limit, "hostnamesPerNamespace": limit}
        return spec

    def change_class(self) -> None:
        if self.chance(0.5):
            self.put("ListenerClass", "", "public", self.listener_class())
        elif self.chance(0.4):
            self.delete("ListenerClass", "", self.random.choice(["public", "other"]))
        else:
            controller = self.random.choice(["usher.dev/usher", "example.com/other"])
            self.put("ListenerClass", "", "other", {**self.listener_class(), "controllerName": controller})

    def change_route(self) -> None:
        address = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
        self.cluster.controllers_say("Ingress", self.random.choice([address, {}]))

    def change_features(self) -> None:
        self.cluster.set_features(
            ClusterFeatures(
                cert_manager=self.chance(0.7),
                ingress_classes={"nginx": "k8s.io/ingress-nginx"} if self.chance(0.7) else {},
                issuers=frozenset({("ClusterIssuer", "letsencrypt")}) if self.chance(0.7) else frozenset(),
            )
        )

    def change_gateways(self) -> None:
        holder = Key("Listener", self.random.choice(NAMESPACES), "lost")
        vanished = {holder: TenantHostnames("t1", (self.random.choice(HOSTS),))} if self.chance(0.5) else {}
        self.cluster.set_gateways(GatewayReport(name="gateway-0", vanished=vanished))

    def change_write_failure(self) -> None:
        failure = WriteFailure("apply: 403", cause="Forbidden") if self.chance(0.5) else None
        self.cluster.fail_writes(Key("Hostname", "", self.random.choice(HOSTS)), failure)

    def change_status(self) -> None:
        """Edit a stored status, as somebody else than the operator."""
        path = f"{self.random.choice(NAMESPACES)}/{self.random.choice(['l0', 'l1', 'l2'])}"
        if self.cluster.has("Listener", path):
            hosts = self.random.sample(HOSTS, self.random.randint(0, 2))
            shown = [{"name": "a0", "hostname": host, "url": "https://…"} for host in hosts]
            field = self.random.choice(["addresses", "conditions"])
            self.cluster.edit_status("Listener", path, **{field: shown if field == "addresses" else []})

    def children(self, *child_kinds: str) -> list[ObjectRef]:
        refs = self.cluster.cache.child_index.by_ref
        return sorted(ref for ref in refs if not child_kinds or ref.kind in child_kinds)

    def lose_child(self) -> None:
        """Delete a child, or all config Secrets, as somebody else than the operator."""
        children = self.children(*self.random.choice([["Secret"], ["Certificate"], []]))
        for ref in children if self.chance(0.3) else self.random.sample(children, min(1, len(children))):
            self.cluster.delete(ref.kind, f"{ref.namespace}/{ref.name}")

    def change_certificate(self) -> None:
        """Let a Certificate count for another namespace, or for none."""
        for ref in self.children("Certificate")[:1]:
            metadata = self.cluster.raw("Certificate", f"{ref.namespace}/{ref.name}")["metadata"]
            metadata["annotations"][COUNTS_FOR_ANNOTATION] = self.random.choice(["", *NAMESPACES])
            self.cluster.edit_metadata("Certificate", f"{ref.namespace}/{ref.name}", **metadata)

    def plans(self) -> dict[Key, Plan]:
        """The present plan of every key whose last plan is in force.

        Where no child exists, a plan that keeps all children is the same as one that wants none.
        """
        cache = self.cluster.cache
        plans = {key: plan.plan(cache, key) for key in cache.all_keys() - self.cluster.queue}
        for key, planned in plans.items():
            if planned.children is None and not cache.children(key):
                plans[key] = msgspec.structs.replace(planned, children=())
        return plans

    def settle(self) -> None:
        """Plan and apply what is queued, in random order, until nothing is."""
        for _ in range(3000):
            if not self.cluster.queue:
                return
            key = self.random.choice(sorted(self.cluster.queue))
            self.cluster.apply(self.cluster.plan(key))
        pytest.fail("the history does not settle")


@pytest.mark.parametrize("seed", range(12))
def test_change_names_every_key_whose_plan_differs(seed: int) -> None:
    history = History(seed)
    for _ in range(40):
        history.settle()
        former = history.plans()
        history.change()
        present = history.plans()
        assert {key: former.get(key) for key in present} == present


@pytest.mark.parametrize("seed", range(8))
def test_settled_cluster_has_what_new_plans_want(seed: int) -> None:
    history = History(seed)
    for _ in range(60):
        history.change()
        if history.chance(0.5):
            history.settle()
    history.settle()
    assert [key for key in history.cluster.every_key() if history.cluster.apply(history.cluster.plan(key))] == []


def test_hostname_without_children_follows_the_class_of_its_listener() -> None:
    cluster, hostname = plan_samples.agency(), Key("Hostname", "", "www.example.org")
    spec = {**cluster.raw("ListenerClass", "public")["spec"], "hostname": "other.example.com", "exposure": INGRESS}
    cluster.put(
        {"apiVersion": "usher.dev/v1alpha1", "kind": "ListenerClass", "metadata": {"name": "other"}, "spec": spec}
    )
    cluster.edit("Listener", plan_samples.LISTENER, addresses=[{"name": "a", "hostname": "www.example.org"}])
    cluster.settle()
    assert cluster.plan(hostname).children == ()
    cluster.edit("Listener", plan_samples.LISTENER, listenerClassName="other")
    assert hostname in cluster.queue
    assert cluster.plan(hostname).children
