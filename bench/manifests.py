"""Manifests for the benchmarks: a number of listeners, each with one route to a destination."""

from pathlib import Path

_DESTINATION = """\
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {{name: warehouse, namespace: bench}}
spec:
  type: HTTP
  concurrency: 64
  http: {{url: "http://127.0.0.1:{port}/in"}}
"""

_LISTENER_CLASS = """\
---
apiVersion: usher.dev/v1alpha1
kind: ListenerClass
metadata: {name: public}
spec:
  controllerName: usher.dev/usher
  hostname: hooks.example.com
  allowedHostnames: [{hostname: "*.example.com"}]
  maximums: {requestsPerSecond: 100000}
"""

_TENANT = """\
---
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {{name: t{number}, namespace: bench}}
spec: {{}}
"""

_LISTENER = """\
---
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {{name: l{number}, namespace: bench}}
spec:
  tenantRef: {{name: t{tenant}}}
  addresses: [{{name: a, hostname: h{number}.example.com, path: /hooks/k7f3m9q2x8w4v6t1b5n0}}]
  authentication: {{type: None}}
  routes: [{{name: all, destinationRef: {{name: warehouse}}}}]
"""


def write(folder: Path, listeners: int, *, tenants: int = 0, forward_to: int = 0) -> Path:
    """Write a file of manifests.

    Args:
        folder: where to write it.
        listeners: how many there are.
        tenants: how many tenants share them; 0: each listener has its own.
        forward_to: port of a receiver, if one runs.
    """
    tenants = tenants or listeners
    parts = [_DESTINATION.format(port=forward_to or 9), _LISTENER_CLASS]
    parts += [_TENANT.format(number=number) for number in range(tenants)]
    parts += [_LISTENER.format(number=number, tenant=number % tenants) for number in range(listeners)]
    file = folder / "bench.yaml"
    file.write_text("".join(parts), encoding="utf-8")
    return file
