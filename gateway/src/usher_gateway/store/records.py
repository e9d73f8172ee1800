"""The rows that people look at and change: visits, deliveries, quarantine, persons, usage."""

import abc
import datetime
import functools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.base import (
    LONGEST_PAGE,
    AttemptRecord,
    AuditEntry,
    AuditFilter,
    Backlog,
    Change,
    Erasure,
    ErasureReport,
    ErasureRequest,
    ErasureState,
    Filter,
    HoldsOf,
    IsPaused,
    Link,
    ListingPage,
    MarkOfRoute,
    Period,
    Replay,
    ReplayPreview,
    ReplayRequest,
    ReplayState,
    RouteBacklog,
    SuppressedTenant,
    UsageRow,
    VisitBody,
    no_holds,
    no_marks,
    not_paused,
)
from usher_gateway.store.encodings import unknown_listener
from usher_gateway.store.jobs import (
    audit,
    changes,
    claims,
    creation,
    erasures,
    links,
    listings,
    meters,
    replays,
    suppressions,
)
from usher_gateway.store.jobs.retention import ExpiredArrival
from usher_gateway.store.transaction import JobRunner, Transaction

_RELEASE_SLICE = 20
"""Arrivals that one job releases; each has up to 32 routes."""

_PREVIEW_SECONDS = 20.0
"""How long the preview of a replay counts."""

_SCAN_SECONDS = 1.0
"""How long a step of a replay looks for verdicts before it records how far it came."""

_ANY = Filter()


