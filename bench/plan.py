"""How long a plan takes: one listener after the other, each with a route, a filter and a destination of its own.

``python bench/plan.py``. The goal: at most 1 ms each (4,000 listeners cold within seconds of the operator's 30).
"""

import sys
import time
from pathlib import Path

from usher_operator.view import Key

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import views
from usher_operator import plan

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


def world_of(number: int, addresses: str) -> views.MemoryView:
    """A small world: its lookups by search must not be what is measured."""
    built = views.MemoryView()
    built.add(CLASS)
    built.add(AGENCY.replace("NUMBER", str(number)).replace("ADDRESSES", addresses))
    return built


def measure(title: str, addresses: str = "", *, is_warm: bool = False) -> None:
    built = [world_of(number, addresses) for number in range(LISTENERS)]
    seconds = {"Listener": 0.0, "Destination": 0.0}
    for number, one in enumerate(built):
        for kind, name in (("Destination", "crm"), ("Listener", f"lobby-{number}")):
            key = Key(kind, "default", name)  # type: ignore[arg-type]
            if is_warm:
                one.apply(plan.plan(one, key))
            begun = time.perf_counter()
            plan.plan(one, key)
            seconds[kind] += time.perf_counter() - begun
    told = ", ".join(f"{kind} {total / LISTENERS * 1000:.3f} ms" for kind, total in seconds.items())
    print(f"{title}: {told}")


if __name__ == "__main__":
    measure("first plan, on the class's hostname")
    measure("first plan, on an own hostname", "addresses: [{name: own, hostname: www.example.org}]")
    measure("again, nothing changed (a published document is decoded: the cache keeps it)", is_warm=True)
