"""Which changes of conditions an Event tells of, and when. Pure: times are seconds of a clock that only grows.

What held and ceases to is told at once. What never held yet is told only if it stays so: while the files of an
agency are applied one after the other, much is missing for a moment. What is stored is what was told: a restart
tells nothing anew.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import Any

import structlog

from usher_gateway.resources import types
from usher_operator import parsing
from usher_operator.plan.conditions import OperatorReason
from usher_operator.view import INFORMATIONAL_CONDITIONS, ConditionType, Key, ObjectRef, ResourceStatus, StatusCondition

MOST_WAITING = 500
"""So many resources are remembered that may have to be warned of."""

_Type = ConditionType
_Reason = OperatorReason

_TOLD = frozenset({_Type.Ready, *INFORMATIONAL_CONDITIONS})
_NEGATIVE = frozenset({_Type.Quarantining, _Type.RoutesDegraded})
"""Conditions that are there only while something is wrong."""

_COMES_BY_ITSELF = frozenset({_Reason.Pending, _Reason.AddressNotAssigned, _Reason.NoVisitYet})
"""Reasons for which nobody has to act yet: a certificate is issued, an address assigned, the first visit comes."""

_COMPONENT = "usher-operator"


def is_wrong(condition: StatusCondition | None) -> bool:
    """Whether somebody has to act."""
    if condition is None:
        return False
    if condition.type in _NEGATIVE:
        return condition.status == "True"
    return condition.status == "False" and condition.reason not in _COMES_BY_ITSELF


class EventRecorder:
    """Decides; remembers what may have to be warned of."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace = grace_seconds
        self._waiting: dict[Key, dict[str, float]] = {}
        """Types of conditions that do not hold yet, and when to warn of it."""

    def written(
        self, key: Key, status: ResourceStatus, record: parsing.ResourceRecord, now: float
    ) -> list[StatusCondition]:
        """The changes to tell of now, of a status that was written over what ``record`` has."""
        stored = {one.type: one for one in record.found.conditions}
        found = []
        for one in status.conditions:
            before = stored.get(one.type)
            if one.type not in _TOLD or not _is_told(before, one):
                continue
            if _may_wait(before, one):
                self._wait(key, one.type, now)
            else:
                found.append(one)
        return found

    def overdue(self, key: Key, status: ResourceStatus | None, now: float) -> list[StatusCondition]:
        """What does not hold for so long now that it is told. ``status``: None where the resource is gone."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return []
        found = []
        for type_, due in list(waiting.items()):
            condition = status.condition(type_) if status is not None else None
            is_over = now >= due
            if condition is not None and is_wrong(condition) and is_over:
                found.append(condition)
            if is_over or not is_wrong(condition):
                del waiting[type_]
        if not waiting:
            del self._waiting[key]
        return found

    def due_in(self, key: Key, now: float) -> float | None:
        """Seconds until ``overdue`` is to be asked of a key; None where nothing waits."""
        waiting = self._waiting.get(key)
        return max(0.0, min(waiting.values()) - now) if waiting else None

    def _wait(self, key: Key, type_: str, now: float) -> None:
        if key in self._waiting or len(self._waiting) < MOST_WAITING:
            self._waiting.setdefault(key, {}).setdefault(type_, now + self._grace)


def _is_told(before: StatusCondition | None, now: StatusCondition) -> bool:
    """Whether something flipped, or began to need somebody; what is not there or not known yet is no news."""
    if is_wrong(now):
        return not is_wrong(before)
    if before is None or now.status in {before.status, "Unknown"}:
        return False
    return now.status == "True" or before.status == "True"


def _may_wait(before: StatusCondition | None, now: StatusCondition) -> bool:
    """Whether it is only not there yet. A Tenant's listeners speak for themselves, and it only after them."""
    if not is_wrong(now) or now.type in _NEGATIVE:
        return False
    return before is None or before.status != "True" or now.reason == _Reason.ListenersNotReady


def event_of(key: Key, uid: str, condition: StatusCondition, now: str) -> dict[str, Any]:
    """The Event about a condition."""
    namespace = key.namespace or "default"
    about = {"apiVersion": types.API_VERSION, "kind": key.kind, "name": key.name, "uid": uid}
    ceased = condition.status == "False" and condition.reason != _Reason.Pending
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{key.name}.", "namespace": namespace},
        "involvedObject": {**about, **({"namespace": key.namespace} if key.namespace else {})},
        "type": "Warning" if ceased or is_wrong(condition) else "Normal",
        "reason": condition.reason,
        "message": condition.message or f"{condition.type} is {condition.status}",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": _COMPONENT},
        "reportingComponent": _COMPONENT,
        "reportingInstance": _COMPONENT,
    }


_log = structlog.get_logger(__name__)

WINDOW_SECONDS = 10.0
"""Over so long lines are counted."""

MOST_LINES = 50
"""So many lines are written in a window."""


class EventLogger:
    """Tells what was published and removed, and what became ready or ceased to be. ``clock``: it only grows."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = clock()
        self._lines = 0
        self._left_out: collections.Counter[str] = collections.Counter()

    def published(self, key: Key, /, *, is_new: bool) -> None:
        """A document was written."""
        if self._may_tell("documents_published"):
            _log.info("document_published", kind=key.kind, document=key.path, change="new" if is_new else "edited")

    def removed(self, key: Key) -> None:
        """A document's tombstone was written."""
        if self._may_tell("documents_removed"):
            _log.info("document_removed", kind=key.kind, document=key.path)

    def applied(self, ref: ObjectRef) -> None:
        """Another child was written."""
        if self._may_tell("children_applied"):
            _log.info("child_applied", kind=ref.kind, namespace=ref.namespace, name=ref.name)

    def deleted(self, ref: ObjectRef) -> None:
        """A child was deleted."""
        if self._may_tell("children_deleted"):
            _log.info("child_deleted", kind=ref.kind, namespace=ref.namespace, name=ref.name)

    def ready(self, key: Key, condition: StatusCondition) -> None:
        """A resource's Ready is another than before."""
        if self._may_tell(f"ready_{condition.status.lower()}"):
            message = condition.message if condition.status == "False" else ""
            _log.info(
                "ready_changed",
                kind=key.kind,
                resource=key.path,
                ready=condition.status,
                reason=condition.reason,
                message=message,
            )

    async def run(self) -> None:
        """Tell how much was left out, for ever."""
        try:
            while True:
                await asyncio.sleep(WINDOW_SECONDS)
                self.sum_up()
        finally:
            self.sum_up()

    def sum_up(self) -> None:
        """Tell how many lines were left out since the last sum, of each kind."""
        if self._left_out:
            _log.info("more_of_the_same", **self._left_out)
            self._left_out.clear()

    def _may_tell(self, what: str) -> bool:
        now = self._clock()
        if now - self._begun >= WINDOW_SECONDS:
            self._begun, self._lines = now, 0
        self._lines += 1
        if self._lines > MOST_LINES:
            self._left_out[what] += 1
            return False
        return True
