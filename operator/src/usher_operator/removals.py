"""Which published documents may go, and when: gathered, judged together, held back where they are suspiciously many.

A document goes because a plan no longer wants it; a plan knows only what events and complete lists have said. Pure:
times are seconds of a clock that only grows.
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
from usher_operator.installation import Installation
from usher_operator.metrics import OperatorMetrics
from usher_operator.view import Key, ObjectRef
from usher_operator.workqueue import PauseGate, Workqueue

Kind = Literal["Listener", "Destination"]
Identity = tuple[Kind, str]
"""Kind and ``namespace/name``."""


class RemovalVerdict(msgspec.Struct, frozen=True):
    """What comes of one judgement."""

    allowed: frozenset[Identity] = frozenset()
    halted: removal_limit.HaltedRemovals | None = None


class PendingRemovals:
    """Removals that are wanted and not yet judged, and those that are held back."""

    def __init__(self, settle_seconds: float, settle_most_seconds: float) -> None:
        self._settle, self._settle_most = settle_seconds, settle_most_seconds
        self._wanted: set[Identity] = set()
        self._first = self._last = 0.0
        self._is_settled = True
        self._is_reopened = False
        self._suspected: set[Kind] = set()
        self._allowed: set[Identity] = set()
        self.halted: removal_limit.HaltedRemovals | None = None

    def want(self, identity: Identity, now: float) -> bool:
        """A document is wanted no more; True where it may go at once because that was judged already."""
        if identity in self._allowed:
            return True
        if identity not in self._wanted:
            self._wanted.add(identity)
            if self._is_settled:
                self._first = now
            self._last, self._is_settled = now, False
        return False

    def keep(self, identity: Identity) -> None:
        """A document is wanted, or gone for good."""
        self._allowed.discard(identity)
        if identity in self._wanted:
            self._wanted.discard(identity)
            self._is_reopened = self.halted is not None

    def suspect(self, kind: Kind) -> None:
        """What is wanted to go of a kind waits for a person, however little it is, until it is confirmed or back."""
        self._suspected.add(kind)

    def due_in(self, now: float) -> float | None:
        """Seconds until ``judge`` is to be called; None where nothing waits for it."""
        if not self._wanted or self._is_settled:
            return None
        return max(0.0, min(self._last + self._settle, self._first + self._settle_most) - now)

    def is_reopened(self, confirmed: Collection[str]) -> bool:
        """Whether what is held back is to be judged anew: some of it is wanted again, or a person has confirmed it."""
        return self._is_reopened or (self.halted is not None and self.halted.digest in confirmed)

    def judge(self, published: int, confirmed: Collection[str]) -> RemovalVerdict:
        """Let everything through, or nothing.

        Args:
            published: how many listener documents are in force now.
            confirmed: digests that ListenerClasses carry.
        """
        was_suspicious = self.halted is not None and bool(self._suspected)
        self._is_settled, self._is_reopened, self.halted = True, False, None
        listeners = tuple(key for kind, key in self._wanted if kind == "Listener")
        is_suspicious = any(kind in self._suspected for kind, _ in self._wanted)
        others = tuple(f"{kind} {key}" for kind, key in self._wanted) if is_suspicious else ()
        self.halted = removal_limit.halted_removals(
            listeners or others, in_force=published, confirmed=confirmed, is_suspicious=is_suspicious
        )
        if self.halted is not None:
            return RemovalVerdict(frozenset(), self.halted)
        if is_suspicious or was_suspicious:
            self._suspected.clear()
        allowed = frozenset(self._wanted)
        self._allowed |= allowed
        self._wanted.clear()
        return RemovalVerdict(allowed)

    @property
    def waiting(self) -> frozenset[Identity]:
        """What is held back or not yet judged."""
        return frozenset(self._wanted)


class TombstoneClock:
    """Counts each one's time: as old as it says when it is first seen, from then on by a clock that only grows.

    So a wall clock that is set forward ends none too early, and one that is set back keeps none for longer.
    """

    def __init__(self) -> None:
        self.seconds = 600.0
        """Age at which a tombstone may go."""
        self._ends: dict[ObjectRef, tuple[str, float]] = {}
        """What it says, and when by the steady clock its time is over."""

    def left(self, ref: ObjectRef, said_at: str, wall: datetime.datetime, steady: float) -> float:
        """Seconds until it may go; none or less where it may go now.

        Args:
            ref: the config Secret.
            said_at: when the removal was said (RFC 3339); unreadable means long ago.
            wall: the time.
            steady: the same by a clock that only grows, in seconds.
        """
        known = self._ends.get(ref)
        if known is None or known[0] != said_at:
            known = (said_at, steady + self.seconds - max(0.0, _age(said_at, wall)))
            self._ends[ref] = known
        return known[1] - steady

    def forget(self, ref: ObjectRef) -> None:
        """It is gone."""
        self._ends.pop(ref, None)


def _age(said_at: str, wall: datetime.datetime) -> float:
    try:
        said = datetime.datetime.fromisoformat(said_at)
    except ValueError:
        return float("inf")
    return (wall - said).total_seconds()


_log = structlog.get_logger(__name__)

_HOLD_SECONDS = 1.0


class RemovalGuard:
    """Calls ``Removals.judge`` at the right moments."""

    def __init__(
        self,
        pending: PendingRemovals,
        cache: Cache,
        queue: Workqueue[Key],
        around: tuple[PauseGate, Installation, OperatorMetrics],
    ) -> None:
        self._removals, self._cache, self._queue = pending, cache, queue
        self._trust, self._installation, self._metrics = around
        self._wake = asyncio.Event()

    def poke(self) -> None:
        """Something happened on which a judgement may depend."""
        self._wake.set()

    async def run(self) -> None:
        """Judge, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._removals.due_in(time.monotonic()) or _HOLD_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            is_due = self._removals.due_in(time.monotonic()) == 0.0
            if not is_due and not self._removals.is_reopened(self._cache.confirmations()):
                continue
            if self._trust.reasons or not self._installation.is_key_known:
                await asyncio.sleep(_HOLD_SECONDS)
                continue
            self._judge()

    def _judge(self) -> None:
        listeners = [key for key in self._cache.published_keys() if key.kind == "Listener"]
        before = self._removals.halted
        verdict = self._removals.judge(len(listeners), self._cache.confirmations())
        halted = verdict.halted
        if halted is not None and halted != before:
            _log.error("removals_halted", listeners=len(halted.names), digest=halted.digest)
        self._metrics.removals_halted.set(len(halted.names) if halted is not None else 0)
        for key in self._cache.set_halted(halted):
            self._queue.add(key)
        for kind, path in verdict.allowed:
            namespace, _, name = path.partition("/")
            self._queue.add(Key(kind, namespace, name))
