"""Reports what changed: Events on resources, and lines in the log.

``EventRecorder`` decides which conditions get a Kubernetes Event, and when. A condition that held and stops holding is
reported at once. A condition that never held is reported only after a while, because much is missing for a moment while
a new agency is applied manifest by manifest. The stored status is what was reported, so a restart
reports nothing twice.

``EventLogger`` logs single documents and resources while they are few, and counts the rest. A start with 10,000
resources writes some lines and some sums; at level debug, every line.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import Any

import structlog

from usher_gateway.resources import types
from usher_operator import kinds
from usher_operator.plan.common import OperatorReason
from usher_operator.view import INFORMATIONAL_CONDITIONS, ConditionType, Key, ObjectRef, ResourceStatus, StatusCondition

MAX_WAITING_RESOURCES = 100
"""Resources of one namespace that the recorder remembers because it may have to warn about them later."""

_Type = ConditionType
_Reason = OperatorReason

_REPORTED = frozenset({_Type.Ready, *INFORMATIONAL_CONDITIONS})
_NEGATIVE = frozenset(
    {
        _Type.Quarantining,
        _Type.RoutesDegraded,
        _Type.DeliveriesHeld,
        _Type.TimesUntrusted,
        _Type.AddressRetired,
        _Type.CompanyShared,
        _Type.HostnamesShared,
    }
)
"""Conditions that exist only while something is wrong."""

_NO_ACTION_NEEDED = frozenset({_Reason.Pending, _Reason.AddressNotAssigned, _Reason.NoVisitYet})
"""Reasons that resolve without an action: a certificate is issued, an address is assigned, the first visit arrives."""

_COMPONENT = "usher-operator"


def is_wrong(condition: StatusCondition | None) -> bool:
    """True if a person has to act."""
    if condition is None:
        return False
    if condition.type in _NEGATIVE:
        return condition.status == "True"
    return condition.status == "False" and condition.reason not in _NO_ACTION_NEEDED


class EventRecorder:
    """Decides which conditions get an Event. Pure: times are monotonic seconds.

    Args:
        grace_seconds: delay before a warning about a condition that never held.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace = grace_seconds
        self._waiting: dict[Key, dict[str, float]] = {}
        """Per resource: the types of conditions that do not hold yet, and when to warn about each."""
        self._counts: collections.Counter[str] = collections.Counter()
        """Number of these resources by namespace."""

    def written(
        self, key: Key, status: ResourceStatus, record: kinds.ResourceRecord, now: float
    ) -> list[StatusCondition]:
        """The conditions to report now. ``status`` was written over the stored status in ``record``."""
        stored = {one.type: one for one in record.found.conditions}
        found = []
        for one in status.conditions.values():
            before = stored.get(one.type)
            if one.type not in _REPORTED or not _is_news(before, one):
                continue
            if _may_wait(before, one):
                self._wait(key, one.type, now)
            else:
                found.append(one)
        return found

    def overdue(self, key: Key, status: ResourceStatus | None, now: float) -> list[StatusCondition]:
        """The conditions whose delay is over and that still do not hold. ``status``: None if the resource is gone."""
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
            self._counts[key.namespace] -= 1
        return found

    def due_in(self, key: Key, now: float) -> float | None:
        """Seconds until ``overdue`` has to be called for a key; None if no warning waits."""
        waiting = self._waiting.get(key)
        return max(0.0, min(waiting.values()) - now) if waiting else None

    def _wait(self, key: Key, type_: str, now: float) -> None:
        if key not in self._waiting:
            if self._counts[key.namespace] >= MAX_WAITING_RESOURCES:
                return
            self._counts[key.namespace] += 1
        self._waiting.setdefault(key, {}).setdefault(type_, now + self._grace)


def _is_news(before: StatusCondition | None, now: StatusCondition) -> bool:
    """True if a condition flipped, or now needs a person. A condition that is absent or Unknown is not news."""
    if is_wrong(now):
        return not is_wrong(before)
    if before is None or now.status in {before.status, "Unknown"}:
        return False
    return now.status == "True" or before.status == "True"


def _may_wait(before: StatusCondition | None, now: StatusCondition) -> bool:
    """True if the report can wait, because the condition never held or because the listeners report it themselves."""
    if not is_wrong(now) or now.type in _NEGATIVE:
        return False
    return before is None or before.status != "True" or now.reason == _Reason.ListenersNotReady


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
        "type": "Warning" if stopped_holding or is_wrong(condition) else "Normal",
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
"""Length of the window in which lines are counted."""

MAX_LINES = 50
"""Lines written per window; more are only counted."""


class EventLogger:
    """Logs what was published, removed and written, and changes of Ready.

    Args:
        clock: monotonic seconds.
        logs_every_line: whether to write every line, however many there are.
    """

    def __init__(self, clock: Callable[[], float], *, logs_every_line: bool = False) -> None:
        self._clock = clock
        self._logs_every_line = logs_every_line
        self._begun = clock()
        self._lines = 0
        self._left_out: collections.Counter[str] = collections.Counter()

    def published(self, key: Key, /, *, is_new: bool) -> None:
        """Log that a document was written."""
        if self._may_log("documents_published"):
            _log.info("document_published", kind=key.kind, document=key.path, change="new" if is_new else "edited")

    def removed(self, key: Key) -> None:
        """Log that the tombstone of a document was written."""
        if self._may_log("documents_removed"):
            _log.info("document_removed", kind=key.kind, document=key.path)

    def applied(self, ref: ObjectRef) -> None:
        """Log that a child other than a Secret was written."""
        if self._may_log("children_applied"):
            _log.info("child_applied", kind=ref.kind, namespace=ref.namespace, name=ref.name)

    def deleted(self, ref: ObjectRef) -> None:
        """Log that a child was deleted."""
        if self._may_log("children_deleted"):
            _log.info("child_deleted", kind=ref.kind, namespace=ref.namespace, name=ref.name)

    def ready(self, key: Key, condition: StatusCondition) -> None:
        """Log that the Ready condition of a resource changed."""
        if self._may_log(f"ready_{condition.status.lower()}"):
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
        """Log a summary per window, until cancelled."""
        try:
            while True:
                await asyncio.sleep(WINDOW_SECONDS)
                self.log_summary()
        finally:
            self.log_summary()

    def log_summary(self) -> None:
        """Log how many lines of each kind were left out since the last summary."""
        if self._left_out:
            _log.info("lines_left_out", **self._left_out)
            self._left_out.clear()

    def _may_log(self, what: str) -> bool:
        now = self._clock()
        if now - self._begun >= WINDOW_SECONDS:
            self._begun, self._lines = now, 0
        self._lines += 1
        if self._lines > MAX_LINES and not self._logs_every_line:
            self._left_out[what] += 1
            return False
        return True