class Records(JobRunner):
    """The part of the store that the admin port serves: its queries, and the changes that people ask for."""

    _usage_part_seconds: int
    """The longest period that one query of usage() reads."""
    settling_seconds = 0
    """Seconds after which each gateway of the store knows of a change, and attempts that ran before have ended; 0: only
    one gateway uses the store."""

    async def store_time(self, now: int) -> int:
        """Return the time in microseconds by a clock that all gateways of the store share. ``now``: by this one's."""
        return now

    async def _end_of_older_writes(self) -> None:
        """Wait until transactions of other gateways have ended that may not have seen the last commit."""

    async def visits(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """List the arrivals of the ledger with their verdicts.

        If few rows match, a page ends early with a cursor. ``reason`` is a quarantine or skip reason; ``state`` is
        ``released`` or ``unreleased`` (quarantined arrivals).

        Raises:
            ValueError: the filter or the cursor is invalid.
        """
        return await self._look_up(lambda session: listings.visits(session, where, cursor, limit))

    async def deliveries(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """List deliveries of every state; the state ``held`` selects the held part of the pending ones.

        ``reason`` is a hold or cancel reason, or the code of an error. Pages end early as those of visits() do.

        Raises:
            ValueError: the filter or the cursor is invalid.
        """
        return await self._look_up(lambda session: listings.deliveries(session, where, cursor, limit))

    async def body(self, arrival: bytes) -> tuple[bytes, bytes]:
        """Return body and content type of an arrival.

        Raises:
            NotFoundError: the arrival does not exist, or the retention of its body has ended.
        """
        return await self._look_up(lambda session: listings.body(session, arrival))

    async def visit_bodies(self, where: Filter, limit: int, after: int = 0) -> list[VisitBody]:
        """Return the bodies of visits and repeats, oldest first, after a row key.

        Uses the names and the period of the filter.
        """
        return await self._look_up(lambda session: listings.visit_bodies(session, where, limit, after))

    async def stored_arrivals(self, keys: Collection[int]) -> list[model.Arrival]:
        """Return the arrivals with given row keys whose bodies are stored, without plans, oldest first."""
        return await self._look_up(lambda session: creation.stored_arrivals(session, keys))

    async def answer(self, delivery: bytes) -> bytes:
        """Return the last answer of a dead delivery's destination (at most 256 bytes).

        Raises:
            NotFoundError: the delivery does not exist, or it has no answer.
        """
        return await self._look_up(lambda session: listings.answer(session, delivery))

    async def attempts(self, delivery: bytes) -> list[AttemptRecord]:
        """Return the last 10 attempts of a delivery, the oldest first. A redrive keeps those before it.

        Raises:
            NotFoundError: the delivery does not exist.
        """
        return await self._look_up(lambda session: listings.attempts(session, delivery))

    async def of_person(self, persons: Collection[bytes], cursor: str | None, limit: int) -> ListingPage:
        """List the arrivals that have any of these person keys, newest first, as `visits` does.

        Raises:
            ValueError: the cursor is invalid.
        """
        return await self._look_up(lambda session: listings.of_person(session, frozenset(persons), cursor, limit))

    async def verdicts(self, arrival: bytes) -> list[tuple[model.RouteDefinition, model.SkipReason | None]]:
        """Return each verdict on an arrival: the route as it was then, and why it created no delivery.

        Raises:
            NotFoundError: the arrival does not exist.
        """
        verdicts = await self._look_up(lambda session: listings.verdicts(session, arrival))
        await self._load_routes([route for route, _ in verdicts])
        return [(self.route(route), model.SkipReason(skip) if skip else None) for route, skip in verdicts]

    async def earlier_visit(self, arrival: bytes) -> bytes | None:
        """Return the id of the visit of the same visitor before a repeat; None if the body had no ids of a person."""
        return await self._look_up(lambda session: listings.earlier_visit(session, arrival))

    async def oldest_arrival(self) -> int | None:
        """Return when the oldest arrival of the ledger was received; None if there is none."""
        return await self._look_up(listings.oldest_arrival)

    async def redrive(self, where: Filter, now: int, holds_of: HoldsOf = no_holds) -> int:
        """Make dead deliveries pending and due again, or held, with no attempts made; return how many.

        Redrives cancelled deliveries only if ``state`` asks for them. Leaves out deliveries without a body and those
        past their time limit.
        """
        total = 0
        holds_by_route: changes.Holds = {}
        async for keys in self._slices(changes.redrivable, where):
            routes = await self._look_up(functools.partial(changes.routes_of, keys=keys))
            await self._add_holds(holds_by_route, routes, holds_of)
            total += await self._change(functools.partial(changes.redrive, keys=keys, now=now, holds=holds_by_route))
        return total

    async def cancel(self, where: Filter, now: int, on_cancelled: Callable[[Sequence[int]], None]) -> int:
        """Cancel pending deliveries (``OnRequest``), held and claimed ones too; return how many.

        ``on_cancelled`` receives the row keys of each slice, so that the caller can drop those in lanes. A result that
        a running attempt brings later is ignored.

        Raises:
            ValueError: ``state`` asks for deliveries that are not pending.
        """
        total = 0
        async for keys in self._slices(changes.pending, where):
            cancelled = await self._change(functools.partial(changes.cancel, keys=keys, now=now))
            on_cancelled(cancelled)
            total += len(cancelled)
        return total

    async def preview(self, change: Change, where: Filter, now: int) -> Mapping[str, int]:
        """Return how many deliveries a change would change: by hold or cancel reason, or by the error's code.

        Those that were never tried count as ``NotTried``.

        Raises:
            ValueError: ``state`` asks for deliveries that the change does not select.
        """
        query = changes.redrivable if change == "redrive" else changes.pending
        total: Counter[str] = Counter()
        async for keys in self._slices(query, where):
            total += await self._look_up(functools.partial(changes.count_changeable, change=change, keys=keys, now=now))
        return total

    async def retry(self, where: Filter, now: int) -> int:
        """Make deliveries of the backlog due at once that wait for a later retry; return how many.

        Raises:
            ValueError: ``state`` asks for deliveries that are not pending.
        """
        total = 0
        async for keys in self._slices(changes.pending, where):
            total += await self._change(functools.partial(changes.retry, keys=keys, now=now))
        return total

    async def quarantined(self, where: Filter, limit: int, after: int = 0) -> list[model.Arrival]:
        """Return quarantined arrivals that can be released, oldest first, with bodies but without plans.

        ``after`` is the row key of the last arrival of the previous call. ``Truncated`` and ``Unstorable`` arrivals are
        never returned.
        """
        return await self._look_up(lambda session: changes.quarantined(session, where, limit, after))

    async def release(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        """Create the ``if_visit`` deliveries of quarantined arrivals that were not released before; return how many.

        The plans become the arrival's verdicts, and the store adds the person keys of the given arrivals.
        """
        total = 0
        for start in range(0, len(arrivals), _RELEASE_SLICE):
            part = arrivals[start : start + _RELEASE_SLICE]
            total += await self._change(functools.partial(changes.release, arrivals=part, now=now))
        return total

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
        find = functools.partial(replays.next_verdicts, request=request, arrivals=LONGEST_PAGE, most=LONGEST_PAGE)
        while True:
            verdicts, cursor = await self._look_up(functools.partial(find, cursor=cursor))
            facts = await self._replay_facts(request, verdicts, mark_of_route, is_paused)
            count = functools.partial(
                replays.preview, verdicts=verdicts, request=request, facts=facts, taken=taken, now=now
            )
            report, chosen = await self._look_up(count)
            result.report.add(report)
            replays.add_sample(result, chosen, self.route)
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
        found = await self._look_up(lambda session: replays.listed(session, identifier))
        if not found:
            raise model.NotFoundError("there is no such replay", "use an id from `usher replays`")
        return found[0]

    async def cancel_replay(self, replay: Replay, now: int) -> bool:
        """End a replay that runs; return whether it ran. Its deliveries stay as they are."""
        return await self._set_replay_state(replay, ReplayState.Running, ReplayState.Cancelled, now)

    async def resume_replay(self, replay: Replay, now: int) -> bool:
        """Let a cancelled replay go on where it was; return whether it was cancelled."""
        return await self._set_replay_state(replay, ReplayState.Cancelled, ReplayState.Running, now)

    async def _set_replay_state(self, replay: Replay, former: ReplayState, present: ReplayState, now: int) -> bool:
        return await self._change(lambda transaction: replays.set_state(transaction, replay.key, former, present, now))

    async def preview_erasure(self, persons: Collection[bytes]) -> ErasureReport:
        """Return what an erasure of these person keys would erase now."""
        return await self._look_up(lambda session: erasures.preview(session, persons))

    async def start_erasure(self, request: ErasureRequest, now: int) -> Erasure:
        """Write an erasure, whose steps delete what is stored of the person."""
        store_time = await self.store_time(now)
        return await self._change(lambda transaction: erasures.start(transaction, request, now, store_time))

    async def left_to_erase(self, requests: Sequence[Erasure]) -> dict[int, list[int]]:
        """Return row key of an erasure -> the row keys of arrivals that it has to erase, the oldest first.

        If gateways share the store, it covers also what comes until it has ended, because row keys are made by the
        clocks of gateways, and these differ.
        """
        to_request = not self.settling_seconds
        return await self._look_up(lambda session: erasures.left_to_erase(session, requests, to_request=to_request))

    async def erase(
        self,
        left: Mapping[int, Sequence[int]],
        now: int,
        on_cancelled: Callable[[Sequence[int]], None],
        mark_of_route: MarkOfRoute = no_marks,
    ) -> bool:
        """Erase some arrivals, about `erasures.STEP`, in one transaction; return False if all erasures have ended.

        Args:
            left: as from left_to_erase(). An erasure without arrivals only begins.
            now: microseconds.
            on_cancelled: receives the row keys of pending deliveries, so that the caller can drop those in lanes.
            mark_of_route: returns how the once-per marks of a route are made.
        """
        keys = sorted({key for keys in left.values() for key in keys})
        job = functools.partial(
            erasures.erase,
            left=left,
            now=now,
            store_time=await self.store_time(now),
            marks=await self._marks_to_erase(keys, mark_of_route),
            forget=self._forget_arrivals,
        )
        cancelled = await self._change(job)
        if cancelled:
            on_cancelled(cancelled)
        return cancelled is not None

    async def _marks_to_erase(self, keys: Sequence[int], mark_of_route: MarkOfRoute) -> dict[int, set[bytes]]:
        """Return row key of an arrival -> its once-per marks, as far as their routes and bodies exist."""
        routes = await self._look_up(lambda session: erasures.routes_of(session, keys))
        numbers = {number for of_arrival in routes.values() for number in of_arrival}
        await self._load_routes(numbers)
        rules = {number: rule for number in numbers if (rule := mark_of_route(self.route(number))) is not None}
        if not rules:
            return {}
        arrivals = await self._look_up(lambda session: creation.stored_arrivals(session, keys))
        return {
            arrival.key: {rules[number](arrival)[0] for number in routes.get(arrival.key, ()) if number in rules}
            for arrival in arrivals
        }

    async def settled_to(self, now: int) -> int:
        """Return until when an erasure can have changed, by the store's clock, if it may end now.

        No gateway has a delivery that was cancelled before then in a lane or in an attempt.
        """
        return await self.store_time(now) - self.settling_seconds * model.MICROSECONDS

    async def complete_erasures(self, requests: Sequence[Erasure], now: int) -> bool:
        """End erasures that have nothing left to erase; return False if some have to wait."""
        settled_to = await self.settled_to(now)
        settled = await self._change(  # before the purge
            lambda transaction: erasures.forget_persons(transaction, requests, settled_to)
        )
        if not settled or not await self._purge():
            return False
        await self._change(lambda transaction: erasures.end(transaction, settled, ErasureState.Completed, now))
        return len(settled) == len(requests)

    async def cancel_erasure(self, erasure: Erasure, now: int) -> bool:
        """End an erasure that runs; return whether it ran. Erased visits stay erased."""
        cancelled = ErasureState.Cancelled
        return bool(await self._change(lambda transaction: erasures.end(transaction, [erasure], cancelled, now)))

    async def running_erasures(self, after: int = 0) -> list[Erasure]:
        """Return erasures that have not ended, the oldest first, from a row key on; at most `erasures.PAGE`."""
        return await self._read(lambda session: erasures.running(session, after))

    async def list_erasures(self) -> list[Erasure]:
        """Return the newest erasures, at most 100."""
        return await self._look_up(erasures.listed)

    async def find_erasure(self, identifier: bytes) -> Erasure:
        """Return an erasure.

        Raises:
            NotFoundError: it does not exist.
        """
        found = await self._look_up(lambda session: erasures.listed(session, identifier))
        if not found:
            raise model.NotFoundError("there is no such erasure", "use an id from `usher person requests`")
        return found[0]

    async def suppress(
        self, tenants: Mapping[bytes, str], now: int, on_cancelled: Callable[[Sequence[int]], None]
    ) -> int:
        """Store and send nothing more of some person keys; return how many were not suppressed before.

        From the first commit on no visit is stored. Then the pending deliveries are cancelled, slice by slice; a second
        call does the rest after a crash. ``on_cancelled`` is as for cancel().

        Args:
            tenants: person key -> its tenant, ``namespace/name``.
            now: microseconds.
            on_cancelled: receives the row keys of each slice.
        """
        added = await self._change(lambda transaction: suppressions.add(transaction, tenants, now))
        await self._end_of_older_writes()  # a visit that one of these accepts is pending then, and is cancelled too
        pending = await self._look_up(lambda session: erasures.pending_deliveries(session, tenants.keys()))
        for start in range(0, len(pending), changes.SLICE):
            keys, reason = pending[start : start + changes.SLICE], model.CancelReason.Suppressed
            cancel = functools.partial(changes.cancel, keys=keys, now=now, reason=reason)
            on_cancelled(await self._change(cancel))
        return added

    async def unsuppress(self, persons: Collection[bytes]) -> int:
        """Store and send visits of some person keys again; return how many were suppressed."""
        return await self._change(lambda transaction: suppressions.remove(transaction, persons))

    async def suppressed(self, persons: Collection[bytes]) -> set[bytes]:
        """Return those of some person keys that are suppressed."""
        return await self._look_up(lambda session: suppressions.among(session, persons))

    async def tenants_suppressing(self, persons: Collection[bytes]) -> set[str]:
        """Return the tenants, as ``namespace/name``, at which some person keys are suppressed."""
        return await self._look_up(lambda session: suppressions.tenants_of(session, persons))

    async def suppressed_by_tenant(self) -> list[SuppressedTenant]:
        """Return each tenant that has suppressed persons."""
        return await self._look_up(suppressions.by_tenant)

    async def add_link(self, link: Link, digest: bytes) -> None:
        """Add a link; ``digest``: of its token."""
        await self._change(lambda transaction: links.add(transaction, link, digest))

    async def links(self) -> list[Link]:
        """Return the links, the newest first."""
        return await self._look_up(links.listed)

    async def find_link(self, identifier: str) -> Link | None:
        """Return a link by its id."""
        return await self._look_up(lambda session: links.find(session, identifier))

    async def find_link_by_digest(self, digest: bytes) -> Link | None:
        """Return a link by the digest of its token."""
        return await self._look_up(lambda session: links.find_by_digest(session, digest))

    async def open_link(self, identifier: str, now: int) -> bool:
        """Record that a link was opened; return False if it was opened before, is revoked or has expired."""
        return await self._change(lambda transaction: links.open_once(transaction, identifier, now))

    async def use_link(self, identifier: str, now: int) -> None:
        """Record that the pages of a link were asked for."""
        await self._change(lambda transaction: links.use(transaction, identifier, now))

    async def revoke_link(self, identifier: str, now: int) -> bool:
        """Revoke a link for good; return False if it was revoked before."""
        return await self._change(lambda transaction: links.revoke(transaction, identifier, now))

    @abc.abstractmethod
    async def _forget_arrivals(
        self, transaction: Transaction, arrivals: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]
    ) -> None:
        """Delete arrivals with all their rows. ``deliveries``: the keys of theirs."""

    async def _purge(self) -> bool:
        """Remove the traces of deleted rows from the engine's files; return False if that has to be tried again."""
        return True

    async def add_audit_entry(self, entry: AuditEntry) -> None:
        """Add an entry to the audit log; it is durable afterwards."""
        await self._change(lambda transaction: audit.add(transaction, entry))

    async def audit_entries(
        self, where: AuditFilter, cursor: str | None, limit: int
    ) -> tuple[list[AuditEntry], str | None]:
        """Return a page of the audit log, newest first, and the cursor of the next page; None at the end.

        Raises:
            ValueError: the cursor is invalid.
        """
        return await self._look_up(lambda session: audit.entries(session, where, cursor, limit))

    async def usage(
        self,
        since: int,
        until: int,
        where: Filter = _ANY,
        period: Period = "slot",
        zone: datetime.tzinfo = datetime.UTC,
    ) -> list[UsageRow]:
        """Return the meters of the slots in [since, until), including unfolded counts; one snapshot per slot.

        Days and months begin at midnight of ``zone``: slots are quarters of an hour, and so are the offsets of zones.
        Uses only ``namespace``, ``tenant`` and ``listener`` of the filter. Sorted by period, then listener. The counts
        that retention adds itself (``carried``) are in slot 0, so only a query with ``since=0`` returns them.
        """
        first, end = since // model.MICROSECONDS, -(-until // model.MICROSECONDS)
        oldest, youngest = await self._look_up(meters.bounds)
        parts = list(meters.parts(max(first, oldest), min(end, youngest), self._usage_part_seconds))
        if first <= 0:
            parts.insert(0, (0, 1))
        totals: dict[tuple[int, int], model.Counts] = {}
        for start, stop in parts:
            part = await self._look_up(
                functools.partial(meters.usage, since=start, until=stop, where=where, period=period, zone=zone)
            )
            for key, counts in part.items():
                books.add(totals.setdefault(key, {}), counts)
        names = await self._look_up(meters.listener_names)
        rows = [
            UsageRow(names.get(listener) or unknown_listener(listener), start, counts)
            for (start, listener), counts in totals.items()
        ]
        return sorted(rows, key=lambda row: (row.period, row.listener))

    async def totals(self, since: int, until: int, where: Filter = _ANY) -> dict[int, model.Counts]:
        """Return slot -> the counts of all listeners that a filter selects, for the slots in [since, until).

        Uses the same names of the filter as usage(). A query over all listeners adds up inside of the engine.
        """
        first, end = since // model.MICROSECONDS, -(-until // model.MICROSECONDS)
        if where == _ANY:
            return await self._look_up(lambda session: meters.totals(session, max(first, 0), end))
        by_slot: dict[int, model.Counts] = {}
        for row in await self.usage(since, until, where):
            books.add(by_slot.setdefault(row.period, {}), row.counts)
        return by_slot

    async def open_deliveries(self, at: int) -> Mapping[model.ListenerName, int]:
        """Count the deliveries that were open at a slot border, by listener; listeners without any are left out.

        In one snapshot, the store counts the pending rows and subtracts the changes since the border according to the
        meters. So the result for the instant 0 is empty, unless the meters and the rows disagree.
        """
        return await self._look_up(lambda session: meters.open_deliveries(session, at))

    async def listener_names(self) -> Collection[model.ListenerName]:
        """Return every listener that something was counted for."""
        return (await self._look_up(meters.listener_names)).values()

    def routes(self) -> Collection[model.RouteDefinition]:
        """Return every route that deliveries were made for."""
        return list(self._names.definitions.values())  # a copy, because SQLite's writer adds some in its thread

    async def backlogs(self) -> list[Backlog]:
        """Return every destination with deliveries in the backlog, with their number."""
        return await self._read(claims.backlogs)

    async def backlog_by_route(self) -> list[RouteBacklog]:
        """Return the routes with deliveries in the backlog."""
        backlog = await self._read(claims.backlog_by_route)
        await self._load_routes([waiting.route for waiting in backlog])
        return backlog

    async def dead_by_route(self) -> Mapping[int, int]:
        """Return how many dead deliveries each route has."""
        dead = await self._read(claims.dead_by_route)
        await self._load_routes(dead)
        return dead

    async def _add_holds(self, holds_by_route: changes.Holds, routes: Iterable[int], holds_of: HoldsOf) -> None:
        """Find out once per route what holds its deliveries."""
        new = set(routes) - holds_by_route.keys()
        await self._load_routes(new)
        for route in new:
            holds_by_route[route] = await holds_of(self.route(route))

    async def _replay_facts(
        self,
        request: ReplayRequest,
        verdicts: Sequence[replays.Verdict],
        mark_of_route: MarkOfRoute,
        is_paused: IsPaused,
    ) -> replays.Facts:
        """Return the marks of skipped verdicts whose route has a once-per rule, and the routes that are paused."""
        routes = {verdict.route for verdict in verdicts}
        await self._load_routes(routes)
        rules = {route: rule for route in routes if (rule := mark_of_route(self.route(route))) is not None}
        paused = frozenset([route for route in routes if is_paused(self.route(route))])
        keys = {verdict.arrival for verdict in verdicts if verdict.skip and verdict.route in rules}
        if request.ignores_once_per or not keys:
            return replays.Facts({}, paused)
        arrivals = await self._look_up(functools.partial(creation.stored_arrivals, keys=keys))
        return replays.Facts(await replays.make_marks(verdicts, arrivals, rules), paused)
