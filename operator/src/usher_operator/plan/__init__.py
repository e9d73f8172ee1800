"""plan(): from what the operator knows to what it wants for one key. Pure: it reads no clock and keeps no state.

A plan depends only on the present view and not on what changed, so planning again gives the same result, in whatever
order the changes came.
"""

from collections.abc import Callable

import msgspec

from usher_operator.plan import hostname, listener, ownership, simple_kinds
from usher_operator.state.values import ConditionType, Key, Kind, OperatorReason, Plan
from usher_operator.state.view import View

_PLANS: dict[Kind, Callable[[View, Key], Plan]] = {
    "ListenerClass": simple_kinds.plan_listener_class,
    "Tenant": simple_kinds.plan_tenant,
    "Listener": listener.plan,
    "Destination": simple_kinds.plan_destination,
    "Hostname": hostname.plan,
}


def plan(view: View, key: Key) -> Plan:
    """The plan for one key, without a status if another install owns the resource. It takes at most about 1 ms.

    A resource may be seen before its Namespace. Until then nobody knows which labels the namespace has, and whether
    its documents come from a former namespace with this name, so everything stays as it is.
    """
    if key in view.records and key.namespace and not view.namespace_uid(key.namespace):
        return Plan(key, None)
    planned = _PLANS[key.kind](view, key)
    if planned.status is None or ownership.owner_of(view, key) == view.settings.controller_name:
        return planned
    accepted = planned.status.conditions.get(ConditionType.Accepted)
    if accepted is not None and accepted.reason == OperatorReason.NotServed:
        return planned
    return msgspec.structs.replace(planned, status=None)


def plan_and_note(view: View, key: Key) -> Plan:
    """Plan a key, and note in the view what the plan reads, so that a change to it plans the key again."""
    with view.reads.of_plan(key):
        planned = plan(view, key)
    if not planned.children and not view.exists(key):
        view.reads.forget(key)
    return planned
