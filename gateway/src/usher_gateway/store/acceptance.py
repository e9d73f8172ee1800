"""Decide a batch of arrivals and build its rows. Pure: the engines look up the facts and write the rows.

Apart from HTTP, an arrival costs most here (docs/performance.md). So one pass over the batch builds plain tuples, and
arrivals that count alike are counted together at the end.
"""

from collections.abc import Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.decide import ArrivalDecision, DedupeFacts, decide
from usher_gateway.store.encodings import (
    FLAG_FIRST,
    FLAG_LATE,
    FLAG_OTHER_COMPANY,
    FLAG_TRUSTED,
    FLAG_UNTRUSTED_TIME,
    HOLD_FLAGS,
    STORED_SLOT,
    row_bytes,
)
from usher_gateway.store.names import RouteNumbers
from usher_gateway.store.transaction import Transaction

_COUNTED = {
    model.CountedAs.Visit: model.Counter.visits,
    model.CountedAs.Repeat: model.Counter.repeats,
    model.CountedAs.Redelivery: model.Counter.redeliveries,
    model.CountedAs.Quarantined: model.Counter.quarantined,
}

_SUPPRESSED = model.Accepted(model.CountedAs.Suppressed)

Row = tuple[object, ...]  # A row to write

# (counted as, late, each route's skip reason): arrivals with the same values add the same to the meters.
_Kind = tuple[model.CountedAs, bool, tuple[model.SkipReason | None, ...]]

# The columns of a new delivery. The others have defaults, or the engine sets them.
DELIVERY_COLUMNS = "key, id, arrival, route, destination, hold, due_at, created_at, started_at, expires_at"

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
    flags |= (FLAG_OTHER_COMPANY * bool(arrival.other_company)) | (FLAG_UNTRUSTED_TIME * arrival.has_untrusted_time)
    if arrival.token_held:
        flags |= HOLD_FLAGS[model.HoldReason.TokenHeld]
    if arrival.is_over_quota and arrival.quarantine is None:
        flags |= HOLD_FLAGS[model.HoldReason.QuotaExceeded]
    return flags


class _PlanSkips(msgspec.Struct, frozen=True):
    """The skip reasons of some plans."""

    plans: tuple[model.RoutePlan, ...]
    skips: tuple[model.SkipReason | None, ...]
    """One per plan."""
    reasons: tuple[model.SkipReason, ...]
    """Only for the plans that skip."""

    @classmethod
    def of(cls, plans: tuple[model.RoutePlan, ...]) -> "_PlanSkips":
        skips = tuple([plan.skip for plan in plans])
        return cls(plans, skips, tuple([skip for skip in skips if skip is not None]))


