"""Takes the steps of the replays that run: each gateway of a store tries, and one of them takes each step."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from usher_gateway import model
from usher_gateway.store.base import HoldsOf, IsPaused, MarkOfRoute, Replay
from usher_gateway.store.store import Store

_log = structlog.get_logger(__name__)

_IDLE_SECONDS = 5.0
"""How often a gateway looks for replays that another one started, or that a crash interrupted."""

_BUSY_SECONDS = 1.0
"""Pause of a replay that has many due deliveries."""

_LONGEST_PAUSE = 60 * model.MICROSECONDS
"""A longer pause comes from a clock that was set back."""


class ReplayRunner:
    """Takes the next steps of all replays, as fast as their rates allow.

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
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look for replays at once."""
        self._wake.set()

    async def run(self) -> None:
        """Take steps until cancelled."""
        while True:
            self._wake.clear()
            seconds = _IDLE_SECONDS
            try:
                for replay in await self._store.running_replays():
                    seconds = min(seconds, await self._step(replay))
            except model.StoreUnavailableError as error:
                _log.warning("replay_interrupted", reason=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)

    async def _step(self, replay: Replay) -> float:
        """Take a step if its time has come; return how many seconds the next one has to wait at least."""
        left = replay.next_at - self._now()
        if 0 < left <= _LONGEST_PAUSE:
            return left / model.MICROSECONDS
        try:
            if await self._store.is_replay_waiting(replay):
                return _BUSY_SECONDS
            created = await self._store.step_replay(
                replay,
                self._now(),
                holds_of=self._holds_of,
                mark_of_route=self._mark_of_route,
                is_paused=self._is_paused,
            )
        except model.StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - a replay that fails must not end the others
            _log.error("replay_failed", replay=model.format_id(replay.id), error=type(error).__name__)
            return _IDLE_SECONDS
        if created:
            self._ask_store()
        return 0.0
