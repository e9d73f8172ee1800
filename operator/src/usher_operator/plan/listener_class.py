"""Plans a ListenerClass: its status. The Hostname key owns the children of the class's hostname."""

from usher_gateway import model, resources
from usher_gateway.resources import listener_class, types
from usher_gateway.resources.removal_limit import HaltedRemovals
from usher_operator.plan import common, compiling, hostname
from usher_operator.plan.common import ConditionBuilder, ConditionState, OperatorReason
from usher_operator.view import FINGERPRINT_FIELD, CachedResource, ConditionType, Key, Plan, StatusCondition, View

_Type = ConditionType
_MAX_NAMES = 3
"""Listeners that a message names."""


def plan(view: View, key: Key) -> Plan:
    """The plan of a ListenerClass."""
    cached = view.classes.get(key.name)
    if cached is None:
        return common.plan_absent(view, key, (_Type.CertificateReady, _Type.Exposed))
    if not compiling.is_ours(view, cached):
        return Plan(key)
    builder = ConditionBuilder(cached.resource.metadata.generation, cached.conditions)
    certificate = hostname.certificate_state(view, cached.resource.spec, cached.resource.spec.hostname)
    parts = [
        _accepted(view, cached.resource, builder),
        builder.from_state(_Type.CertificateReady, certificate),
        builder.from_state(_Type.Exposed, _exposed(view, cached)),
    ]
    unknown = (certificate.unknown_secret,) if certificate.unknown_secret else ()
    status = builder.status(parts, fields=_fields(view, cached))
    return Plan(key, (), status, unknown_secrets=unknown)


def _fields(view: View, cached: CachedResource[resources.ListenerClass]) -> dict[str, object]:
    """The fingerprint of the install key with which the class was first reconciled; it never changes."""
    fingerprint = cached.fields.get(FINGERPRINT_FIELD)
    if not fingerprint and view.keys is not None:
        fingerprint = model.key_fingerprint(view.keys.install)
    return {FINGERPRINT_FIELD: fingerprint} if fingerprint else {}


def _accepted(view: View, one: resources.ListenerClass, builder: ConditionBuilder) -> StatusCondition:
    held_back = common.publishing_state(view)
    if held_back is not None:
        return builder.from_state(_Type.Accepted, held_back)
    if view.halted is not None:
        return builder.false(_Type.Accepted, OperatorReason.RemovalsHalted, _halted(view.halted))
    (accepted,) = builder.from_findings(listener_class.check_class(one), [_Type.Accepted])
    return accepted


def _halted(halted: HaltedRemovals) -> str:
    names = ", ".join(f"`{path}`" for path in halted.names[:_MAX_NAMES])
    more = " and more" if len(halted.names) > _MAX_NAMES else ""
    return (
        f"no listener is removed, because {names}{more} would be removed at the same time; to confirm these removals, "
        f'set the annotation {types.CONFIRM_REMOVALS}: "{halted.digest}" on a ListenerClass'
    )


def _exposed(view: View, cached: CachedResource[resources.ListenerClass]) -> ConditionState:
    spec = cached.resource.spec
    state = hostname.exposed_state(view, spec, spec.hostname)
    if state.status == "Unknown" and hostname.is_by_path(spec) and not view.listeners_at(spec.hostname):
        return ConditionState("True", OperatorReason.NotExposed, "no listener is on the class's hostname yet")
    return state
