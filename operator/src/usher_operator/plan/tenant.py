"""A Tenant: no children; its listeners carry what it says, and say whether they are ready."""

from usher_gateway import resources
from usher_gateway.resources import types
from usher_gateway.resources.tenant import check_tenant
from usher_operator.plan import common, compiling, listener
from usher_operator.plan.conditions import ConditionBuilder, OperatorReason
from usher_operator.view import CachedResource, ConditionType, Key, Plan, ResourceStatus, View

_Type = ConditionType
_MOST_NAMES = 3


def plan(view: View, key: Key) -> Plan:
    """The plan of a Tenant."""
    seen = view.tenant(key.path)
    if seen is None:
        return common.absent(view, key, ())
    if compiling.is_foreign_namespace(view, key.namespace):
        return Plan(key)
    builder = ConditionBuilder(seen.resource.metadata.generation, seen.conditions)
    held = common.held_back(view)
    if held is not None:
        return common.held_plan(key, seen, held, ())
    (accepted,) = builder.from_findings(check_tenant(seen.resource), [_Type.Accepted])
    is_suspended = types.value_or_default(seen.resource.spec.state, "Tenant.spec.state") == "Suspended"
    told = common.status(builder, [accepted], "`state` is Suspended: deliveries are held" if is_suspended else "")
    if accepted.status == "True":
        told = _with_listeners(view, key, builder, told)
    return Plan(key, (), told)


def _with_listeners(view: View, key: Key, builder: ConditionBuilder, told: ResourceStatus) -> ResourceStatus:
    """Ready as its listeners let it be."""
    unready: dict[str, list[str]] = {"False": [], "Unknown": []}
    for one in view.listeners_of(key.path):
        truth = _ready(view, one)
        if truth != "True" and not compiling.is_foreign(view, one.resource):
            unready[truth].append(one.resource.metadata.name)
    if unready["False"]:
        message = f"must be mended: listener {_names(unready['False'])}; their own conditions say how"
        ready = builder.false(_Type.Ready, OperatorReason.ListenersNotReady, message)
    elif unready["Unknown"]:
        ready = builder.pending(_Type.Ready, f"waiting for listener {_names(unready['Unknown'])}")
    else:
        return told
    return ResourceStatus(told.observed_generation, (*told.conditions[:-1], ready))


def _ready(view: View, one: CachedResource[resources.Listener]) -> str:
    """Whether a listener is ready, and held or not as it is to be."""
    ready = next((found for found in one.conditions if found.type == _Type.Ready), None)
    if ready is None:
        return "Unknown"
    is_held, shall_be = ready.reason == OperatorReason.Suspended, bool(listener.suspended(view, one.resource))
    return "Unknown" if ready.status == "True" and is_held != shall_be else ready.status


def _names(names: list[str]) -> str:
    """Some names; never how many: there are no counters in a status."""
    shown = ", ".join(f"`{name}`" for name in sorted(names)[:_MOST_NAMES])
    return f"{shown} and others" if len(names) > _MOST_NAMES else shown