class ArrivalRows:
    """Decides the arrivals of one batch, and builds their rows."""

    def __init__(
        self,
        arrivals: Sequence[model.Arrival],
        opened: Transaction,
        now: int,
    ) -> None:
        self._batch = arrivals
        self.arrivals = arrivals  # The batch's arrivals to decide and write: all but suppressed ones
        self._now = now
        self._opened, self._ids, self._meters = opened, opened.ids, opened.meters
        self.keys = self._ids.next_keys(len(arrivals))  # The row keys of the arrivals
        self.accepted: list[model.Accepted] = []
        self.arrival_rows: list[Row] = []  # Columns: COLUMNS["arrivals"]
        self.body_rows: list[Row] = []  # Columns: COLUMNS["bodies"]
        self.delivery_rows: list[Row] = []  # Columns: DELIVERY_COLUMNS
        self._tallies: dict[_Kind, dict[tuple[int, int], int]] = {}  # Kind -> (listener, slot) -> arrivals
        self._skips: dict[int, _PlanSkips] = {}
        """Plans by identity, because most listeners have the same plans for every body."""

    def persons(self) -> list[bytes]:
        """Return the person keys of all arrivals."""
        return [person for arrival in self._batch for person in arrival.person_keys]

    def leave_out(self, suppressed: set[bytes]) -> None:
        """Only count the arrivals that have a suppressed person key: nothing else is written about them."""
        if not suppressed:
            return
        self.arrivals = []
        for arrival in self._batch:
            if suppressed.isdisjoint(arrival.person_keys):
                self.arrivals.append(arrival)
            else:
                arrival.key = 0
                listener, slot = self._opened.listener(arrival.listener), model.slot_of(arrival.received_at)
                self._opened.meter(listener, slot, int(model.Counter.suppressed))
        self.keys = self.keys[: len(self.arrivals)]

    @property
    def results(self) -> list[model.Accepted]:
        """The result for each arrival in the batch."""
        accepted = iter(self.accepted)
        return [next(accepted) if arrival.key else _SUPPRESSED for arrival in self._batch]

    def decide(self, facts: DedupeFacts) -> set[bytes]:
        """Decide all arrivals, build their rows and count them; return the once-per marks to add."""
        marks_before = set(facts.once_marks)
        for arrival, key in zip(self.arrivals, self.keys, strict=True):
            arrival.key = key
            self._accept(arrival, decide(arrival, facts), facts)
        self._count()
        return facts.once_marks - marks_before

    def marks(self, keys: set[bytes]) -> list[Row]:
        """Return the rows for once-per marks (mark, until), sorted."""
        plans = [plan for arrival in self.arrivals for plan in (*arrival.if_visit, *arrival.if_repeat)]
        until = {plan.once_key: plan.once_until for plan in plans}
        return [(mark, until[mark]) for mark in sorted(keys)]

    def _accept(self, arrival: model.Arrival, decision: ArrivalDecision, facts: DedupeFacts) -> None:
        counted_as, plans = decision.counted_as, decision.verdicts
        visit_id = self._ids.id_of(arrival.key)
        is_repeat = counted_as is model.CountedAs.Repeat
        listener = self._opened.listener(arrival.listener)
        verdicts: list[tuple[int, int, int]] = []
        due: list[model.Delivery] = []
        holds: tuple[model.Hold, ...] = ()
        for plan in plans:
            route = self._opened.route(plan.route)
            if plan.skip is not None:
                verdicts.append((route.number, plan.skip.value, 0))
            else:
                delivery = self._add_delivery(arrival, visit_id, route, plan, is_repeat=is_repeat)
                verdicts.append((route.number, 0, delivery.key))
                if plan.hold is None:
                    due.append(delivery)
                else:
                    holds += (model.Hold(route.number, plan.hold, self._now),)
        plan_skips = self._skips.get(id(plans))
        if plan_skips is None or plan_skips.plans is not plans:
            plan_skips = self._skips[id(plans)] = _PlanSkips.of(plans)
        kind = (counted_as, arrival.late, plan_skips.skips)
        meter = (listener, model.slot_of(arrival.received_at))
        tally = self._tallies.get(kind)
        if tally is None:
            tally = self._tallies[kind] = {}
        tally[meter] = tally.get(meter, 0) + 1
        self.accepted.append(model.Accepted(counted_as, tuple(due), plan_skips.reasons, holds))
        is_first = facts.contents[arrival.fingerprint].arrival == arrival.key
        flags = _flags(arrival, is_first=is_first)
        self._add_arrival(arrival, visit_id, listener, counted_as, verdicts, flags)

    def _add_delivery(
        self, arrival: model.Arrival, visit_id: bytes, route: RouteNumbers, plan: model.RoutePlan, *, is_repeat: bool
    ) -> model.Delivery:
        """Add a new delivery's row, and return the delivery as it is claimed."""
        key, now, hold = self._ids.next_key(), self._now, plan.hold
        identifier = self._ids.id_of(key)
        self.delivery_rows.append(
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
            visit_id,
            is_repeat,
            route.number,
            now,
            arrival.received_at,
            arrival.visit_time,
            arrival.late,
            arrival.hops,
            0,
            now,
            plan.expires_at,
            arrival.body,
            arrival.content_type,
        )

    def _add_arrival(
        self,
        arrival: model.Arrival,
        visit_id: bytes,
        listener: int,
        counted_as: model.CountedAs,
        verdicts: list[tuple[int, int, int]],
        flags: int,
    ) -> None:
        key, received_at, visit_time = arrival.key, arrival.received_at, arrival.visit_time
        quarantine = arrival.quarantine
        self.arrival_rows.append(
            (
                key,
                visit_id,
                listener,
                received_at,
                visit_time,
                counted_as.value,
                flags,
                0 if quarantine is None else quarantine.value,
                arrival.hops,
                arrival.body_size,
                arrival.fingerprint,
                arrival.visitor_key,
                b"".join(arrival.person_keys),
                _encode(verdicts),
            )
        )
        expires_day = received_at // model.DAY + arrival.body_days + 1
        self.body_rows.append((key, expires_day, arrival.content_type, arrival.body))
        stored = (listener, STORED_SLOT, int(model.Counter.stored_bytes))
        self._meters[stored] = self._meters.get(stored, 0) + len(arrival.body) + row_bytes(verdicts)

    def _count(self) -> None:
        meters = self._meters
        for kind, tally in self._tallies.items():
            counters = _counters_of(kind)
            for (listener, slot), count in tally.items():
                for counter, times in counters:
                    key = (listener, slot, counter)
                    meters[key] = meters.get(key, 0) + count * times


def unstorable(arrival: model.Arrival) -> model.Arrival:
    """Reduce an arrival that the database refuses to what can be stored: its digest, without body and plans."""
    arrival.quarantine = model.QuarantineReason.Unstorable
    arrival.body_size = arrival.body_size or len(arrival.body)
    arrival.body = b""
    arrival.content_type = b""
    arrival.person_keys = ()
    arrival.if_visit = ()
    arrival.if_repeat = ()
    arrival.visit_time = arrival.received_at
    return arrival
