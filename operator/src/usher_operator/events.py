"""Reports what changed: Events on resources, and lines in the log.

``conditions_to_report()`` decides which conditions get a Kubernetes Event. The stored status is what was reported, so a
restart reports nothing twice.

``EventLogger`` logs single documents and resources while they are few, and counts the rest. A start with 10,000
resources writes some lines and some sums; at level debug, every line.
"""

import asyncio
import collections
import re
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from usher_gateway.resources import types
from usher_operator import kinds
from usher_operator.view import (
    ABNORMAL_CONDITIONS,
    INFORMATIONAL_CONDITIONS,
    ConditionType,
    Key,
    ObjectRef,
    OperatorReason,
    ResourceStatus,
    StatusCondition,
)

_Reason = OperatorReason

_REPORTED = frozenset({ConditionType.Ready, *INFORMATIONAL_CONDITIONS})

_WITH_WARNINGS = frozenset({ConditionType.Accepted, ConditionType.ResolvedRefs})
"""Conditions whose message is a warning while they are True. While they are False, Ready reports them."""

_NO_ACTION_NEEDED = frozenset({_Reason.Pending, _Reason.AddressNotAssigned, _Reason.NoVisitYet})
"""Reasons that resolve without an action: a certificate is issued, an address is assigned, the first visit arrives."""

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

    The message of each says what changed, and why: `Ready is False (was True): ...`.

    Args:
        status: what is written.
        record: has the stored conditions.
        was_ready: whether Ready was True before it became Unknown, as it does while a deleted Ingress is written again.
    """
    stored = {condition.type: condition for condition in record.parsed.conditions}
    ready = status.condition(ConditionType.Ready)
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


_log = structlog.get_logger(__name__)

WINDOW_SECONDS = 10.0
"""Length of the window in which lines are counted."""

MAX_LINES = 50
"""Lines written per window; more are only counted."""


class EventLogger:
    """Logs what was published, removed and written, warnings, and changes of Ready.

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

    def warned(self, key: Key, condition: StatusCondition) -> None:
        """Log that a resource is accepted with a warning."""
        if self._may_log("resource_warnings"):
            _log.warning("resource_warning_found", kind=key.kind, resource=key.path, message=condition.message)

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
