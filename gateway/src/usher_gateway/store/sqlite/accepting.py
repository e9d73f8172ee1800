"""The accepting half of a transaction: look up, decide, write rows. Runs in the writer's thread only.

One pass over a batch makes plain tuples; what is the same for many arrivals is counted once at the end. This is where
an arrival costs most beside HTTP (docs/performance.md).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from usher_gateway import model
from usher_gateway.store import decide
from usher_gateway.store.sqlite import rows, tail

if TYPE_CHECKING:
    from usher_gateway.store.sqlite import names, writer

FLAGS = FLAG_TRUSTED, FLAG_LATE, FLAG_UNACKNOWLEDGED, FLAG_RELEASED, FLAG_FIRST = 1, 2, 4, 8, 16
"""Bits of arrivals.flags."""

HOLD_FLAGS = {model.HoldReason.TokenHeld: 32, model.HoldReason.QuotaExceeded: 64}
"""Further bits: what holds every delivery of an arrival, whatever else held it first."""

_SKIP_COUNTERS = {
    model.SkipReason.Filter: model.Counter.skipped_filter,
    model.SkipReason.OncePer: model.Counter.skipped_once_per,
    model.SkipReason.Stale: model.Counter.skipped_stale,
    model.SkipReason.Repeat: model.Counter.skipped_repeat,
    model.SkipReason.Paused: model.Counter.skipped_paused,
    model.SkipReason.Shadow: model.Counter.skipped_shadow,
}
_COUNTED = {
    model.CountedAs.Visit: model.Counter.visits,
    model.CountedAs.Repeat: model.Counter.repeats,
    model.CountedAs.Redelivery: model.Counter.redeliveries,
    model.CountedAs.Quarantined: model.Counter.quarantined,
}
_DAY = 86_400 * model.MICROSECONDS

MONTH_VISITS = "select sum(count) from meters where listener = ? and slot >= ? and slot < ? and counter = 1"
"""Visits of a listener in some slots: an index has them together. (The planner wants the counter spelled out.)"""

_ARRIVAL = f"({','.join('?' * 14)})"
_DELIVERY = "(?,?,?,?,?,0,?,0,0,?,?,?,?,0,0,0,0,'',null)"
"""A new delivery: pending, in a lane or held, never attempted."""

_SIGHTING = (
    "select column1, (select visit_time from sightings"
    " where visitor = column1 and visit_time > column2 and visit_time < column3 limit 1) from (values {})"
)
"""Columns: visitor, after and before which time."""

_Kind = tuple[model.CountedAs, bool, tuple[model.SkipReason | None, ...]]
"""(counted as, late, each route's skip reason): arrivals that count alike"""


def _counters_of(kind: _Kind) -> list[tuple[int, int]]:
    """(counter, how much one arrival of a kind adds to it)."""
    counted_as, is_late, skips = kind
    counters = {int(_COUNTED[counted_as]): 1}
    if is_late:
        counters[int(model.Counter.late)] = 1
    if skips:
        counters[int(model.Counter.routed)] = len(skips)
    for skip in skips:
        counter = int(model.Counter.created if skip is None else _SKIP_COUNTERS[skip])
        counters[counter] = counters.get(counter, 0) + 1
    return list(counters.items())


def _flags(arrival: model.Arrival, *, is_first: bool) -> int:
    flags = (FLAG_TRUSTED * arrival.time_trusted) | (FLAG_LATE * arrival.late) | (FLAG_FIRST * is_first)
    if arrival.token_held:
        flags |= HOLD_FLAGS[model.HoldReason.TokenHeld]
    if arrival.over_quota:
        flags |= HOLD_FLAGS[model.HoldReason.QuotaExceeded]
    return flags


class _Skips(msgspec.Struct, frozen=True):
    """What some plans skip."""

    plans: tuple[model.RoutePlan, ...]
    skips: tuple[model.SkipReason | None, ...]
    """One for each plan."""
    reasons: tuple[model.SkipReason, ...]
    """Without those that skip nothing."""

    @classmethod
    def of(cls, plans: tuple[model.RoutePlan, ...]) -> "_Skips":
        skips = tuple([plan.skip for plan in plans])
        return cls(plans, skips, tuple([skip for skip in skips if skip is not None]))


class Acceptance:
    """The arrivals of one transaction."""

    def __init__(self, owner: "writer.Writer", arrivals: Sequence[model.Arrival], now: int) -> None:
        self._owner, self._arrivals, self._now = owner, arrivals, now
        self._accepted: list[model.Accepted] = []
        self._ledger_rows: list[tail.LedgerRow] = []
        self._arrival_rows: list[rows.Row] = []
        self._body_rows: list[rows.Row] = []
        self._delivery_rows: list[rows.Row] = []
        self._tallies: dict[_Kind, dict[tuple[int, int], int]] = {}
        """Kind -> (listener, slot) -> arrivals"""
        self._skips: dict[int, _Skips] = {}
        """Plans by their identity: most listeners have the same ones for every body."""

    def run(self) -> tuple[list[model.Accepted], list[tail.LedgerRow]]:
        """Write everything; what was accepted, and what the tail has to remember after the commit."""
        facts = self._facts()
        marks_before = set(facts.once_marks)
        for arrival, key in zip(self._arrivals, self._owner.ids.next_keys(len(self._arrivals)), strict=True):
            arrival.key = key
            self._accept(arrival, decide.decide(arrival, facts), facts)
        self._insert(facts.once_marks - marks_before)
        self._count()
        self._forget_months()
        return self._accepted, self._ledger_rows

    def _accept(self, arrival: model.Arrival, decision: decide.Decision, facts: decide.Facts) -> None:
        counted_as, plans = decision.counted_as, decision.verdicts
        listener = self._owner.names.listener(arrival.listener)
        verdicts: list[tuple[int, int, int]] = []
        due: list[model.Delivery] = []
        for plan in plans:
            route = self._owner.names.route(plan.route)
            if plan.skip is not None:
                verdicts.append((route.number, plan.skip.value, 0))
            else:
                delivery = self._deliver(arrival, route, plan)
                verdicts.append((route.number, 0, delivery.key))
                if plan.hold is None:
                    due.append(delivery)
        known = self._skips.get(id(plans))
        if known is None or known.plans is not plans:
            known = self._skips[id(plans)] = _Skips.of(plans)
        kind, place = (counted_as, arrival.late, known.skips), (listener, model.slot_of(arrival.received_at))
        tally = self._tallies.get(kind)
        if tally is None:
            tally = self._tallies[kind] = {}
        tally[place] = tally.get(place, 0) + 1
        self._accepted.append(model.Accepted(counted_as, tuple(due), known.reasons))
        self._remember(
            arrival, listener, counted_as, verdicts, facts.prints[arrival.fingerprint].arrival == arrival.key
        )

    def _deliver(self, arrival: model.Arrival, route: "names.RouteNumbers", plan: model.RoutePlan) -> model.Delivery:
        key, now, hold = self._owner.ids.next_key(), self._now, plan.hold
        identifier = self._owner.ids.id_of(key)
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

    def _remember(
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
                self._owner.ids.id_of(key),
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
                self._owner.encode(verdicts),
            )
        )
        expires_day = received_at // _DAY + arrival.body_days + 1
        self._body_rows.append((key, expires_day, arrival.content_type, arrival.body))
        is_visit = counted_as is model.CountedAs.Visit
        self._ledger_rows.append(
            tail.LedgerRow(key, received_at, arrival.fingerprint, arrival.visitor_key, visit_time, is_visit, is_first)
        )

    def _insert(self, new_marks: set[bytes]) -> None:
        connection = self._owner.connection
        rows.insert(connection, "insert into arrivals", _ARRIVAL, self._arrival_rows)
        rows.insert(connection, "insert into bodies", "(?,?,?,?)", self._body_rows)
        rows.insert(connection, "insert into deliveries", _DELIVERY, self._delivery_rows)
        if new_marks:
            plans = [plan for arrival in self._arrivals for plan in (*arrival.if_visit, *arrival.if_repeat)]
            until = {plan.once_key: plan.once_until for plan in plans}
            rows.insert(
                connection, "insert into once_marks", rows.PAIR, [(mark, until[mark]) for mark in sorted(new_marks)]
            )

    def _count(self) -> None:
        meters = self._owner.meters
        for kind, tally in self._tallies.items():
            counters = _counters_of(kind)
            for (listener, slot), count in tally.items():
                for counter, times in counters:
                    key = (listener, slot, counter)
                    meters[key] = meters.get(key, 0) + count * times

    # facts

    def _facts(self) -> decide.Facts:
        prints: dict[bytes, decide.Print] = {}
        sightings: dict[bytes, list[int]] = {}
        missing: dict[int, bytes] = {}
        visitors: dict[int, bytes] = {}
        unseen: list[rows.Row] = []
        once: set[bytes] = set()
        ledger_tail = self._owner.tail
        for arrival in self._arrivals:
            known = ledger_tail.print_of(arrival.fingerprint)
            if known is not None:
                prints[arrival.fingerprint] = known
            else:
                missing[tail.short_key(arrival.fingerprint)] = arrival.fingerprint
            if arrival.window and arrival.quarantine is None:
                after, before = arrival.visit_time - arrival.window, arrival.visit_time + arrival.window
                time = ledger_tail.sighting_between(arrival.visitor_key, after, before)
                if time is not None:
                    sightings.setdefault(arrival.visitor_key, []).append(time)
                else:
                    short = tail.short_key(arrival.visitor_key)
                    visitors[short] = arrival.visitor_key
                    unseen.append((short, after, before))
            if arrival.has_marks:
                once.update(plan.once_key for plan in (*arrival.if_visit, *arrival.if_repeat) if plan.once_key)
        self._known_prints(missing, prints)
        self._known_sightings(unseen, visitors, sightings)
        return decide.Facts(prints, sightings, self._known_marks(once), self._months())

    def _known_prints(self, missing: dict[int, bytes], prints: dict[bytes, decide.Print]) -> None:
        connection = self._owner.connection
        statement = "select print, arrival from prints where print in ({})"
        found = {arrival: missing[short] for short, arrival in rows.select_in(connection, statement, sorted(missing))}
        if not found:
            return
        statement = "select key, received_at, flags, fingerprint from arrivals where key in ({})"
        for key, received_at, flags, fingerprint in rows.select_in(connection, statement, sorted(found)):
            if fingerprint == found[key]:
                prints[fingerprint] = decide.Print(key, received_at, bool(flags & FLAG_UNACKNOWLEDGED))

    def _known_sightings(
        self, unseen: list[rows.Row], visitors: dict[int, bytes], sightings: dict[bytes, list[int]]
    ) -> None:
        """One sighting for each window: a visitor may have hundreds of thousands, and all would be waited for."""
        for short, time in rows.from_values(self._owner.connection, _SIGHTING, "(?,?,?)", sorted(unseen)):
            if time is not None:
                sightings.setdefault(visitors[short], []).append(time)

    def _known_marks(self, marks: set[bytes]) -> set[bytes]:
        statement = "select mark from once_marks where mark in ({})"
        return {mark for (mark,) in rows.select_in(self._owner.connection, statement, sorted(marks))}

    def _months(self) -> dict[tuple[str, str, int], int]:
        """Visits of the months that quotas of this batch count; counted from the meters once, then kept."""
        known = self._owner.month_visits
        missing = {decide.quota_key(arrival): arrival for arrival in self._arrivals if arrival.quota}
        unfolded: dict[int, list[tuple[int, int]]] | None = None
        for key in missing.keys() - known.keys():
            if unfolded is None:
                unfolded = self._unfolded_visits()
            known[key] = self._count_month(missing[key], unfolded)
        return known

    def _forget_months(self) -> None:
        """Nobody counts on while a tenant has no quota: with the next one all is counted anew."""
        known = self._owner.month_visits
        if not known:
            return
        names = [arrival.listener for arrival in self._arrivals if not arrival.quota]
        without = {(name.namespace, name.tenant) for name in names}
        if without:
            for key in [key for key in known if key[:2] in without]:
                del known[key]

    def _unfolded_visits(self) -> dict[int, list[tuple[int, int]]]:
        """Listener -> (slot, visits) of commits that are not in the meters yet."""
        found: dict[int, list[tuple[int, int]]] = {}
        for (packed,) in self._owner.connection.execute("select counts from meter_batches"):
            for listener, slot, counter, count in msgspec.msgpack.decode(packed):
                if counter == model.Counter.visits:
                    found.setdefault(listener, []).append((slot, count))
        return found

    def _count_month(self, arrival: model.Arrival, unfolded: dict[int, list[tuple[int, int]]]) -> int:
        first, after = (instant // model.MICROSECONDS for instant in arrival.quota_month)
        total = 0
        for number in self._owner.names.listeners_of(arrival.listener.namespace, arrival.listener.tenant):
            (count,) = self._owner.connection.execute(MONTH_VISITS, (number, first, after)).fetchone()
            total += (count or 0) + sum(count for slot, count in unfolded.get(number, ()) if first <= slot < after)
        return total
