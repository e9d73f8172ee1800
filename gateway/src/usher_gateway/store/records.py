"""The rows that people look at and change: visits, deliveries, quarantine, persons, usage."""

import datetime
import functools
from collections.abc import Callable, Collection, Mapping, Sequence

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.base import (
    AttemptRecord,
    AuditEntry,
    AuditFilter,
    Backlog,
    Change,
    ChangePreview,
    Filter,
    HoldsOf,
    Link,
    ListingPage,
    Period,
    RouteBacklog,
    UsageRow,
    VisitBody,
    ignore_ids,
    no_holds,
)
from usher_gateway.store.encodings import unknown_listener
from usher_gateway.store.ended_slots import EndedSlots
from usher_gateway.store.group_commit import GroupCommit
from usher_gateway.store.jobs import (
    audit,
    changes,
    claims,
    creation,
    links,
    listings,
    meters,
)
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.person_records import PersonRecords
from usher_gateway.store.replay_records import ReplayRecords

_RELEASE_SLICE = 20
"""Arrivals that one job releases; each has up to 32 routes."""

_ANY = Filter()


class Records(PersonRecords, ReplayRecords):
    """The part of the store that the admin port serves: its queries, and the changes that people ask for."""

    _usage_part_seconds: int
    """The longest period that one query of usage() reads."""

    def __init__(self, *, commits: GroupCommit, names: NameNumbers, now: Callable[[], int]) -> None:
        super().__init__(commits=commits, names=names, now=now)
        self._ended_slots = EndedSlots(self._look_up, now)

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

    async def oldest_arrival(self, where: Filter) -> int | None:
        """Return when the oldest arrival of the listeners that a filter selects by names and permits was received.

        None: there is none, or only newer ones than the oldest 10,000 of the store.
        """
        return await self._look_up(lambda session: listings.oldest_arrival(session, where))

    async def redrive(
        self,
        where: Filter,
        now: int,
        holds_of: HoldsOf = no_holds,
        on_redriven: Callable[[Sequence[bytes]], None] = ignore_ids,
    ) -> int:
        """Make dead deliveries pending and due again, or held, with no attempts made; return how many.

        Redrives cancelled deliveries only if ``state`` asks for them. Leaves out deliveries without a body and those
        past their time limit. ``on_redriven`` receives the ids of each slice.
        """
        total = 0
        holds_by_route: changes.Holds = {}
        async for keys in self._slices(changes.redrivable, where):
            routes = await self._look_up(functools.partial(changes.routes_of, keys=keys))
            await self._add_holds(holds_by_route, routes, holds_of)
            redrive = functools.partial(changes.redrive, keys=keys, now=now, holds=holds_by_route)
            redriven = await self._change(redrive)
            on_redriven(redriven)
            total += len(redriven)
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

    async def preview(self, change: Change, where: Filter, now: int) -> ChangePreview:
        """Return how many deliveries a change would change, by reason, by destination and by tenant.

        Raises:
            ValueError: ``state`` asks for deliveries that the change does not select.
        """
        query = changes.redrivable if change == "redrive" else changes.pending
        preview = ChangePreview()
        async for keys in self._slices(query, where):
            job = functools.partial(changes.count_changeable, change=change, keys=keys, now=now)
            counts = await self._look_up(job)
            preview.left_out += len(keys) - counts.total()
            await self._load_routes({key.route for key in counts})
            for (reason, route, is_held_again), count in counts.items():
                preview.held_again += count if is_held_again else 0
                definition = self.route(route)
                preview.reasons[reason] += count
                preview.destinations[definition.destination] += count
                preview.tenants[f"{definition.listener.namespace}/{definition.listener.tenant}"] += count
        return preview

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
        await self._change(lambda transaction: links.record_use(transaction, identifier, now))

    async def revoke_link(self, identifier: str, now: int) -> bool:
        """Revoke a link for good; return False if it was revoked before."""
        return await self._change(lambda transaction: links.revoke(transaction, identifier, now))

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
        parts = list(meters.parts(max(first, oldest), min(end, youngest), self._usage_part_seconds, period, zone))
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

    async def usage_of_day(self, since: int, where: Filter = _ANY) -> list[UsageRow]:
        """Return the meters of each listener in the 24 hours from ``since``, a border of slots, as usage() does.

        Uses only ``namespace`` and ``tenant`` of the filter, and the permitted tenants.
        """
        begin = since // model.MICROSECONDS
        names = await self._look_up(meters.listener_names)
        selected = {number for number, name in names.items() if where.selects(name.namespace, name.tenant)}
        counts_by_listener = await self._ended_slots.day(begin, None if where == _ANY else selected)
        return [
            UsageRow(names.get(listener) or unknown_listener(listener), begin, counts)
            for listener, counts in counts_by_listener.items()
        ]

    async def totals(self, since: int, until: int, where: Filter = _ANY) -> dict[int, model.Counts]:
        """Return slot -> the counts of all listeners that a filter selects, for the slots in [since, until).

        Uses the same names of the filter as usage(). A query over all listeners adds up inside of the engine.
        """
        first, end = since // model.MICROSECONDS, -(-until // model.MICROSECONDS)
        if where == _ANY:
            return await self._ended_slots.totals(max(first, 0), end)
        by_slot: dict[int, model.Counts] = {}
        for row in await self.usage(since, until, where):
            books.add(by_slot.setdefault(row.period, {}), row.counts)
        return by_slot

    async def open_deliveries(self, at: int, where: Filter = _ANY) -> Mapping[model.ListenerName, int]:
        """Count the deliveries that were open at a slot border, by listener; listeners without any are left out.

        Uses the same names of the filter as usage().

        In one snapshot, the store counts the pending rows and subtracts the changes since the border according to the
        meters. So the result for the instant 0 is empty, unless the meters and the rows disagree.
        """
        return await self._look_up(lambda session: meters.open_deliveries(session, at, where))

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
