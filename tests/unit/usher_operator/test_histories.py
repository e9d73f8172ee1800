"""After any history of edits, planning every Listener once more changes nothing: no change was missed."""

import random
from typing import Any

import pytest

from support import cache_samples
from usher_gateway import config_secret, model
from usher_operator import children, kinds
from usher_operator.cache import Cache
from usher_operator.settings import OperatorSettings
from usher_operator.view import Key, Plan

KEYS = model.derive_keys(bytes(range(32)))
NAMESPACES = ["red", "blue"]
NAMES = ["l0", "l1", "l2"]
HOSTS = ["x.example.org", "y.example.org"]
LISTENERS = [Key("Listener", namespace, name) for namespace in NAMESPACES for name in NAMES]


class History:
    """A cache, its queue, and what the operator would write for each plan."""

    def __init__(self, seed: int, **maximums: int) -> None:
        self.random = random.Random(seed)
        self.cache = Cache(OperatorSettings(), clock=lambda: 1_000_000)
        self.cache.set_keys(KEYS)
        self.cache.set_secret_access("", "Permitted")
        self.cache.set_gateways(())
        self.queue: set[Key] = set()
        self.version = 0
        spec = {
            "controllerName": "usher.dev/usher",
            "hostname": "hooks.example.com",
            "allowedHostnames": [{"hostname": "*.example.org"}],
            "retiredAddressDays": self.random.choice([0, 7]),
            "maximums": maximums,
        }
        self.put(kinds.LISTENER_CLASS, "", "public", spec)

    def put(self, kind: kinds.WatchedKind, namespace: str, name: str, spec: dict[str, Any]) -> None:
        """Create a resource, or edit it."""
        self.version += 1
        existing = self.cache.records.get(Key(kind.name, namespace, name))  # type: ignore[arg-type]
        about = {
            "name": name,
            **({"namespace": namespace} if namespace else {}),
            "uid": existing.uid if existing else f"uid-{self.version}",
            "generation": existing.generation + 1 if existing else 1,
            "resourceVersion": str(self.version),
            "creationTimestamp": f"2026-01-01T00:{self.version // 60:02}:{self.version % 60:02}Z",
        }
        if existing and hasattr(existing.parsed, "created"):
            about["creationTimestamp"] = existing.parsed.created
        raw = {"apiVersion": "usher.dev/v1alpha1", "kind": kind.name, "metadata": about, "spec": spec}
        self.queue |= self.cache.put(kind, raw)

    def change(self) -> None:
        """Make one random change."""
        chance, namespace = self.random.random(), self.random.choice(NAMESPACES)
        if chance < 0.5:
            self.put(kinds.LISTENER, namespace, self.random.choice(NAMES), self.listener())
        elif chance < 0.65:
            self.queue |= self.cache.remove(kinds.LISTENER, namespace, self.random.choice(NAMES))
        elif chance < 0.8:
            tenant = self.random.choice(["t1", "t2"])
            if self.cache.tenant(f"{namespace}/{tenant}") is None:
                self.put(kinds.TENANT, namespace, tenant, {})
            elif self.random.random() < 0.3:
                self.queue |= self.cache.remove(kinds.TENANT, namespace, tenant)
        else:
            for child in [
                child_record for child_record in self.cache.child_index.by_ref.values() if child_record.tombstone
            ]:
                ref = child.state.ref
                self.queue |= self.cache.remove(kinds.SECRET, ref.namespace, ref.name)

    def change_certificate(self) -> None:
        """Write the Certificate of a hostname that counts for a namespace, or delete it."""
        self.version += 1
        counts_for = self.random.choice(NAMESPACES)
        raw = cache_samples.certificate(self.random.choice(HOSTS), counts_for, resourceVersion=str(self.version))
        if self.random.random() < 0.5:
            self.queue |= self.cache.put(kinds.CERTIFICATE, raw)
        else:
            self.queue |= self.cache.remove(kinds.CERTIFICATE, "usher-system", raw["metadata"]["name"])

    def listener(self) -> dict[str, Any]:
        """Return a random spec."""
        spec: dict[str, Any] = {
            "tenantRef": {"name": self.random.choice(["t1", "t1", "t2"])},
            "authentication": {"type": "None"},
        }
        addresses = [{"name": "a", "hostname": self.random.choice(HOSTS)}, {"name": "b", "hostname": HOSTS[0]}]
        if self.random.random() < 0.7:
            spec["addresses"] = addresses[: self.random.choice([1, 1, 2])]
            for address in spec["addresses"]:
                address.update(self.random.choice([{}, {"path": "/p"}, {"path": f"/{address['name']}"}]))
        return spec

    def settle(self) -> None:
        """Plan what is queued, in random order, until nothing is."""
        for _ in range(3000):
            if not self.queue:
                return
            key = self.random.choice(sorted(self.queue))
            self.queue.discard(key)
            if key.kind == "Listener":
                self.write(key)
        pytest.fail("the history does not settle")

    def desired_plan(self, key: Key) -> Plan:
        """Return the plan of a Listener that may retire every address."""
        planned = self.cache.plan(key)
        self.cache.allow_retirement(key, frozenset(planned.retiring.addresses if planned.retiring else ()))
        planned = self.cache.plan(key)
        self.cache.allow_retirement(key, frozenset())
        return planned

    def config(self, planned: Plan) -> dict[str, Any] | None:
        """Return the config Secret that a plan wants."""
        config_secrets = [child.manifest for child in planned.children or () if child.ref.namespace == "usher-config"]
        return config_secrets[0] if config_secrets else None

    def write(self, key: Key) -> None:
        """Do what the operator does for a plan of a Listener."""
        planned, existing = self.desired_plan(key), self.cache.child_index.config_of(key)
        manifest = self.config(planned)
        if manifest is None and existing is not None and not existing.tombstone and planned.children is not None:
            install = config_secret.install_label("usher.dev/usher")
            owner = config_secret.Owner(key.namespace, key.name, existing.owner_uid, install)
            envelope = config_secret.tombstone_of(
                "Listener", owner, existing.owner_generation, "2026-01-01T00:00:00Z", KEYS.document, held=existing.held
            )
            manifest = children.build_tombstone(envelope, existing.state.ref, self.cache.install).manifest
        if manifest is not None and (existing is None or existing.digest != kinds.digest_of(manifest)):
            self.version += 1
            uid = existing.uid if existing else f"secret-{self.version}"
            metadata = {**manifest["metadata"], "uid": uid, "resourceVersion": str(self.version)}
            self.queue |= self.cache.put(kinds.SECRET, {**manifest, "metadata": metadata}) - {key}


def desired(history: History, key: Key) -> str | None:
    """Return the digest of the document that a new plan wants; None for none."""
    manifest = history.config(history.desired_plan(key))
    return kinds.digest_of(manifest) if manifest else None


def published(history: History, key: Key) -> str | None:
    """Return the digest of the document in place; None for none."""
    child = history.cache.child_index.config_of(key)
    return child.digest if child is not None and not child.tombstone else None


@pytest.mark.parametrize("seed", [*range(40), 253])
def test_no_plan_differs_after_a_random_history(seed: int) -> None:
    history = History(seed)
    for _ in range(40):
        history.change()
        if history.random.random() < 0.7:
            history.settle()
    history.settle()
    assert {key: published(history, key) for key in LISTENERS} == {key: desired(history, key) for key in LISTENERS}


@pytest.mark.parametrize("seed", range(20))
def test_no_plan_differs_after_a_certificate_came_or_went(seed: int) -> None:
    history = History(seed, hostnamesPerNamespace=1)
    for _ in range(40):
        history.change()
        for _ in range(3):
            history.queue.update(LISTENERS)
            history.settle()
        history.change_certificate()
        history.settle()
        assert {key: published(history, key) for key in LISTENERS} == {key: desired(history, key) for key in LISTENERS}
