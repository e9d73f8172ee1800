"""Takes steps for running replays and erasures: each gateway at a store tries, and one gateway takes each step."""

import asyncio
import collections
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import structlog

from usher_gateway import model
from usher_gateway.store.base import Erasure, ErasureState, HoldsOf, IsPaused, MarkOfRoute, Replay
from usher_gateway.store.jobs.erasures import STEP
from usher_gateway.store.store import Store

_log = structlog.get_logger(__name__)

_IDLE_SECONDS = 5.0  # How often a gateway looks for what another one started, or a crash interrupted
_REPLAYS_OF_TENANT = 3  # Replays of a tenant, or of the tenants of one limited token, that take steps at a time
_BUSY_SECONDS = 1.0  # Pause of a replay that has many due deliveries
_ERASURE_PAUSE_SECONDS = 0.02  # Pause between two transactions of an erasure, in which arrivals are committed

# Pause before a round of erasures, so that requests that follow each other are searched for and purged together.
_GATHERING_SECONDS = 0.25

_COMPLETION_SECONDS = 1.0  # Pause before an erasure that could not be completed tries that again
_SEARCHED_PERSONS = 2_000  # Person keys of one search
_ARRIVALS_OF_ROUND = 1_000  # Most arrivals that a round erases for one request, because those of other tenants wait
_LONGEST_PAUSE_SECONDS = 60.0  # A longer pause comes from a clock that was set back


class StepRunner:
    """Takes steps for what people asked for, until there is nothing left to do.

    ``take_all`` takes a step for each that runs, and returns the seconds until the next round.
    """

    def __init__(self, name: str, take_all: Callable[[], Awaitable[float]]) -> None:
        self._name, self._take_all = name, take_all
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look for something to run at once."""
        self._wake.set()

    async def run(self) -> None:
        """Take steps until cancelled."""
        while True:
            self._wake.clear()
            try:
                seconds = await self._take_all()
            except model.StoreUnavailableError as error:
                _log.warning("steps_interrupted", kind=self._name, reason=str(error))
                seconds = _IDLE_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(seconds, _IDLE_SECONDS))


class ReplaySteps:
    """Takes a replay's steps, as fast as its rate allows."""

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

    async def take_all(self) -> float:
        """Take a step for each tenant's oldest replays; return the seconds until the next round."""
        pauses, last = [_IDLE_SECONDS], 0
        taken: collections.Counter[bytes] = collections.Counter()
        while replays := await self._store.running_replays(last):
            last = replays[-1].key
            for replay in replays:
                requester = replay.request.requester
                taken[requester] += 1
                if taken[requester] <= _REPLAYS_OF_TENANT:
                    pauses.append(await self._take_or_log(replay))
        return min(pauses)

    async def _take_or_log(self, replay: Replay) -> float:
        try:
            return await self._take(replay)
        except Exception as error:  # noqa: BLE001 - one that fails must not end the others
            _log_failure("replay", replay, error)
            return _IDLE_SECONDS

    async def _take(self, replay: Replay) -> float:
        """Take a step if its time has come; return the seconds until the next one."""
        seconds = (replay.next_at - self._now()) / model.MICROSECONDS
        if 0 < seconds <= _LONGEST_PAUSE_SECONDS:
            return seconds
        if await self._store.is_replay_waiting(replay.key):
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
    """Takes an erasure's steps. ``forget_cancelled`` drops cancelled deliveries, by their row keys, from lanes."""

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

    async def take_all(self) -> float:
        """Take a step for each erasure; return the seconds until the next round."""
        await asyncio.sleep(_GATHERING_SECONDS)
        pauses, last = [_IDLE_SECONDS], 0
        while erasures := await self._store.running_erasures(last):
            last = erasures[-1].key
            settling = await self._store.settling_times(self._now())
            due = [erasure for erasure in erasures if _is_due(erasure, settling)]
            if len(due) < len(erasures):
                pauses.append(_COMPLETION_SECONDS)
            pauses += [await self._take_or_log(together) for together in _searched_together(due)]
        return min(pauses)

    async def _take_or_log(self, erasures: Sequence[Erasure]) -> float:
        try:
            return await self._take(erasures)
        except Exception as error:  # noqa: BLE001 - one that fails must not end the others
            if len(erasures) > 1:
                return min([await self._take_or_log([erasure]) for erasure in erasures])
            _log_failure("erasure", erasures[0], error)
            return _IDLE_SECONDS

    async def _take(self, erasures: Sequence[Erasure]) -> float:
        """Erase some arrivals of these persons, and end the erasures that have nothing left."""
        arrivals_of = await self._store.left_to_erase(erasures)
        unfinished = [
            erasure.key for erasure in erasures if erasure.state is ErasureState.Pending or arrivals_of[erasure.key]
        ]
        for step in _steps({key: arrivals_of[key][:_ARRIVALS_OF_ROUND] for key in unfinished}):
            if not await self._store.erase(step, self._now(), self._forget_cancelled, self._mark_of_route):
                break
            await asyncio.sleep(_ERASURE_PAUSE_SECONDS)
        ending = [erasure for erasure in erasures if not arrivals_of[erasure.key]]
        all_ended = not ending or await self._store.complete_erasures(ending, self._now())
        if len(ending) < len(erasures):
            return 0.0
        return _IDLE_SECONDS if all_ended else _COMPLETION_SECONDS


def _is_due(erasure: Erasure, settling: range) -> bool:
    """Return whether to look for arrivals: at first, and when the erasure may end."""
    return erasure.state is ErasureState.Pending or erasure.report.changed_at not in settling


def _searched_together(erasures: Sequence[Erasure]) -> Iterator[list[Erasure]]:
    """Divide erasures so that one search has a limited number of person keys, unless one erasure has more."""
    together: list[Erasure] = []
    for erasure in erasures:
        if together and sum(len(member.request.persons) for member in (*together, erasure)) > _SEARCHED_PERSONS:
            yield together
            together = []
        together.append(erasure)
    if together:
        yield together


def _steps(arrivals_of: Mapping[int, Sequence[int]]) -> Iterator[dict[int, Sequence[int]]]:
    """Divide the arrivals left to erase into steps of `STEP`."""
    step: dict[int, Sequence[int]] = {}
    for erasure, arrivals in arrivals_of.items():
        for start in range(0, max(len(arrivals), 1), STEP):
            part = arrivals[start : start + STEP]
            if step and sum(map(len, step.values())) + len(part) > STEP:
                yield step
                step = {}
            step[erasure] = part
    if step:
        yield step


def _log_failure(kind: str, request: Replay | Erasure, error: Exception) -> None:
    if isinstance(error, model.StoreUnavailableError):
        _log.warning("steps_interrupted", kind=kind, reason=str(error))
    else:
        _log.error("step_failed", kind=kind, request=model.format_id(request.id), error=type(error).__name__)
