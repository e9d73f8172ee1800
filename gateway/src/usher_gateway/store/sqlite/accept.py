"""Accept the arrivals of a batch inside the writer's transaction: look up facts, decide, write rows.

Apart from HTTP, an arrival costs most here (docs/performance.md). So one pass over the batch builds plain tuples, and
arrivals that count alike are counted together at the end. For the writer's thread only.
"""

from collections.abc import Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.decide import ArrivalDecision, DedupeFacts, KnownContent, decide, quota_key
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.recent_index import RecentArrival, short_key
from usher_gateway.store.sqlite.transaction import (
    FLAG_FIRST,
    FLAG_LATE,
    FLAG_TRUSTED,
    FLAG_UNACKNOWLEDGED,
    HOLD_FLAGS,
    RouteNumbers,
    Transaction,
    pack_body,
    row_bytes,
)

_COUNTED = {
    model.CountedAs.Visit: model.Counter.visits,
    model.CountedAs.Repeat: model.Counter.repeats,
    model.CountedAs.Redelivery: model.Counter.redeliveries,
    model.CountedAs.Quarantined: model.Counter.quarantined,
}
_DAY = 86_400 * model.MICROSECONDS

MONTH_VISITS = "select sum(count) from meters where listener = ? and slot >= ? and slot < ? and counter = 1"
"""The visits of a listener in some slots, from an index. The planner uses it only if the counter is a literal."""

_ARRIVAL = f"({','.join('?' * 14)})"
_DELIVERY = "(?,?,?,?,?,0,?,0,0,?,?,?,?,0,0,0,0,'',null)"
"""A new delivery: pending, in a lane or held, without attempts."""

_SIGHTING_IN_WINDOW = (
    "select column1, (select visit_time from sightings"
    " where visitor = column1 and visit_time > column2 and visit_time < column3 limit 1) from (values {})"
)
"""Find one visit time per visitor inside a window. Columns of the values: visitor, start and end of the window."""

_PRINTS = "select print, arrival from prints where print in ({})"
"""Find the first acceptances of contents, by 64 bits of the fingerprint."""

_FINGERPRINTS = "select key, received_at, flags, fingerprint from arrivals where key in ({})"
"""Get whole fingerprints, to confirm what _PRINTS found."""

_ONCE_MARKS = "select mark from once_marks where mark in ({})"
"""Find the once-per marks that exist."""

_Kind = tuple[model.CountedAs, bool, tuple[model.SkipReason | None, ...]]
"""(counted as, late, each route's skip reason): arrivals with the same values add the same to the meters."""

_encode = msgspec.msgpack.Encoder().encode


def _counters_of(kind: _Kind) -> list[tuple[int, int]]:
    """Return pairs of a counter and what one arrival of a kind adds to it."""
    counted_as, is_late, skips = kind
    counters = {int(_COUNTED[counted_as]): 1}
    if is_late:
        counters[int(model.Counter.late)] = 1
    if skips:
        counters[int(model.Counter.routed)] = len(skips)
    for skip in skips:
        counter = int(model.Counter.created if skip is None else books.SKIPPED[skip])
        counters[counter] = counters.get(counter, 0) + 1
    return list(counters.items())


def _flags(arrival: model.Arrival, *, is_first: bool) -> int:
    flags = (FLAG_TRUSTED * arrival.time_trusted) | (FLAG_LATE * arrival.late) | (FLAG_FIRST * is_first)
    if arrival.token_held:
        flags |= HOLD_FLAGS[model.HoldReason.TokenHeld]
    if arrival.over_quota:
        flags |= HOLD_FLAGS[model.HoldReason.QuotaExceeded]
    return flags


class _PlanSkips(msgspec.Struct, frozen=True):
    """The skip reasons of some plans."""

    plans: tuple[model.RoutePlan, ...]
    skips: tuple[model.SkipReason | None, ...]
    """One per plan."""
    reasons: tuple[model.SkipReason, ...]
    """Only of the plans that skip."""

    @classmethod
    def of(cls, plans: tuple[model.RoutePlan, ...]) -> "_PlanSkips":
        skips = tuple([plan.skip for plan in plans])
        return cls(plans, skips, tuple([skip for skip in skips if skip is not None]))


