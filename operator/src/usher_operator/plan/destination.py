"""Plans a Destination: its config Secret and its status."""

import urllib.parse

from usher_gateway import resources
from usher_gateway.resources import types
from usher_operator.plan import common, compiling, reports
from usher_operator.plan.common import ConditionBuilder, ConditionState
from usher_operator.view import ConditionType, Key, Plan, View

HOST_FIELD = "host"
"""Status field of a Destination: host and port of its URL, for a column. The whole URL may contain a secret."""

_Type = ConditionType
_KEPT = (_Type.ResolvedRefs, _Type.Programmed, _Type.Healthy)
"""Conditions that stay as they are while nothing is published."""


def plan(view: View, key: Key) -> Plan:
    """The plan of a Destination."""
    cached = view.destination(key.path)
    if cached is None:
        return common.plan_absent(view, key, _KEPT)
    if compiling.is_foreign_namespace(view, key.namespace):
        return Plan(key)
    keys = common.keys_or_state(view)
    if isinstance(keys, ConditionState):
        return common.plan_held_back(key, cached, keys, _KEPT)
    builder = ConditionBuilder(cached.resource.metadata.generation, cached.conditions)
    compiled = compiling.compile_destination(view, cached, keys)
    published = common.publish(view, key, cached, compiled)
    parts = builder.from_findings(compiled.findings, [_Type.Accepted, _Type.ResolvedRefs])
    parts[0] = published.accepted or parts[0]
    programmed = reports.programmed(view, key, published.wanted, builder)
    parts += [programmed.condition, *reports.of_destination(view, key.path, builder)]
    is_paused = types.value_or_default(cached.resource.spec.state, "Destination.spec.state") == "Paused"
    wanted = (published.child,) if published.child else ()
    return Plan(
        key,
        None if published.stays else wanted,
        builder.status(
            parts,
            "`state` is Paused: deliveries are held" if is_paused else "",
            fields={HOST_FIELD: _host(cached.resource)},
        ),
        is_behind=programmed.is_behind,
        again_at=programmed.again_at,
        unknown_secrets=compiled.unknown_secrets,
    )


def _host(one: resources.Destination) -> str:
    try:
        return urllib.parse.urlsplit(one.spec.http.url).netloc if one.spec.http else ""
    except ValueError:  # the condition Accepted says what is wrong with the URL
        return ""
