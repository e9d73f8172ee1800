"""Takes the steps of replays and erasures that run: each gateway of a store tries, and one of them takes each step."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from usher_gateway import model
from usher_gateway.store.base import Erasure, HoldsOf, IsPaused, MarkOfRoute, Replay
from usher_gateway.store.jobs.erasures import STEP
from usher_gateway.store.store import Store

_log = structlog.get_logger(__name__)

_IDLE_SECONDS = 5.0
"""How often a gateway looks for what another one started, or a crash interrupted."""

_BUSY_SECONDS = 1.0
"""Pause of a replay that has many due deliveries."""

_ERASURE_PAUSE_SECONDS = 0.02
"""Pause between two transactions of an erasure, in which arrivals are committed."""

_COMPLETION_SECONDS = 1.0
"""Pause before an erasure that could not be completed tries that again."""

_LONGEST_PAUSE = 60 * model.MICROSECONDS
"""A longer pause comes from a clock that was set back."""


_Request = TypeVar("_Request", Replay, Erasure)


class StepRunner(Generic[_Request]):
    """Takes the next steps of what people asked for, as fast as each allows.

    Args:
        name: of what it runs, in the log.
        running: returns what has not ended.
        step: takes a step of one if its time has come; returns how many seconds the next one has to wait at least.
    """

    def __init__(
        self,
        name: str,
        running: Callable[[], Awaitable[Sequence[_Request]]],
        step: Callable[[_Request], Awaitable[float]],
    ) -> None:
        self._name = name
        self._running: Callable[[], Awaitable[Sequence[_Request]]] = running
        self._step: Callable[[_Request], Awaitable[float]] = step
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look for something to run at once."""
        self._wake.set()

    async def run(self) -> None:
        """Take steps until cancelled."""
        while True:
            self._wake.clear()
            seconds = _IDLE_SECONDS
            try:
                for request in await self._running():
                    seconds = min(seconds, await self._try(request))
            except model.StoreUnavailableError as error:
                _log.warning("steps_interrupted", kind=self._name, reason=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)

    async def _try(self, request: _Request) -> float:
        try:
            return await self._step(request)
        except model.StoreUnavailableError as error:
            _log.warning("steps_interrupted", kind=self._name, reason=str(error))
            return _IDLE_SECONDS
        except Exception as error:  # noqa: BLE001 - one that fails must not end the others
            _log.error("step_failed", kind=self._name, request=model.format_id(request.id), error=type(error).__name__)
            return _IDLE_SECONDS


class ReplaySteps:
    """Takes the steps of a replay, as fast as its rate allows.

    Args:
        store: has the replays.
        now: microseconds.
        holds_of: returns what holds deliveries of a route now.
        mark_of_route: returns how the once-per marks of a route are made.
        is_paused: returns whether a route is paused or in shadow mode.
        ask_store: lets the dispatcher look for due deliveries.
    """

    def __init__(
        self,
        *,
        store: Store,
        now: Callable[[], int],
        holds_of: HoldsOf,
        mark_of_route: MarkOfRoute,
        is_paused: IsPaused,
        ask_store: Callable[[], None],
    ) -> None:
        self._store, self._now, self._ask_store = store, now, ask_store
        self._holds_of, self._mark_of_route, self._is_paused = holds_of, mark_of_route, is_paused

    async def take(self, replay: Replay) -> float:
        """Take a step if its time has come; return how many seconds the next one has to wait at least."""
        left = replay.next_at - self._now()
        if 0 < left <= _LONGEST_PAUSE:
            return left / model.MICROSECONDS
        if await self._store.is_replay_waiting(replay):
            return _BUSY_SECONDS
        created = await self._store.step_replay(
            replay,
            self._now(),
            holds_of=self._holds_of,
            mark_of_route=self._mark_of_route,
            is_paused=self._is_paused,
        )
        if created:
            self._ask_store()
        return 0.0


class ErasureSteps:
    """Takes the steps of an erasure.

    Args:
        store: has the erasures.
        now: microseconds.
        forget_cancelled: drops cancelled deliveries, by their row keys, from the lanes.
        mark_of_route: returns how the once-per marks of a route are made.
    """

    def __init__(
        self,
        *,
        store: Store,
        now: Callable[[], int],
        forget_cancelled: Callable[[Sequence[int]], None],
        mark_of_route: MarkOfRoute,
    ) -> None:
        self._store, self._now = store, now
        self._forget_cancelled, self._mark_of_route = forget_cancelled, mark_of_route

    async def take(self, erasure: Erasure) -> float:
        """Erase a part, or end the erasure; return how many seconds the next step has to wait at least."""
        keys = await self._store.left_to_erase(erasure)
        for start in range(0, len(keys), STEP):
            part = keys[start : start + STEP]
            await self._store.erase(erasure, part, self._now(), self._forget_cancelled, self._mark_of_route)
            await asyncio.sleep(_ERASURE_PAUSE_SECONDS)
        if keys or await self._store.complete_erasure(erasure, self._now()):
            return 0.0
        return _COMPLETION_SECONDS