class Acceptance:
    """Accepts the arrivals of one batch."""

    def __init__(self, transaction: Transaction, arrivals: Sequence[model.Arrival], now: int) -> None:
        self._transaction = transaction
        self._arrivals = arrivals
        self._now = now
        self._names = transaction.names
        self._ids = transaction.ids
        self._accepted: list[model.Accepted] = []
        self._recent: list[RecentArrival] = []
        self._arrival_rows: list[database.Row] = []
        self._body_rows: list[database.Row] = []
        self._delivery_rows: list[database.Row] = []
        self._tallies: dict[_Kind, dict[tuple[int, int], int]] = {}
        """Kind -> (listener, slot) -> arrivals."""
        self._skips: dict[int, _PlanSkips] = {}
        """Plans by identity, because most listeners have the same plans for every body."""

    def run(self) -> tuple[list[model.Accepted], list[RecentArrival]]:
        """Write all rows; return the results, and the arrivals to add to the recent index after the commit."""
        facts = self._facts()
        marks_before = set(facts.once_marks)
        for arrival, key in zip(self._arrivals, self._ids.next_keys(len(self._arrivals)), strict=True):
            arrival.key = key
            self._accept(arrival, decide(arrival, facts), facts)
        self._insert(facts.once_marks - marks_before)
        self._count()
        self._forget_months()
        return self._accepted, self._recent

    def _accept(self, arrival: model.Arrival, decision: ArrivalDecision, facts: DedupeFacts) -> None:
        counted_as, plans = decision.counted_as, decision.verdicts
        listener = self._names.listener(arrival.listener)
        verdicts: list[tuple[int, int, int]] = []
        due: list[model.Delivery] = []
        for plan in plans:
            route = self._names.route(plan.route)
            if plan.skip is not None:
                verdicts.append((route.number, plan.skip.value, 0))
            else:
                delivery = self._add_delivery(arrival, route, plan)
                verdicts.append((route.number, 0, delivery.key))
                if plan.hold is None:
                    due.append(delivery)
        known = self._skips.get(id(plans))
        if known is None or known.plans is not plans:
            known = self._skips[id(plans)] = _PlanSkips.of(plans)
        kind = (counted_as, arrival.late, known.skips)
        meter = (listener, model.slot_of(arrival.received_at))
        tally = self._tallies.get(kind)
        if tally is None:
            tally = self._tallies[kind] = {}
        tally[meter] = tally.get(meter, 0) + 1
        self._accepted.append(model.Accepted(counted_as, tuple(due), known.reasons))
        self._add_arrival(
            arrival, listener, counted_as, verdicts, facts.contents[arrival.fingerprint].arrival == arrival.key
        )

    def _add_delivery(self, arrival: model.Arrival, route: RouteNumbers, plan: model.RoutePlan) -> model.Delivery:
        """Add the row of a new delivery, and return the delivery as it is claimed."""
        key, now, hold = self._ids.next_key(), self._now, plan.hold
        identifier = self._ids.id_of(key)
        self._delivery_rows.append(
            (
                key,
                identifier,
                arrival.key,
                route.number,
                route.destination,
                0 if hold is None else hold.value,
                now,
                now,
                now,
                plan.expires_at,
            )
        )
        return model.Delivery(
            key,
            identifier,
            arrival.key,
            route.number,
            now,
            arrival.received_at,
            arrival.visit_time,
            arrival.late,
            arrival.hops,
            0,
            now,
            plan.expires_at,
            hold,
            arrival.body,
            arrival.content_type,
        )

    def _add_arrival(
        self,
        arrival: model.Arrival,
        listener: int,
        counted_as: model.CountedAs,
        verdicts: list[tuple[int, int, int]],
        is_first: bool,
    ) -> None:
        key, received_at, visit_time = arrival.key, arrival.received_at, arrival.visit_time
        quarantine = arrival.quarantine
        self._arrival_rows.append(
            (
                key,
                self._ids.id_of(key),
                listener,
                received_at,
                visit_time,
                counted_as.value,
                _flags(arrival, is_first=is_first),
                0 if quarantine is None else quarantine.value,
                arrival.hops,
                arrival.body_size,
                arrival.fingerprint,
                arrival.visitor_key,
                b"".join(arrival.person_keys),
                _encode(verdicts),
            )
        )
        expires_day = received_at // _DAY + arrival.body_days + 1
        body = pack_body(arrival.body)
        self._body_rows.append((key, expires_day, arrival.content_type, body))
        self._transaction.add_stored_bytes(listener, len(body) + row_bytes(verdicts))
        is_visit = counted_as is model.CountedAs.Visit
        self._recent.append(
            RecentArrival(key, received_at, arrival.fingerprint, arrival.visitor_key, visit_time, is_visit, is_first)
        )

    def _insert(self, new_marks: set[bytes]) -> None:
        connection = self._transaction.connection
        database.insert_rows(connection, "insert into arrivals", _ARRIVAL, self._arrival_rows)
        database.insert_rows(connection, "insert into bodies", "(?,?,?,?)", self._body_rows)
        database.insert_rows(connection, "insert into deliveries", _DELIVERY, self._delivery_rows)
        if new_marks:
            plans = [plan for arrival in self._arrivals for plan in (*arrival.if_visit, *arrival.if_repeat)]
            until = {plan.once_key: plan.once_until for plan in plans}
            database.insert_rows(
                connection, "insert into once_marks", database.PAIR, [(mark, until[mark]) for mark in sorted(new_marks)]
            )

    def _count(self) -> None:
        meters = self._transaction.meters
        for kind, tally in self._tallies.items():
            counters = _counters_of(kind)
            for (listener, slot), count in tally.items():
                for counter, times in counters:
                    key = (listener, slot, counter)
                    meters[key] = meters.get(key, 0) + count * times

    def _facts(self) -> DedupeFacts:
        contents: dict[bytes, KnownContent] = {}
        sightings: dict[bytes, list[int]] = {}
        missing: dict[int, bytes] = {}
        visitors: dict[int, bytes] = {}
        unseen: list[database.Row] = []
        once: set[bytes] = set()
        recent_index = self._transaction.recent_index
        for arrival in self._arrivals:
            known = recent_index.content_of(arrival.fingerprint)
            if known is not None:
                contents[arrival.fingerprint] = known
            else:
                missing[short_key(arrival.fingerprint)] = arrival.fingerprint
            if arrival.window and arrival.quarantine is None:
                after, before = arrival.visit_time - arrival.window, arrival.visit_time + arrival.window
                time = recent_index.sighting_between(arrival.visitor_key, after, before)
                if time is not None:
                    sightings.setdefault(arrival.visitor_key, []).append(time)
                else:
                    short = short_key(arrival.visitor_key)
                    visitors[short] = arrival.visitor_key
                    unseen.append((short, after, before))
            if arrival.has_marks:
                once.update(plan.once_key for plan in (*arrival.if_visit, *arrival.if_repeat) if plan.once_key)
        self._find_contents(missing, contents)
        self._find_sightings(unseen, visitors, sightings)
        return DedupeFacts(contents, sightings, self._find_marks(once), self._count_months())

    def _find_contents(self, missing: dict[int, bytes], contents: dict[bytes, KnownContent]) -> None:
        connection = self._transaction.connection
        found = {arrival: missing[short] for short, arrival in database.select_in(connection, _PRINTS, sorted(missing))}
        if not found:
            return
        for key, received_at, flags, fingerprint in database.select_in(connection, _FINGERPRINTS, sorted(found)):
            if fingerprint == found[key]:
                contents[fingerprint] = KnownContent(key, received_at, bool(flags & FLAG_UNACKNOWLEDGED))

    def _find_sightings(
        self, unseen: list[database.Row], visitors: dict[int, bytes], sightings: dict[bytes, list[int]]
    ) -> None:
        """Find one sighting per window, because a visitor may have hundreds of thousands, and commits wait for this."""
        for short, time in database.select_from_values(
            self._transaction.connection, _SIGHTING_IN_WINDOW, "(?,?,?)", sorted(unseen)
        ):
            if time is not None:
                sightings.setdefault(visitors[short], []).append(time)

    def _find_marks(self, marks: set[bytes]) -> set[bytes]:
        return {mark for (mark,) in database.select_in(self._transaction.connection, _ONCE_MARKS, sorted(marks))}

    def _count_months(self) -> dict[tuple[str, str, int], int]:
        """Return the visits of the months that this batch's quotas need: counted in the meters once, then cached."""
        known = self._transaction.month_visits
        missing = {quota_key(arrival): arrival for arrival in self._arrivals if arrival.quota}
        unfolded: dict[int, list[tuple[int, int]]] | None = None
        for key in missing.keys() - known.keys():
            if unfolded is None:
                unfolded = self._unfolded_visits()
            known[key] = self._count_month(missing[key], unfolded)
        return known

    def _forget_months(self) -> None:
        """Drop cached months of tenants without a quota: nothing keeps them up to date until they have one again."""
        known = self._transaction.month_visits
        if not known:
            return
        names = [arrival.listener for arrival in self._arrivals if not arrival.quota]
        without = {(name.namespace, name.tenant) for name in names}
        if without:
            for key in [key for key in known if key[:2] in without]:
                del known[key]

    def _unfolded_visits(self) -> dict[int, list[tuple[int, int]]]:
        """Return, by listener, the (slot, visits) of commits that are not folded into the meters yet."""
        found: dict[int, list[tuple[int, int]]] = {}
        for (packed,) in self._transaction.connection.execute("select counts from meter_batches"):
            for listener, slot, counter, count in msgspec.msgpack.decode(packed):
                if counter == model.Counter.visits:
                    found.setdefault(listener, []).append((slot, count))
        return found

    def _count_month(self, arrival: model.Arrival, unfolded: dict[int, list[tuple[int, int]]]) -> int:
        first, after = (instant // model.MICROSECONDS for instant in arrival.quota_month)
        total = 0
        for number in self._names.listeners_of(arrival.listener.namespace, arrival.listener.tenant):
            (count,) = self._transaction.connection.execute(MONTH_VISITS, (number, first, after)).fetchone()
            total += (count or 0) + sum(count for slot, count in unfolded.get(number, ()) if first <= slot < after)
        return total
