"""The work of the cache does not grow with the size of the cluster.

Each scenario counts what its calls cost in a small and a large one.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest

from support import work
from support.cache_samples import (
    ACME,
    ALLOWED,
    LOBBY,
    WWW,
    aged,
    certificate,
    config,
    klass,
    limited,
    listener,
    numbered,
    plan_all,
    raw,
)
from support.planning import Cluster
from usher_operator.plan import plan_and_note
from usher_operator.state.values import Key, hostname_key

pytestmark = pytest.mark.long

Calls = dict[str, Callable[[], object]]


def cost(call: Callable[[], object]) -> int:
    """Count instructions. Each key that the call returns costs at least those of a plan more."""
    results: list[object] = []
    instructions = work.instructions(lambda: results.append(call()))
    return instructions + sum(3000 * len(keys) for keys in results if isinstance(keys, frozenset))


def assert_flat(scenario: Callable[[Cluster, int], Calls]) -> None:
    """Compare the costs of the calls of a scenario. Every key was planned, so the cache knows what each plan reads."""
    costs: list[dict[str, int]] = []
    for count in (100, 1000):
        cluster = Cluster()
        cluster.set_gateways()
        calls = scenario(cluster, count)
        plan_all(cluster)
        costs.append({name: cost(call) for name, call in calls.items()})
    small, large = costs
    assert {name: large[name] / small[name] for name in calls if large[name] > 1.3 * small[name]} == {}


def test_work_does_not_grow_with_the_siblings() -> None:
    def scenario(cluster: Cluster, siblings: int) -> Calls:
        cache = cluster.cache
        limited(cluster, siblings, limit=50)
        return {
            "plan a listener": lambda: plan_and_note(cache, numbered(siblings - 1)),
            "plan the tenant": lambda: plan_and_note(cache, ACME),
            "plan the hostname": lambda: plan_and_note(cache, hostname_key("hooks.example.com")),
            "create": lambda: cluster.put(aged(siblings)),
            "delete": lambda: cluster.delete("Listener", "agency/l10"),
        }

    assert_flat(scenario)


def test_work_for_a_certificate_does_not_grow_with_the_hostnames_that_count() -> None:
    def scenario(cluster: Cluster, siblings: int) -> Calls:
        cluster.put(klass(maximums={"hostnamesPerNamespace": siblings // 2}, **ALLOWED))
        cluster.put(raw("Tenant", "acme", {}))
        for number in range(siblings):
            cluster.put(certificate(f"c{number}.example.com"))
            cluster.put(aged(number, f"l{number}.example.com"))
        given_up = certificate("c5.example.com", since="2026-01-01T00:00:00Z")
        return {
            "plan": lambda: plan_and_note(cluster.cache, numbered(5)),
            "give up": lambda: cluster.put(given_up),
            "delete": lambda: cluster.delete("Certificate", f"usher-system/{given_up['metadata']['name']}"),
        }

    assert_flat(scenario)


def test_work_does_not_grow_with_the_claims_at_a_held_hostname() -> None:
    def scenario(cluster: Cluster, claims: int) -> Calls:
        cluster.put(klass(**ALLOWED))
        for namespace in ("agency", "rival"):
            cluster.put(raw("Tenant", "acme", {}, namespace=namespace))
        cluster.put(listener("lobby", WWW))
        cluster.put(config(WWW))
        for number in range(claims):
            cluster.put(listener(f"l{number}", WWW, namespace="rival"))
        return {
            "plan the holder": lambda: plan_and_note(cluster.cache, LOBBY),
            "plan a claimant": lambda: plan_and_note(cluster.cache, Key("Listener", "rival", "l9")),
            "edit the holder": lambda: cluster.put(listener("lobby", WWW, "shop.example.com")),
            "publish the holder": lambda: cluster.put(config(WWW, path="/v1/other")),
            "edit a claimant": lambda: cluster.put(listener("l9", WWW, "shop.example.com", namespace="rival")),
            "delete a claimant": lambda: cluster.delete("Listener", "rival/l8"),
        }

    assert_flat(scenario)


def test_work_does_not_grow_with_the_claims_of_listeners_without_a_tenant() -> None:
    def scenario(cluster: Cluster, claims: int) -> Calls:
        cluster.put(klass(**ALLOWED))
        cluster.put(raw("Tenant", "acme", {}))
        for number in range(claims):
            cluster.put(listener(f"l{number}", WWW, namespace="rival", tenant="missing"))
        cluster.put(listener("lobby", WWW))
        return {
            "plan a claimant": lambda: plan_and_note(cluster.cache, Key("Listener", "rival", "l9")),
            "plan a claimant of another namespace": lambda: plan_and_note(cluster.cache, LOBBY),
            "create a claimant": lambda: cluster.put(
                listener(f"l{claims}", WWW, namespace="rival", tenant="missing", creationTimestamp="2026-03-01")
            ),
        }

    assert_flat(scenario)


@pytest.mark.parametrize("has_tenants", [False, True], ids=["missing", "existing"])
def test_work_does_not_grow_with_the_tenants_that_claim_a_hostname(*, has_tenants: bool) -> None:
    def scenario(cluster: Cluster, tenants: int) -> Calls:
        cluster.put(klass(**ALLOWED))
        for number in range(tenants):
            if has_tenants:
                cluster.put(raw("Tenant", f"t{number}", {}))
            cluster.put(at_shop(f"l{number}", f"t{number}", "2026"))
        return {
            "plan": lambda: plan_and_note(cluster.cache, Key("Listener", "agency", "l9")),
            "create": lambda: cluster.put(at_shop("new", "new", "2027")),
            "edit": lambda: cluster.edit("Listener", "agency/l9", state="Suspended"),
            "move": lambda: cluster.put(listener("l9", "shop.example.com", tenant="t9")),
            "delete": lambda: cluster.delete("Listener", "agency/l8"),
        }

    assert_flat(scenario)


def test_work_does_not_grow_with_the_missing_classes_of_a_hostname() -> None:
    def scenario(cluster: Cluster, classes: int) -> Calls:
        cluster.put(klass(**ALLOWED))
        cluster.put(raw("Tenant", "acme", {}))
        cluster.put(at_shop("first", "acme", "2024"))
        for number in range(classes):
            manifest = at_shop(f"l{number}", "acme", "2025")
            cluster.put({**manifest, "spec": {**manifest["spec"], "listenerClassName": f"c{number}"}})
        return {
            "plan": lambda: plan_and_note(cluster.cache, Key("Listener", "agency", "l9")),
            "create": lambda: cluster.put(at_shop("new", "acme", "2027")),
            "edit": lambda: cluster.edit("Listener", "agency/l9", state="Suspended"),
        }

    assert_flat(scenario)


def at_shop(name: str, tenant: str, created: str) -> dict[str, Any]:
    manifest = listener(name, WWW, tenant=tenant, creationTimestamp=f"{created}-01-01T00:00:00Z")
    manifest["spec"]["addresses"][0]["path"] = "/shop"
    return manifest


def test_work_does_not_grow_with_the_listeners_that_name_an_address() -> None:
    def scenario(cluster: Cluster, count: int) -> Calls:
        cluster.put(klass(**ALLOWED))
        for tenant in ("acme", "other"):
            cluster.put(raw("Tenant", tenant, {}))
        names = {"oldest": ("acme", "2025"), "others": ("other", "2027"), "newest": ("acme", "2026")}
        for name, (tenant, created) in names.items():
            cluster.put(at_shop(name, tenant, created))
        for number in range(count):
            cluster.put(at_shop(f"l{number}", "acme", "2025"))
        keys = {f"plan the {name}": Key("Listener", "agency", name) for name in names}
        plans = {name: functools.partial(plan_and_note, cluster.cache, key) for name, key in keys.items()}
        return {**plans, "edit": lambda: cluster.put(at_shop("newest", "acme", "2028"))}

    assert_flat(scenario)


def test_work_does_not_grow_with_the_published_listeners_at_a_hostname() -> None:
    def scenario(cluster: Cluster, count: int) -> Calls:
        cluster.put(klass(**ALLOWED))
        cluster.put(raw("Tenant", "acme", {}))
        for number in range(count):
            cluster.put(aged(number, WWW))
            cluster.apply(cluster.plan(numbered(number)))
        return {
            "plan": lambda: plan_and_note(cluster.cache, numbered(9)),
            "edit": lambda: cluster.edit("Listener", numbered(9).path, state="Suspended"),
            "publish": lambda: cluster.apply(cluster.plan(numbered(9))),
            "delete": lambda: cluster.delete("Listener", numbered(8).path),
        }

    assert_flat(scenario)
