"""A ListenerClass: no children of its own (those of its hostname are the Hostname's); how far its hostname is."""

from usher_gateway import model, resources
from usher_gateway.resources import listener_class, types
from usher_gateway.resources.removal_limit import HaltedRemovals
from usher_operator.plan import common, compiling, hostname
from usher_operator.plan.conditions import ConditionBuilder, ConditionState, OperatorReason
from usher_operator.view import CachedResource, ConditionType, Key, Plan, StatusCondition, View

_Type = ConditionType


def plan(view: View, key: Key) -> Plan:
    """The plan of a ListenerClass."""
    seen = view.classes.get(key.name)
    if seen is None:
        return common.absent(view, key, (_Type.CertificateReady, _Type.Exposed))
    if not compiling.is_ours(view, seen):
        return Plan(key)
    builder = ConditionBuilder(seen.resource.metadata.generation, seen.conditions)
    certificate = hostname.certificate_state(view, seen.resource.spec, seen.resource.spec.hostname)
    parts = [
        _accepted(view, seen.resource, builder),
        common.of_state(builder, _Type.CertificateReady, certificate),
        common.of_state(builder, _Type.Exposed, _exposed(view, seen)),
    ]
    unknown = (certificate.unknown_secret,) if certificate.unknown_secret else ()
    told = common.status(builder, parts, fields=_fields(view, seen))
    return Plan(key, (), told, unknown_secrets=unknown)


def _fields(view: View, seen: CachedResource[resources.ListenerClass]) -> dict[str, object]:
    """The fingerprint of the install key that the class was made with: it never changes."""
    fingerprint = seen.fields.get(common.FINGERPRINT_FIELD)
    if not fingerprint and view.keys is not None:
        fingerprint = model.key_fingerprint(view.keys.install)
    return {common.FINGERPRINT_FIELD: fingerprint} if fingerprint else {}


def _accepted(view: View, one: resources.ListenerClass, builder: ConditionBuilder) -> StatusCondition:
    held = common.held_back(view)
    if held is not None:
        return common.of_state(builder, _Type.Accepted, held)
    if view.halted is not None:
        message = _halted(view.halted)
        return builder.false(_Type.Accepted, OperatorReason.RemovalsHalted, message)
    (accepted,) = builder.from_findings(listener_class.check_class(one), [_Type.Accepted])
    return accepted


def _halted(halted: HaltedRemovals) -> str:
    names = ", ".join(f"`{path}`" for path in halted.names[:3])
    more = " and more" if len(halted.names) > 3 else ""
    return (
        f"listeners {names}{more} would go all at once, and none is removed; if this is meant, a ListenerClass must "
        f'have the annotation {types.CONFIRM_REMOVALS}: "{halted.digest}"'
    )


def _exposed(view: View, seen: CachedResource[resources.ListenerClass]) -> ConditionState:
    spec = seen.resource.spec
    state = hostname.exposed_state(view, spec, spec.hostname)
    if state.status == "Unknown" and hostname.is_by_path(spec) and not view.listeners_at(spec.hostname):
        return ConditionState("True", OperatorReason.NotExposed, "no listener is on the class's hostname yet")
    return state
