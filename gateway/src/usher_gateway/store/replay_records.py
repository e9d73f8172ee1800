"""Replays in the store: preview, start, step, cancel and resume them."""

import functools
import time
from collections.abc import Iterable, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store.base import (
    LONGEST_PAGE,
    HoldsOf,
    IsPaused,
    MarkOfRoute,
    Replay,
    ReplayPreview,
    ReplayRequest,
    ReplaySample,
    ReplayState,
    no_holds,
    no_marks,
    not_paused,
)
from usher_gateway.store.jobs import changes, creation, replays
from usher_gateway.store.transaction import JobRunner

_PREVIEW_SECONDS = 20.0
"""How long the preview of a replay counts."""

_ENDED = {state.name.lower() for state in model.DeliveryState} - {replays.PENDING}

_SCAN_SECONDS = 1.0
"""How long a step of a replay looks for verdicts before it records how far it came."""


class ReplayRecords(JobRunner):
    """The part of the store that replays visits."""

    async def preview_replay(
        self,
        request: ReplayRequest,
        now: int,
        *,
        mark_of_route: MarkOfRoute = no_marks,
        is_paused: IsPaused = not_paused,
    ) -> ReplayPreview:
        """Return what a replay would do. Counts for a limited time.

        Raises:
            ValueError: the filter is invalid.
        """
        result, taken, cursor = ReplayPreview(), set[bytes](), None
        end = time.monotonic() + _PREVIEW_SECONDS
        with_pending = request
        if not request.results.isdisjoint(_ENDED):
            with_pending = msgspec.structs.replace(request, results=request.results | {replays.PENDING})
        find = functools.partial(replays.next_verdicts, request=with_pending, arrivals=LONGEST_PAGE, most=LONGEST_PAGE)
        while True:
            verdicts, cursor = await self._look_up(functools.partial(find, cursor=cursor))
            facts = await self._replay_facts(request, verdicts, mark_of_route, is_paused)
            count = functools.partial(
                replays.preview, verdicts=verdicts, request=request, facts=facts, taken=taken, now=now
            )
            chosen, report, pending = await self._look_up(count)
            result.held += sum(candidate.hold > 0 for candidate in pending)
            result.waiting += sum(candidate.hold == 0 for candidate in pending)
            taken |= replays.marks_of(chosen, facts).keys()
            result.report.add(report)
            routes = [self.route(candidate.verdict.route) for candidate in chosen]
            result.destinations.update([route.destination for route in routes])
            result.tenants.update([f"{route.listener.namespace}/{route.listener.tenant}" for route in routes])
            for candidate in chosen[: replays.SAMPLE - len(result.sample)]:
                route = self.route(candidate.verdict.route)
                result.sample.append(ReplaySample(candidate.visit, candidate.received_at, route, candidate.result))
            if cursor is None or time.monotonic() > end:
                result.is_complete = cursor is None
                return result

    async def start_replay(self, request: ReplayRequest, now: int) -> Replay:
        """Write a replay, whose steps create the deliveries."""
        return await self._change(lambda transaction: replays.start(transaction, request, now))

    async def step_replay(
        self,
        replay: Replay,
        now: int,
        *,
        holds_of: HoldsOf = no_holds,
        mark_of_route: MarkOfRoute = no_marks,
        is_paused: IsPaused = not_paused,
    ) -> int | None:
        """Take the next step of a replay; return how many deliveries it created, due or held.

        None: another gateway took the step, or the replay has ended.
        """
        request = replay.request
        find = functools.partial(
            replays.next_verdicts,
            request=request,
            arrivals=replays.STEP,
            most=min(replays.STEP, request.per_second),
        )
        verdicts, below = await self._look_up(functools.partial(find, cursor=replay.place or None))
        end = time.monotonic() + _SCAN_SECONDS
        while not verdicts and below is not None and time.monotonic() < end:
            verdicts, below = await self._look_up(functools.partial(find, cursor=below))
        holds: changes.Holds = {}
        await self._add_holds(holds, [verdict.route for verdict in verdicts], holds_of)
        facts = await self._replay_facts(request, verdicts, mark_of_route, is_paused)
        step = functools.partial(
            replays.take_step, replay=replay, verdicts=verdicts, below=below, holds=holds, facts=facts, now=now
        )
        return await self._change(step)

    async def is_replay_waiting(self, replay: Replay) -> bool:
        """Return whether so many deliveries of a replay are due that it must create no more."""
        due = await self._look_up(lambda session: replays.count_due(session, replay.key))
        return due >= replays.WAITING_AT_MOST

    async def running_replays(self) -> list[Replay]:
        """Return the replays that have not ended, the oldest first."""
        return await self._read(replays.running)

    async def list_replays(self) -> list[Replay]:
        """Return the newest replays, at most 100, with the numbers of their deliveries."""
        return await self._look_up(replays.listed)

    async def find_replay(self, identifier: bytes) -> Replay:
        """Return a replay with the numbers of its deliveries.

        Raises:
            NotFoundError: the replay does not exist.
        """
        replays_with_id = await self._look_up(lambda session: replays.listed(session, identifier))
        if not replays_with_id:
            raise model.NotFoundError("there is no such replay", "use an id from `usher replays`")
        return replays_with_id[0]

    async def cancel_replay(self, replay: Replay, now: int) -> bool:
        """End a replay that runs; return whether it ran. Its deliveries stay as they are."""
        return await self._set_replay_state(replay, ReplayState.Running, ReplayState.Cancelled, now)

    async def resume_replay(self, replay: Replay, now: int) -> bool:
        """Let a cancelled replay go on where it was; return whether it was cancelled."""
        return await self._set_replay_state(replay, ReplayState.Cancelled, ReplayState.Running, now)

    async def _set_replay_state(self, replay: Replay, former: ReplayState, present: ReplayState, now: int) -> bool:
        return await self._change(lambda transaction: replays.set_state(transaction, replay.key, former, present, now))

    async def _replay_facts(
        self,
        request: ReplayRequest,
        verdicts: Sequence[replays.Verdict],
        mark_of_route: MarkOfRoute,
        is_paused: IsPaused,
    ) -> replays.RouteFacts:
        """Return the marks of skipped verdicts whose route has a once-per rule, and the routes that are paused."""
        routes = {verdict.route for verdict in verdicts}
        await self._load_routes(routes)
        rules = {route: rule for route in routes if (rule := mark_of_route(self.route(route))) is not None}
        paused = frozenset([route for route in routes if is_paused(self.route(route))])
        keys = {verdict.arrival for verdict in verdicts if verdict.skip and verdict.route in rules}
        if request.ignores_once_per or not keys:
            return replays.RouteFacts({}, paused)
        arrivals = await self._look_up(functools.partial(creation.stored_arrivals, keys=keys))
        return replays.RouteFacts(await replays.make_marks(verdicts, arrivals, rules), paused)

    async def _add_holds(self, holds_by_route: changes.Holds, routes: Iterable[int], holds_of: HoldsOf) -> None:
        """Find out once per route what holds its deliveries."""
        new = set(routes) - holds_by_route.keys()
        await self._load_routes(new)
        for route in new:
            holds_by_route[route] = await holds_of(self.route(route))
