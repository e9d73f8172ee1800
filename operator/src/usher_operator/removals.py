"""Decides which published documents may be removed, and when.

A plan that no longer wants a document requests its removal. The guard waits until no further request has come for a
while, decides about all requests together, and removes none of them if there are suspiciously many (the
removal limit). Events and complete lists are the only source of plans, so a wrong list must not remove everything.
"""

import asyncio
import contextlib
import datetime
import time
from collections.abc import Collection
from typing import Literal

import msgspec
import structlog

from usher_gateway.resources import removal_limit
from usher_operator.cache import Cache
from usher_operator.health import OperatorMetrics
from usher_operator.installation import Installation
from usher_operator.view import Key, ObjectRef
from usher_operator.workqueue import PauseGate, Workqueue

_log = structlog.get_logger(__name__)

_CHECK_SECONDS = 1.0
"""Interval at which the guard looks for work while no decision is due."""

DocumentKind = Literal["Listener", "Destination"]
DocumentId = tuple[DocumentKind, str]
"""Kind and ``namespace/name``."""


class RemovalDecision(msgspec.Struct, frozen=True):
    """Result of one decision."""

    allowed: frozenset[DocumentId] = frozenset()
    halted: removal_limit.HaltedRemovals | None = None


class PendingRemovals:
    """The requested removals that are not yet decided or are halted. Pure: times are monotonic seconds.

    Args:
        settle_seconds: a decision is due this long after the last request.
        max_settle_seconds: a decision is due at the latest this long after the first request.
    """

    def __init__(self, *, settle_seconds: float, max_settle_seconds: float) -> None:
        self._settle_seconds, self._max_settle_seconds = settle_seconds, max_settle_seconds
        self._requested: set[DocumentId] = set()
        self._first = self._last = 0.0
        self._is_decided = True
        self._is_reopened = False
        self._suspected: set[DocumentKind] = set()
        self._allowed: set[DocumentId] = set()
        self.halted: removal_limit.HaltedRemovals | None = None

    def request(self, document: DocumentId, now: float) -> bool:
        """Request the removal of a document; True if an earlier decision allows it already."""
        if document in self._allowed:
            return True
        if document not in self._requested:
            self._requested.add(document)
            if self._is_decided:
                self._first = now
            self._last, self._is_decided = now, False
        return False

    def withdraw(self, document: DocumentId) -> None:
        """Forget a document, because a plan wants it again or because it is deleted."""
        self._allowed.discard(document)
        if document in self._requested:
            self._requested.discard(document)
            self._is_reopened = self.halted is not None

    def suspect(self, kind: DocumentKind) -> None:
        """Halt every removal of a kind, however few, until a user confirms it or the documents are wanted again."""
        self._suspected.add(kind)

    def due_in(self, now: float) -> float | None:
        """Seconds until ``decide`` is to be called; None if no request waits for a decision."""
        if not self._requested or self._is_decided:
            return None
        return max(0.0, min(self._last + self._settle_seconds, self._first + self._max_settle_seconds) - now)

    def is_reopened(self, confirmed: Collection[str]) -> bool:
        """True if halted removals need a new decision: a document came back, or a user confirmed the removals."""
        return self._is_reopened or (self.halted is not None and self.halted.digest in confirmed)

    def decide(self, published: int, confirmed: Collection[str]) -> RemovalDecision:
        """Allow all requested removals, or none of them.

        Args:
            published: number of listener documents that are in force now.
            confirmed: digests that ListenerClasses carry.
        """
        was_suspicious = self.halted is not None and bool(self._suspected)
        self._is_decided, self._is_reopened, self.halted = True, False, None
        listeners = tuple(path for kind, path in self._requested if kind == "Listener")
        is_suspicious = any(kind in self._suspected for kind, _ in self._requested)
        others = tuple(f"{kind} {path}" for kind, path in self._requested) if is_suspicious else ()
        self.halted = removal_limit.halted_removals(
            listeners or others, in_force=published, confirmed=confirmed, is_suspicious=is_suspicious
        )
        if self.halted is not None:
            return RemovalDecision(frozenset(), self.halted)
        if is_suspicious or was_suspicious:
            self._suspected.clear()
        allowed = frozenset(self._requested)
        self._allowed |= allowed
        self._requested.clear()
        return RemovalDecision(allowed)

    @property
    def waiting(self) -> frozenset[DocumentId]:
        """Documents whose removal is halted or not yet decided."""
        return frozenset(self._requested)


