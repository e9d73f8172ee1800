"""A Destination: its config Secret, and what is told of it."""

import urllib.parse

from usher_gateway import resources
from usher_gateway.resources import types
from usher_operator.plan import common, compiling, reports
from usher_operator.plan.conditions import ConditionBuilder, ConditionState
from usher_operator.view import ConditionType, Key, Plan, View

HOST_FIELD = "host"
"""In the status of a Destination: host and port of its URL, for columns. The whole URL may hold a secret."""

_Type = ConditionType
_KEPT = (_Type.ResolvedRefs, _Type.Programmed, _Type.Healthy)


def plan(view: View, key: Key) -> Plan:
    """The plan of a Destination."""
    seen = view.destination(key.path)
    if seen is None:
        return common.absent(view, key, _KEPT)
    if compiling.is_foreign_namespace(view, key.namespace):
        return Plan(key)
    builder = ConditionBuilder(seen.resource.metadata.generation, seen.conditions)
    keys = common.keys_or_reason(view)
    if isinstance(keys, ConditionState):
        return common.held_plan(key, seen, keys, _KEPT)
    compiled = compiling.compile_destination(view, seen, keys)
    published = common.publish(view, key, seen, compiled)
    parts = builder.from_findings(compiled.findings, [_Type.Accepted, _Type.ResolvedRefs])
    parts[0] = published.accepted or parts[0]
    found = reports.programmed(view, key, published.wanted, builder)
    parts += [found.condition, *reports.of_destination(view, key.path, builder)]
    is_paused = types.value_or_default(seen.resource.spec.state, "Destination.spec.state") == "Paused"
    children = (published.child,) if published.child else ()
    return Plan(
        key,
        None if published.stays else children,
        common.status(
            builder,
            parts,
            "`state` is Paused: deliveries are held" if is_paused else "",
            fields={HOST_FIELD: _host(seen.resource)},
        ),
        is_behind=found.is_behind,
        again_at=found.again_at,
        unknown_secrets=compiled.unknown_secrets,
    )


def _host(one: resources.Destination) -> str:
    try:
        return urllib.parse.urlsplit(one.spec.http.url).netloc if one.spec.http else ""
    except ValueError:  # what is wrong with the URL is told by Accepted
        return ""
