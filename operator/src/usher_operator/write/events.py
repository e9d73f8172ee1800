"""Decides which conditions get a Kubernetes Event. Pure.

The stored status is what was reported, so a restart reports nothing twice.
"""

import re
from typing import Any

import msgspec

from usher_gateway.resources import types
from usher_operator.state import kinds
from usher_operator.state.values import (
    ABNORMAL_CONDITIONS,
    INFORMATIONAL_CONDITIONS,
    ConditionType,
    Key,
    OperatorReason,
    ResourceStatus,
    StatusCondition,
)

_Reason = OperatorReason

_REPORTED = frozenset({ConditionType.Ready, *INFORMATIONAL_CONDITIONS})

# Conditions whose message is a warning while they are True. While they are False, Ready reports them.
_WITH_WARNINGS = frozenset({ConditionType.Accepted, ConditionType.ResolvedRefs})

# Reasons that resolve without an action: a certificate is issued, an address is assigned, the first visit arrives.
_NO_ACTION_NEEDED = frozenset({_Reason.Pending, _Reason.AddressNotAssigned, _Reason.NoVisitYet})

_COMPONENT = "usher-operator"


def is_wrong(condition: StatusCondition | None) -> bool:
    """True if a person has to act."""
    if condition is None:
        return False
    if condition.type in ABNORMAL_CONDITIONS:
        return condition.status == "True"
    return condition.status == "False" and condition.reason not in _NO_ACTION_NEEDED


def is_warning(condition: StatusCondition | None) -> bool:
    """True if a condition holds, and its message warns of something."""
    if condition is None or condition.type not in _WITH_WARNINGS:
        return False
    return condition.status == "True" and bool(condition.message)


def conditions_to_report(
    status: ResourceStatus, record: kinds.ResourceRecord, *, was_ready: bool = False
) -> list[StatusCondition]:
    """The conditions that get an Event when ``status`` replaces the stored one in ``record``.

    Each message says what changed, and why: `Ready is False (was True): ...`. ``was_ready``: whether Ready was
    True before it became Unknown, as it does while a deleted Ingress is written again.
    """
    stored = {condition.type: condition for condition in record.parsed.conditions}
    ready = status.conditions.get(ConditionType.Ready)
    if was_ready and ready is not None and ready.status == "False":
        generation = ready.observed_generation
        stored[ready.type] = StatusCondition(ready.type, "True", _Reason.Ready, "", generation)
    pairs = [(stored.get(condition.type), condition) for condition in status.conditions.values()]
    return [
        msgspec.structs.replace(now, message=_change(previous, now))
        for previous, now in pairs
        if (now.type in _REPORTED and _is_news(previous, now)) or _is_new_warning(previous, now)
    ]


def _is_news(previous: StatusCondition | None, now: StatusCondition) -> bool:
    """True if a condition flipped, or needs a person for another reason. An absent or Unknown condition is not news."""
    if is_wrong(now):
        return (
            previous is None
            or not is_wrong(previous)
            or previous.reason != now.reason
            or (now.type == ConditionType.Reachable and _cause(previous) != _cause(now))
        )
    if previous is None or now.status in {previous.status, "Unknown"}:
        return False
    return now.status == "True" or previous.status == "True"


def _is_new_warning(previous: StatusCondition | None, now: StatusCondition) -> bool:
    return is_warning(now) and (not is_warning(previous) or previous is None or previous.message != now.message)


def _cause(condition: StatusCondition) -> str:
    """The message without its numbers: another address or status code is not another cause."""
    return re.sub(r"\d+", "", condition.message)


def _change(previous: StatusCondition | None, now: StatusCondition) -> str:
    change = f"{now.type} is {now.status}"
    if is_warning(now):
        change += " with a warning"
    elif previous is not None and (previous.status, previous.reason) == (now.status, now.reason):
        change = f"{now.type} is still {now.status}, for another cause"
    elif previous is not None:
        parts = (
            previous.status if previous.status != now.status else "",
            previous.reason if previous.reason != now.type else "",
        )
        change += f" (was {', '.join(filter(None, parts))})"
    return f"{change}: {now.message}" if now.message else change


def event_of(key: Key, uid: str, condition: StatusCondition, now: str) -> dict[str, Any]:
    """Build the Event about a condition. ``now``: RFC 3339."""
    namespace = key.namespace or "default"
    about = {"apiVersion": types.API_VERSION, "kind": key.kind, "name": key.name, "uid": uid}
    stopped_holding = condition.status == "False" and condition.reason != _Reason.Pending
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{key.name}.", "namespace": namespace},
        "involvedObject": {**about, **({"namespace": key.namespace} if key.namespace else {})},
        "type": "Warning" if stopped_holding or is_wrong(condition) or is_warning(condition) else "Normal",
        "reason": condition.reason,
        "message": condition.message,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": _COMPONENT},
        "reportingComponent": _COMPONENT,
        "reportingInstance": _COMPONENT,
    }
