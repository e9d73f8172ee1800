"""Plans a Tenant: it has no children, and its Ready sums up the Ready conditions of its listeners."""

from usher_gateway import resources
from usher_gateway.resources import types
from usher_gateway.resources.tenant import check_tenant
from usher_operator.plan import common, compiling, listener
from usher_operator.plan.common import ConditionBuilder, OperatorReason
from usher_operator.view import CachedResource, ConditionType, Key, Plan, ResourceStatus, View

_Type = ConditionType
_MAX_NAMES = 3
"""Listeners that a message names."""


def plan(view: View, key: Key) -> Plan:
    """The plan of a Tenant."""
    cached = view.tenant(key.path)
    if cached is None:
        return common.plan_absent(view, key, ())
    if compiling.is_foreign_namespace(view, key.namespace):
        return Plan(key)
    held_back = common.publishing_state(view)
    if held_back is not None:
        return common.plan_held_back(key, cached, held_back, ())
    builder = ConditionBuilder(cached.resource.metadata.generation, cached.conditions)
    (accepted,) = builder.from_findings(check_tenant(cached.resource), [_Type.Accepted])
    is_suspended = types.value_or_default(cached.resource.spec.state, "Tenant.spec.state") == "Suspended"
    status = builder.status([accepted], "`state` is Suspended: deliveries are held" if is_suspended else "")
    if accepted.status == "True":
        status = _with_listeners(view, key, builder, status)
    return Plan(key, (), status)


def _with_listeners(view: View, key: Key, builder: ConditionBuilder, status: ResourceStatus) -> ResourceStatus:
    """The status with a Ready that is True only if every listener is ready."""
    unready: dict[str, list[str]] = {"False": [], "Unknown": []}
    for one in view.listeners_of(key.path):
        ready_status = _ready_status(view, one)
        if ready_status != "True" and not compiling.is_foreign(view, one.resource):
            unready[ready_status].append(one.resource.metadata.name)
    if unready["False"]:
        message = (
            f"not ready: listener {_names(unready['False'])}; the conditions of each listener say what must be done"
        )
        ready = builder.false(_Type.Ready, OperatorReason.ListenersNotReady, message)
    elif unready["Unknown"]:
        ready = builder.pending(_Type.Ready, f"waiting for listener {_names(unready['Unknown'])}")
    else:
        return status
    return ResourceStatus(status.observed_generation, (*status.conditions[:-1], ready))


def _ready_status(view: View, one: CachedResource[resources.Listener]) -> str:
    """The status of a listener's Ready; Unknown while gateways have not applied a change of its suspension."""
    ready = next((found for found in one.conditions if found.type == _Type.Ready), None)
    if ready is None:
        return "Unknown"
    is_held, should_be_held = ready.reason == OperatorReason.Suspended, bool(listener.suspension(view, one.resource))
    return "Unknown" if ready.status == "True" and is_held != should_be_held else ready.status


def _names(names: list[str]) -> str:
    """The first names. The text has no count, because a status has no counters."""
    shown = ", ".join(f"`{name}`" for name in sorted(names)[:_MAX_NAMES])
    return f"{shown} and others" if len(names) > _MAX_NAMES else shown
