"""The rows that people look at and change: visits, deliveries, quarantine, persons, usage."""

import datetime
import functools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.base import (
    ANY,
    Change,
    ChangePreview,
    Filter,
    HoldsOf,
    Period,
    RouteBacklog,
    UsageRow,
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
from usher_gateway.store.transaction import change, look_up

_RELEASE_SLICE = 20  # Arrivals that one job releases; each has up to 32 routes
_VISITS_SLICE = 500  # Listeners whose visits one query adds up; a month has 3,000 slots


class Records(PersonRecords, ReplayRecords):
    """The part that the admin port serves: its queries, and the changes that people ask for."""

    visits = look_up(listings.visits)
    deliveries = look_up(listings.deliveries)
    body = look_up(listings.body)
    visit_bodies = look_up(listings.visit_bodies)
    stored_arrivals = look_up(creation.stored_arrivals)
    answer = look_up(listings.answer)
    attempts = look_up(listings.attempts)
    earlier_visit = look_up(listings.earlier_visit)
    oldest_arrival = look_up(listings.oldest_arrival)
    quarantined = look_up(changes.quarantined)

    add_link = change(links.add)
    has_room_for_link = look_up(links.has_room)
    list_links = look_up(links.listed)
    find_link = look_up(links.find)
    find_link_by_digest = look_up(links.find_by_digest)
    open_link = change(links.open_once)
    use_link = change(links.record_use)
    revoke_link = change(links.revoke)

    add_audit_entry = change(audit.add)
    audit_entries = look_up(audit.entries)

    open_deliveries = look_up(meters.open_deliveries)

    _usage_part_seconds: int
    """The longest period that one query of usage() reads."""

    def __init__(self, *, commits: GroupCommit, names: NameNumbers, now: Callable[[], int]) -> None:
        super().__init__(commits=commits, names=names, now=now)
        self._ended_slots = EndedSlots(self._look_up, now)

    async def verdicts(self, arrival: bytes) -> list[tuple[model.RouteDefinition, model.SkipReason | None]]:
        """Return each verdict on an arrival: the route as it was then, and why it created no delivery.

        Raises:
            NotFoundError: the arrival does not exist.
        """
        verdicts = await self._look_up(lambda session: listings.verdicts(session, arrival))
        await self._load_routes([route for route, _ in verdicts])
        return [(self.route(route), model.SkipReason(skip) if skip else None) for route, skip in verdicts]

    async def redrive(
        self,
        where: Filter,
        now: int,
        holds_of: HoldsOf,
        on_redriven: Callable[[Sequence[bytes]], None],
    ) -> int:
        """Make dead deliveries pending and due again, or held, with no attempts made; return how many.

        Redrives cancelled deliveries only if ``state`` asks for them. Leaves out deliveries without a body and those
        past their time limit. ``on_redriven`` receives each slice's ids.
        """
        total, state = 0, changes.redriven_state(where)
        holds_by_route: changes.Holds = {}
        async for keys in self._slices(changes.redrivable, where):
            routes = await self._look_up(functools.partial(changes.routes_of, keys=keys))
            await self._add_holds(holds_by_route, routes, holds_of)
            redrive = functools.partial(changes.redrive, keys=keys, now=now, holds=holds_by_route, state=state)
            redriven = await self._change(redrive)
            on_redriven(redriven)
            total += len(redriven)
        return total

    async def cancel(self, where: Filter, now: int, on_cancelled: Callable[[Sequence[int]], None]) -> int:
        """Cancel pending deliveries (``OnRequest``), held and claimed ones too; return how many.

        ``on_cancelled`` receives each slice's row keys, so that the caller can drop those in lanes. A result that
        a running attempt brings later is ignored.

        Raises:
            ValueError: ``state`` asks for deliveries that are not pending.
        """
        total = 0
        async for keys in self._slices(changes.pending, where):
            cancelled = await self._change(functools.partial(claims.cancel, keys=keys, now=now))
            on_cancelled(cancelled)
            total += len(cancelled)
        return total

    async def preview(self, kind: Change, where: Filter, now: int) -> ChangePreview:
        """Return how many deliveries a change would change, by reason, by destination and by tenant.

        Raises:
            ValueError: ``state`` asks for deliveries that the change does not select.
        """
        query = changes.redrivable if kind == "redrive" else changes.pending
        preview = ChangePreview()
        async for keys in self._slices(query, where):
            job = functools.partial(changes.count_changeable, change=kind, keys=keys, now=now)
            counts = await self._look_up(job)
            preview.left_out += len(keys) - counts.total()
            await self._load_routes({route for _, route in counts})
            for (reason, route), count in counts.items():
                definition = self.route(route)
                preview.reasons[reason] += count
                preview.destinations[definition.destination] += count
                preview.tenants[definition.listener.tenant_key] += count
        return preview

    async def retry(self, where: Filter, now: int) -> int:
        """Make deliveries due at once that wait in the backlog for a later retry; return how many.

        Raises:
            ValueError: ``state`` asks for deliveries that are not pending.
        """
        total = 0
        async for keys in self._slices(changes.pending, where):
            total += await self._change(functools.partial(claims.make_due, keys=keys, now=now))
        return total

    async def release(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        """Create the ``if_visit`` deliveries for quarantined arrivals that were not released before; return how many.

        The plans become the arrival's verdicts, and the store adds the given arrivals' person keys.
        """
        total = 0
        for start in range(0, len(arrivals), _RELEASE_SLICE):
            part = arrivals[start : start + _RELEASE_SLICE]
            total += await self._change(functools.partial(changes.release, arrivals=part, now=now))
        return total

    async def usage(
        self,
        since: int,
        until: int,
        where: Filter = ANY,
        period: Period = "slot",
        zone: datetime.tzinfo = datetime.UTC,
    ) -> list[UsageRow]:
        """Return the meters for the slots in [since, until), including unfolded counts; one snapshot per slot.

        Days and months begin at midnight in ``zone``: slots are quarters of an hour, and so are zones' offsets.
        Uses only the filter's ``namespace``, ``tenant`` and ``listener``. Sorted by period, then listener. The counts
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

    async def usage_of_day(self, since: int, where: Filter = ANY) -> list[UsageRow]:
        """Return each listener's meters in the 24 hours from ``since``, a slot border, as usage() does.

        Uses only the filter's ``namespace`` and ``tenant``, and the permitted tenants.
        """
        begin = since // model.MICROSECONDS
        names = await self._look_up(meters.listener_names)
        selected = {number for number, name in names.items() if where.selects(name.namespace, name.tenant)}
        counts_by_listener = await self._ended_slots.day(begin, None if where == ANY else selected)
        return [
            UsageRow(names.get(listener) or unknown_listener(listener), begin, counts)
            for listener, counts in counts_by_listener.items()
        ]

    async def totals(self, since: int, until: int, where: Filter = ANY) -> dict[int, model.Counts]:
        """Return slot -> counts for all listeners that a filter selects, for the slots in [since, until).

        Uses the same names from the filter as usage(). A query over all listeners adds up inside the engine.
        """
        first, end = since // model.MICROSECONDS, -(-until // model.MICROSECONDS)
        if where == ANY:
            return await self._ended_slots.totals(max(first, 0), end)
        by_slot: dict[int, model.Counts] = {}
        for row in await self.usage(since, until, where):
            books.add(by_slot.setdefault(row.period, {}), row.counts)
        return by_slot

    async def visits_of_tenants(
        self, tenants: Collection[tuple[str, str]], since: int, until: int
    ) -> Counter[tuple[str, str]]:
        """Return (namespace, tenant) -> visits in the slots in [since, until)."""
        tenant_of = {
            number: (name.namespace, name.tenant)
            for number, name in (await self._look_up(meters.listener_names)).items()
            if (name.namespace, name.tenant) in tenants
        }
        listeners = list(tenant_of)
        first, end = since // model.MICROSECONDS, -(-until // model.MICROSECONDS)
        counts: Counter[tuple[str, str]] = Counter()
        for start in range(0, len(listeners), _VISITS_SLICE):
            part = set(listeners[start : start + _VISITS_SLICE])
            visits = await self._look_up(functools.partial(meters.visits, since=first, until=end, listeners=part))
            for listener, count in visits.items():
                counts[tenant_of[listener]] += count
        return counts

    async def listener_names(self) -> Collection[model.ListenerName]:
        """Return every listener that something was counted for."""
        return (await self._look_up(meters.listener_names)).values()

    def routes(self) -> Collection[model.RouteDefinition]:
        """Return every route that deliveries were made for: listener, name and destination, without the rest."""
        return list(self._names.routes)  # a copy, because SQLite's writer adds some in its thread

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
