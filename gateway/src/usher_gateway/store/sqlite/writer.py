"""The writer's side of the engine: one connection, one transaction per batch. Runs in the writer's thread only."""

import sqlite3
from collections.abc import Callable, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import decide
from usher_gateway.store.sqlite import names, rows, tail

FLAG_TRUSTED, FLAG_LATE, FLAG_UNACKNOWLEDGED, FLAG_RELEASED, FLAG_FIRST = 1, 2, 4, 8, 16

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
_LEDGER_DAYS = 8
"""The ledger is kept at least this long: dedupe looks back 7 days."""

MeterKey = tuple[int, int, int]
"""(listener number, slot, counter)"""


class Batch(msgspec.Struct):
    """What one transaction is to hold."""

    arrivals: Sequence[model.Arrival] = ()
    settlements: Sequence[model.Settlement] = ()
    unacknowledged: Sequence[model.Arrival] = ()
    counts: Sequence[tuple[model.ListenerName, int, int, int]] = ()
    """(listener, slot, counter, count)"""
    job: Callable[["Writer"], None] | None = None
    now: int = 0


class Writer:
    """Applies batches to the connection. Everything cached here is rebuilt when a transaction is rolled back."""

    def __init__(self, connection: sqlite3.Connection, ids: model.IdFactory, ledger_tail: tail.Tail) -> None:
        self.connection = connection
        self.names = names.Names(connection)
        self.tail = ledger_tail
        self.month_visits: dict[tuple[str, str, int], int] = {}
        self.meters: dict[MeterKey, int] = {}
        self.checkpoint_is_due = False
        self.lanes_from = 0
        """From this key on deliveries may be in lanes; the store's own note is never above it."""
        self._ids = ids
        self._encode = msgspec.msgpack.Encoder().encode

    def commit(self, batch: Batch) -> list[model.Accepted]:
        """Apply a batch in one transaction; a sqlite3.Error leaves nothing behind.

        Facts that only this transaction made are added to the caches after the commit, never before.
        """
        self.meters = {}
        self.connection.execute("begin immediate")
        try:
            accepted, ledger_rows = self._accept(batch)
            if batch.job is not None:
                batch.job(self)
            self._settle(batch)
            self._mark_unacknowledged(batch)
            for listener, slot, counter, count in batch.counts:
                self.meter(self.names.listener(listener), slot, counter, count)
            self._write_meters()
            done_folding = self._fold()
            self.connection.execute("commit")
        except BaseException:
            self._roll_back()
            raise
        self._remember(ledger_rows, batch, done_folding)
        if self.checkpoint_is_due:
            self.checkpoint_is_due = False
            self.connection.execute("pragma wal_checkpoint(passive)")
        return accepted

    def meter(self, listener: int, slot: int, counter: int, count: int = 1) -> None:
        """Add to the meters of this transaction."""
        key = (listener, slot, counter)
        self.meters[key] = self.meters.get(key, 0) + count

    def next_id(self) -> tuple[int, bytes]:
        """Row key and id of a new delivery."""
        key = self._ids.next_key()
        return key, self._ids.id_of(key)

    def lower_lanes_from(self, key: int) -> None:
        """Note in this transaction that a delivery as old as ``key`` is in a lane."""
        if key < self.lanes_from:
            self.lanes_from = key
            self.connection.execute("insert or replace into meta values ('lanes_from', ?)", (str(key),))

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("rollback")
        self.names.forget()
        self.month_visits.clear()

    def _remember(self, ledger_rows: list[tail.LedgerRow], batch: Batch, done_folding: bool) -> None:
        for row in ledger_rows:
            self.tail.growing.add(row)
        for arrival in batch.unacknowledged:
            known = self.tail.print_of(arrival.fingerprint)
            if known is not None:
                known.arrival, known.received_at, known.unacknowledged = arrival.key, arrival.received_at, True
        if done_folding:
            self.tail.folded()

    # accept

    def _accept(self, batch: Batch) -> tuple[list[model.Accepted], list[tail.LedgerRow]]:
        if not batch.arrivals:
            return [], []
        facts = self._facts(batch.arrivals)
        once_before = set(facts.once_marks)
        writing = _Writing()
        for arrival in batch.arrivals:
            arrival.key = self._ids.next_key()
            self._accept_one(arrival, decide.decide(arrival, facts), facts, batch.now, writing)
        self._insert(writing)
        new_marks = facts.once_marks - once_before
        if new_marks:
            until = {plan.once_key: plan.once_until for a in batch.arrivals for plan in (*a.if_visit, *a.if_repeat)}
            marks = [(mark, until[mark]) for mark in sorted(new_marks)]
            rows.insert(self.connection, "insert into once_marks", 2, marks)
        return writing.accepted, writing.ledger_rows

    def _accept_one(
        self, arrival: model.Arrival, decision: decide.Decision, facts: decide.Facts, now: int, writing: "_Writing"
    ) -> None:
        listener = self.names.listener(arrival.listener)
        slot = model.slot_of(arrival.received_at)
        self.meter(listener, slot, _COUNTED[decision.counted_as])
        if arrival.late:
            self.meter(listener, slot, model.Counter.late)
        verdicts: list[tuple[int, int, int]] = []
        due: list[model.Delivery] = []
        for verdict in decision.verdicts:
            route = self.names.route(verdict.plan.route)
            if verdict.skip is not None:
                self.meter(listener, slot, _SKIP_COUNTERS[verdict.skip])
                verdicts.append((route.number, int(verdict.skip), 0))
                continue
            delivery = self._new_delivery(arrival, route, verdict, now, writing)
            verdicts.append((route.number, 0, delivery.key))
            if delivery.hold is None:
                due.append(delivery)
        if decision.verdicts:
            self.meter(listener, slot, model.Counter.routed, len(decision.verdicts))
            created = sum(1 for verdict in verdicts if verdict[2])
            if created:
                self.meter(listener, slot, model.Counter.created, created)
        self._ledger_row(arrival, decision, listener, verdicts, facts, writing)
        writing.accepted.append(model.Accepted(decision.counted_as, tuple(due)))

    def _new_delivery(
        self, arrival: model.Arrival, route: names.RouteNumbers, verdict: decide.Verdict, now: int, writing: "_Writing"
    ) -> model.Delivery:
        key = self._ids.next_key()
        identifier = self._ids.id_of(key)
        hold, expires_at = verdict.hold, verdict.plan.expires_at
        writing.deliveries.append(
            (
                key,
                identifier,
                arrival.key,
                route.number,
                route.destination,
                0,
                int(hold or 0),
                0,
                0,
                now,
                now,
                now,
                expires_at,
                0,
                0,
                0,
                0,
                "",
                None,
            )
        )
        return model.Delivery(
            key=key,
            id=identifier,
            arrival=arrival.key,
            route=route.number,
            created_at=now,
            received_at=arrival.received_at,
            visit_time=arrival.visit_time,
            late=arrival.late,
            hops=arrival.hops,
            attempts=0,
            started_at=now,
            expires_at=expires_at,
            hold=hold,
            body=arrival.body,
            content_type=arrival.content_type,
        )

    def _ledger_row(
        self,
        arrival: model.Arrival,
        decision: decide.Decision,
        listener: int,
        verdicts: list[tuple[int, int, int]],
        facts: decide.Facts,
        writing: "_Writing",
    ) -> None:
        persons = b"".join(arrival.person_keys)
        is_first = facts.prints[arrival.fingerprint].arrival == arrival.key
        flags = (FLAG_TRUSTED * arrival.time_trusted) | (FLAG_LATE * arrival.late) | (FLAG_FIRST * is_first)
        writing.arrivals.append(
            (
                arrival.key,
                self._ids.id_of(arrival.key),
                listener,
                arrival.received_at,
                arrival.visit_time,
                int(decision.counted_as),
                flags,
                int(arrival.quarantine or 0),
                arrival.hops,
                arrival.body_size or len(arrival.body),
                arrival.fingerprint,
                arrival.visitor_key,
                persons,
                self._encode(verdicts),
            )
        )
        today = arrival.received_at // _DAY
        writing.bodies.append((arrival.key, today + arrival.body_days + 1, arrival.content_type, arrival.body))
        writing.ledger_rows.append(
            tail.LedgerRow(
                key=arrival.key,
                received_at=arrival.received_at,
                unacknowledged=False,
                fingerprint=arrival.fingerprint,
                visitor_key=arrival.visitor_key,
                visit_time=arrival.visit_time,
                is_visit=decision.counted_as is model.CountedAs.Visit,
                remembers_print=is_first,
                persons=persons,
            )
        )

    def _insert(self, writing: "_Writing") -> None:
        connection = self.connection
        rows.insert(connection, "insert into arrivals", 14, writing.arrivals)
        rows.insert(connection, "insert into bodies", 4, writing.bodies)
        rows.insert(connection, "insert into deliveries", 19, writing.deliveries)

    # facts

    def _facts(self, arrivals: Sequence[model.Arrival]) -> decide.Facts:
        prints: dict[bytes, decide.Print] = {}
        sightings: dict[bytes, list[int]] = {}
        missing: dict[int, bytes] = {}
        visitors: dict[int, bytes] = {}
        once: set[bytes] = set()
        for arrival in arrivals:
            known = self.tail.print_of(arrival.fingerprint)
            if known is not None:
                prints[arrival.fingerprint] = known
            else:
                missing[tail.short_key(arrival.fingerprint)] = arrival.fingerprint
            if arrival.window and arrival.quarantine is None:
                times = self.tail.sightings_of(arrival.visitor_key)
                if times:
                    sightings[arrival.visitor_key] = list(times)
                visitors[tail.short_key(arrival.visitor_key)] = arrival.visitor_key
            for plan in (*arrival.if_visit, *arrival.if_repeat):
                if plan.once_key:
                    once.add(plan.once_key)
        self._known_prints(missing, prints)
        self._known_sightings(visitors, sightings)
        return decide.Facts(prints, sightings, self._known_marks(once), self._months(arrivals))

    def _known_prints(self, missing: dict[int, bytes], prints: dict[bytes, decide.Print]) -> None:
        statement = "select print, arrival from prints where print in ({})"
        found = {
            arrival: missing[short] for short, arrival in rows.select_in(self.connection, statement, sorted(missing))
        }
        if not found:
            return
        statement = "select key, received_at, flags, fingerprint from arrivals where key in ({})"
        for key, received_at, flags, fingerprint in rows.select_in(self.connection, statement, sorted(found)):
            if fingerprint == found[key]:
                prints[fingerprint] = decide.Print(key, received_at, bool(flags & FLAG_UNACKNOWLEDGED))

    def _known_sightings(self, visitors: dict[int, bytes], sightings: dict[bytes, list[int]]) -> None:
        statement = "select visitor, visit_time from sightings where visitor in ({})"
        for short, time in rows.select_in(self.connection, statement, sorted(visitors)):
            sightings.setdefault(visitors[short], []).append(time)

    def _known_marks(self, marks: set[bytes]) -> set[bytes]:
        statement = "select mark from once_marks where mark in ({})"
        return {row[0] for row in rows.select_in(self.connection, statement, sorted(marks))}

    def _months(self, arrivals: Sequence[model.Arrival]) -> dict[tuple[str, str, int], int]:
        """Visits of the months that quotas of this batch count; counted from the meters once, then kept."""
        for arrival in arrivals:
            if arrival.quota and decide.quota_key(arrival) not in self.month_visits:
                self.month_visits[decide.quota_key(arrival)] = self._count_month(arrival)
        return self.month_visits

    def _count_month(self, arrival: model.Arrival) -> int:
        first, after = (instant // model.MICROSECONDS for instant in arrival.quota_month)
        total = 0
        numbers = self.names.listeners_of(arrival.listener.namespace, arrival.listener.tenant)
        statement = "select sum(count) from meters where slot >= ? and slot < ? and listener = ? and counter = ?"
        for number in numbers:
            (count,) = self.connection.execute(statement, (first, after, number, int(model.Counter.visits))).fetchone()
            total += count or 0
        for (packed,) in self.connection.execute("select counts from meter_batches"):
            for listener, slot, counter, count in msgspec.msgpack.decode(packed):
                if counter == model.Counter.visits and listener in numbers and first <= slot < after:
                    total += count
        return total

    # settle

    def _settle(self, batch: Batch) -> None:
        for settlement in batch.settlements:
            self._settle_one(settlement)

    def _settle_one(self, settlement: model.Settlement) -> None:
        state, counter = _SETTLED[settlement.settled_as]
        statement = (
            "update deliveries set state = ?, hold = ?, waiting = ?, attempts = ?, due_at = ?, settled_at = ?,"
            " cancel = ?, status = ?, error = ?, answer = ? where key = ? and state = 0 and attempts = ?"
            " returning route"
        )
        waiting = settlement.settled_as is model.SettledAs.Retry
        held = settlement.settled_as is model.SettledAs.Held
        row = self.connection.execute(
            statement,
            (
                int(state),
                int(settlement.hold or 0),
                int(waiting),
                settlement.attempts,
                settlement.at if held else settlement.due_at,
                0 if waiting or held else settlement.at,
                int(settlement.cancel or 0),
                settlement.status,
                settlement.error,
                settlement.answer or None,
                settlement.key,
                settlement.attempts_before,
            ),
        ).fetchone()
        if row is None:
            return
        listener, slot = self.names.listener_of_route(row[0]), model.slot_of(settlement.at)
        if counter:
            self.meter(listener, slot, counter)
        if settlement.attempts > settlement.attempts_before:
            self.meter(listener, slot, model.Counter.attempts)

    def _mark_unacknowledged(self, batch: Batch) -> None:
        """From now on the content is known by this arrival, whether it was the first with it or a later one."""
        for arrival in batch.unacknowledged:
            self.connection.execute(
                "update arrivals set flags = flags | ? where key = ?",
                (FLAG_UNACKNOWLEDGED | FLAG_FIRST, arrival.key),
            )
            self.connection.execute(
                "update prints set arrival = ? where print = ?", (arrival.key, tail.short_key(arrival.fingerprint))
            )
            self.meter(
                self.names.listener(arrival.listener), model.slot_of(arrival.received_at), model.Counter.unacknowledged
            )

    # meters and folding

    def _write_meters(self) -> None:
        if self.meters:
            packed = self._encode([(*key, count) for key, count in self.meters.items()])
            self.connection.execute("insert into meter_batches (counts) values (?)", (packed,))

    def _fold(self) -> bool:
        """Move one bucket of the tail into the lookup tables; True if that was the last one of its generation."""
        bucket = self.tail.next_bucket()
        generation = self.tail.folding
        if generation is None:
            return False
        if bucket is not None:
            prints, sightings, persons = generation.bucket(bucket)
            rows.insert(self.connection, "insert or replace into prints", 2, prints)
            rows.insert(self.connection, "insert or ignore into sightings", 2, sightings)
            rows.insert(self.connection, "insert or ignore into persons", 3, persons)
            return False
        self.connection.execute(
            "insert or ignore into person_segments values (?, ?, ?)",
            (generation.first_key, generation.first_key, generation.last_key),
        )
        self.connection.execute("insert or replace into meta values ('folded_to', ?)", (str(generation.last_key),))
        return True


_SETTLED: dict[model.SettledAs, tuple[model.DeliveryState, model.Counter | None]] = {
    model.SettledAs.Delivered: (model.DeliveryState.Delivered, model.Counter.delivered),
    model.SettledAs.Retry: (model.DeliveryState.Pending, None),
    model.SettledAs.Dead: (model.DeliveryState.Dead, model.Counter.died),
    model.SettledAs.Cancelled: (model.DeliveryState.Cancelled, model.Counter.cancelled),
    model.SettledAs.Held: (model.DeliveryState.Pending, None),
}


def checkpoint_after(batch_writer: Writer) -> None:
    """A job: copy what is left of the log once this transaction is through, so that the next one starts it anew."""
    batch_writer.checkpoint_is_due = True


class _Writing:
    """Rows of a transaction in the making."""

    def __init__(self) -> None:
        self.arrivals: list[rows.Row] = []
        self.bodies: list[rows.Row] = []
        self.deliveries: list[rows.Row] = []
        self.ledger_rows: list[tail.LedgerRow] = []
        self.accepted: list[model.Accepted] = []
