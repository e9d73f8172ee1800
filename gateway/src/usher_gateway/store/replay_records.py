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
)
from usher_gateway.store.jobs import changes, creation, replays
from usher_gateway.store.transaction import JobRunner, change, look_up, read

_PREVIEW_SECONDS = 20.0  # How long the preview of a replay counts

_ENDED = {state.name.lower() for state in model.DeliveryState} - {replays.PENDING}

_SCAN_SECONDS = 1.0  # How long a step of a replay looks for verdicts before it records how far it came


class ReplayRecords(JobRunner):
    """The part of the store that replays visits."""

    start_replay = change(replays.start)
    is_replay_waiting = look_up(replays.is_waiting)
    running_replays = read(replays.running)
    has_room_for_replay = look_up(replays.has_room)
    list_replays = look_up(replays.listed)
    find_replay = look_up(replays.find)
    cancel_replay = change(replays.cancel)
    resume_replay = change(replays.resume)

    async def preview_replay(
        self,
        request: ReplayRequest,
        now: int,
        *,
        mark_of_route: MarkOfRoute,
        is_paused: IsPaused,
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
            result.waiting += sum(candidate.hold <= 0 for candidate in pending)
            taken |= replays.marks_of(chosen, facts).keys()
            result.report.add(report)
            routes = [self.route(candidate.verdict.route) for candidate in chosen]
            result.destinations.update([route.destination for route in routes])
            result.tenants.update([route.listener.tenant_key for route in routes])
            for candidate in chosen[: replays.SAMPLE - len(result.sample)]:
                route = self.route(candidate.verdict.route)
                result.sample.append(ReplaySample(candidate.visit, candidate.received_at, route, candidate.result))
            if cursor is None or time.monotonic() > end:
                result.is_complete = cursor is None
                return result

    async def step_replay(
        self,
        replay: Replay,
        now: int,
        *,
        holds_of: HoldsOf,
        mark_of_route: MarkOfRoute,
        is_paused: IsPaused,
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
            holds_by_route[route] = holds_of(self.route(route))
