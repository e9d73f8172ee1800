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

_RECIPE = """\
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {{name: warehouse, namespace: bench}}
spec:
  type: HTTP
  concurrency: 64
  transform: |
    {{
      "email_address": visit.email.trim(),
      "status_if_new": "subscribed",
      "merge_fields": {{"FNAME": visit.firstName, "LNAME": visit.lastName}}
    }}
  http:
    method: PUT
    url: "http://127.0.0.1:{port}/3.0/lists/{{audience}}/members/{{member}}?skip_merge_validation=true"
    urlVariables:
    - {{name: audience, value: '"a1b2c3"'}}
    - {{name: member, value: md5(visit.email.trim().lowerAscii())}}
    answers:
    - {{status: [403], when: 'answer.body == ""', effect: Throttle}}
    - {{when: 'answer.body == "cleaned"', effect: Dead}}
"""
"""A destination like Mailchimp's recipe, with a rule that reads every answer."""

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


def write(
    folder: Path,
    listeners: int,
    *,
    tenants: int = 0,
    forward_to: int = 0,
    has_default_rate: bool = False,
    is_recipe: bool = False,
) -> Path:
    """Write a file of manifests.

    Args:
        folder: where to write it.
        listeners: how many there are.
        tenants: how many tenants share them; 0: each listener has its own.
        forward_to: port of a receiver, if one runs.
        is_recipe: whether the destination has a template, a transform and rules, as Mailchimp's recipe.
        has_default_rate: leave the rate of each listener at its default, instead of allowing every rate.
    """
    tenants = tenants or listeners
    parts = [
        (_RECIPE if is_recipe else _DESTINATION).format(port=forward_to or 9),
        *(() if has_default_rate else (_LISTENER_CLASS,)),
    ]
    parts += [_TENANT.format(number=number) for number in range(tenants)]
    parts += [_LISTENER.format(number=number, tenant=number % tenants) for number in range(listeners)]
    file = folder / "bench.yaml"
    file.write_text("".join(parts), encoding="utf-8")
    return file


_NEIGHBOUR = """\
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {{name: crm, namespace: n{number}}}
spec: {{type: HTTP, http: {{url: "http://127.0.0.1:{port}/in/{number}"}}}}
"""


def write_neighbours(folder: Path, namespaces: int, port: int) -> Path:
    """Write a file of manifests: namespaces with a listener and a destination each, at a receiver on ``port``."""
    parts = []
    for number in range(namespaces):
        listener = (_TENANT.format(number=number) + _LISTENER.format(number=number, tenant=number)).replace(
            "namespace: bench", f"namespace: n{number}"
        )
        parts.append(_NEIGHBOUR.format(number=number, port=port) + listener.replace("name: warehouse", "name: crm"))
    file = folder / "bench.yaml"
    file.write_text("".join(parts), encoding="utf-8")
    return file