class RemovalGuard:
    """Decides about pending removals at the right moments, and reports a halt."""

    def __init__(
        self,
        *,
        pending: PendingRemovals,
        cache: Cache,
        queue: Workqueue[Key],
        gate: PauseGate,
        installation: Installation,
        metrics: OperatorMetrics,
    ) -> None:
        self._pending, self._cache, self._queue = pending, cache, queue
        self._gate, self._installation, self._metrics = gate, installation, metrics
        self._wake = asyncio.Event()

    def check_soon(self) -> None:
        """Look at once whether a decision is due: something changed on which it may depend."""
        self._wake.set()

    async def run(self) -> None:
        """Decide whenever a decision is due, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pending.due_in(time.monotonic()) or _CHECK_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            is_due = self._pending.due_in(time.monotonic()) == 0.0
            if not is_due and not self._pending.is_reopened(self._cache.confirmations()):
                continue
            if self._gate.reasons or not self._installation.is_key_known:
                await asyncio.sleep(_CHECK_SECONDS)
                continue
            self._decide()

    def _decide(self) -> None:
        listeners = [key for key in self._cache.published_keys() if key.kind == "Listener"]
        before = self._pending.halted
        decision = self._pending.decide(len(listeners), self._cache.confirmations())
        halted = decision.halted
        if halted is not None and halted != before:
            _log.error("removals_halted", listeners=len(halted.names), digest=halted.digest)
        self._metrics.removals_halted.set(len(halted.names) if halted is not None else 0)
        for key in self._cache.set_halted(halted):
            self._queue.add(key)
        for kind, path in decision.allowed:
            namespace, _, name = path.partition("/")
            self._queue.add(Key(kind, namespace, name))


class TombstoneClock:
    """Counts for how long each tombstone has been in place. Pure.

    The age when a tombstone is first read is taken from its timestamp; from then on a monotonic clock counts. So a wall
    clock that jumps forward ends no tombstone early, and one that jumps back does not prolong it.
    """

    def __init__(self, seconds: float = 600.0) -> None:
        self._seconds = seconds
        """Age at which a tombstone may be deleted."""
        self._ends: dict[ObjectRef, tuple[str, float]] = {}
        """Timestamp of each tombstone, and its end by the monotonic clock."""

    def seconds_left(self, ref: ObjectRef, written_at: str, wall: datetime.datetime, monotonic: float) -> float:
        """Seconds until a tombstone may be deleted; zero or negative if it may be deleted now.

        Args:
            ref: the config Secret.
            written_at: timestamp in the tombstone (RFC 3339); an unreadable one counts as long ago.
            wall: the present wall-clock time.
            monotonic: the present time by the monotonic clock, in seconds.
        """
        known = self._ends.get(ref)
        if known is None or known[0] != written_at:
            known = (written_at, monotonic + self._seconds - max(0.0, _age_seconds(written_at, wall)))
            self._ends[ref] = known
        return known[1] - monotonic

    def forget(self, ref: ObjectRef) -> None:
        """Forget a tombstone that was deleted."""
        self._ends.pop(ref, None)


def _age_seconds(written_at: str, wall: datetime.datetime) -> float:
    try:
        written = datetime.datetime.fromisoformat(written_at)
    except ValueError:
        return float("inf")
    return (wall - written).total_seconds()
