"""Measure the time of one plan: listeners in sequence, each with two routes, a filter and its own destination.

Run ``python bench/plan.py``. The goal is at most 1 ms each, so that the plans of 4,000 listeners take only a few of the
30 s that a cold start of the operator may take.
"""

import sys
import time
from pathlib import Path

from usher_operator.view import Key

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.planning import Cluster

LISTENERS = 1000
CLASS = """
apiVersion: usher.dev/v1alpha1
kind: ListenerClass
metadata: {name: public}
spec:
  controllerName: usher.dev/usher
  hostname: hooks.example.com
  allowedHostnames: [{hostname: "*.example.org"}]
  exposure: {type: None}
"""
AGENCY = """
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: crm}
spec: {type: HTTP, http: {url: "https://crm.example/?n=NUMBER"}}
---
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {name: lobby-NUMBER}
spec:
  tenantRef: {name: acme}
  ADDRESSES
  routes:
  - {name: crm, destinationRef: {name: crm}}
  - {name: welcome, destinationRef: {name: crm}, when: 'visit.email != "" && visit.visitCount != NUMBER'}
"""


def cluster_of(number: int, addresses: str) -> Cluster:
    """Build a small cluster."""
    built = Cluster()
    built.add(CLASS)
    built.add(AGENCY.replace("NUMBER", str(number)).replace("ADDRESSES", addresses))
    return built


def measure(title: str, addresses: str = "", *, is_warm: bool = False) -> None:
    built = [cluster_of(number, addresses) for number in range(LISTENERS)]
    seconds = {"Listener": 0.0, "Destination": 0.0}
    for number, cluster in enumerate(built):
        for kind, name in (("Destination", "crm"), ("Listener", f"lobby-{number}")):
            key = Key(kind, "default", name)  # type: ignore[arg-type]
            if is_warm:
                cluster.apply(cluster.plan(key))
            begun = time.perf_counter()
            cluster.cache.plan(key)
            seconds[kind] += time.perf_counter() - begun
    times = ", ".join(f"{kind} {total / LISTENERS * 1000:.3f} ms" for kind, total in seconds.items())
    print(f"{title}: {times}")


if __name__ == "__main__":
    measure("first plan, on the class's hostname")
    measure("first plan, on its own hostname", "addresses: [{name: own, hostname: www.example.org}]")
    measure("unchanged", is_warm=True)
