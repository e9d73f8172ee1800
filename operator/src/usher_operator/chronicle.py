"""The log's lines about single documents and resources: each while they are few, else how many there were.

A start with 10,000 resources is some lines and some sums; at the level debug every write of a child is told.
"""

import asyncio
import collections
from collections.abc import Callable

import structlog

from usher_operator.view import Key, ObjectRef, StatusCondition

_log = structlog.get_logger(__name__)

WINDOW_SECONDS = 10.0
"""Over so long lines are counted."""

MOST_LINES = 50
"""So many lines are written in a window."""


class Chronicle:
    """Tells what was published and removed, and what became ready or ceased to be. ``clock``: it only grows."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = clock()
        self._lines = 0
        self._left_out: collections.Counter[str] = collections.Counter()

    def published(self, key: Key, *, is_new: bool) -> None:
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
