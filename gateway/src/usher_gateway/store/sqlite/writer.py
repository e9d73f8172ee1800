"""The writer's side of the engine: one connection, one transaction per batch. Runs in the writer's thread only."""

import sqlite3
from collections.abc import Callable, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import decide
from usher_gateway.store.sqlite import accepting, names, persons, rows, settling, tail

FLAG_TRUSTED, FLAG_LATE, FLAG_UNACKNOWLEDGED, FLAG_RELEASED, FLAG_FIRST = accepting.FLAGS

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
        self.encode = msgspec.msgpack.Encoder().encode
        self.meters: dict[MeterKey, int] = {}
        self.checkpoint_is_due = False
        self.truncate_is_due = False
        self.lanes_from = 0
        """From this key on deliveries may be in lanes; the store's own note is never above it."""
        self.lent: set[int] = set()
        """Deliveries in lanes, in attempts, or with results that wait for their commit."""
        self.highest_arrival = 0
        """Row key of the last arrival that was committed here."""
        self._lending: list[int] = []
        self._returning: list[int] = []
        self._unfolded_persons = 0
        self._ids = ids

    def commit(self, batch: Batch) -> list[model.Accepted]:
        """Apply a batch in one transaction; a sqlite3.Error leaves nothing behind.

        Facts that only this transaction made are added to the caches after the commit, never before.
        """
        self.meters, self._lending, self._returning = {}, [], []
        lanes_from = self.lanes_from
        self.connection.execute("begin immediate")
        try:
            accepted, ledger_rows = self._accept(batch)
            if batch.job is not None:
                batch.job(self)
            settling.settle(self, batch.settlements)
            has_folded = self._fold()
            self._mark_unacknowledged(batch)  # after folding: it changes what is folded
            for listener, slot, counter, count in batch.counts:
                self.meter(self.names.listener(listener), slot, counter, count)
            self._write_meters()
            self._fold_persons(len(ledger_rows))
            self.connection.execute("commit")
        except BaseException:
            self.lanes_from = lanes_from
            self._roll_back(batch)
            raise
        self._remember(ledger_rows, batch, has_folded)
        self._note_lent(accepted, batch)
        if self.checkpoint_is_due or self.truncate_is_due:
            self._checkpoint()
        return accepted

    def _checkpoint(self) -> None:
        how = "truncate" if self.truncate_is_due else "passive"
        self.checkpoint_is_due = self.truncate_is_due = False
        self.connection.execute("pragma busy_timeout = 20")  # arrivals wait for this: never for a reader
        try:
            self.connection.execute(f"pragma wal_checkpoint({how})")
        finally:
            self.connection.execute(f"pragma busy_timeout = {rows.BUSY_MILLISECONDS}")

    def meter(self, listener: int, slot: int, counter: int, count: int = 1) -> None:
        """Add to the meters of this transaction."""
        key = (listener, slot, counter)
        self.meters[key] = self.meters.get(key, 0) + count

    def lend(self, keys: Sequence[int]) -> None:
        """Note in this transaction that deliveries go into lanes: a start after a crash must find them."""
        if keys:
            self._lending += keys
            if min(keys) < self.lanes_from:
                self._set_lanes_from(min(keys))

    def take_back(self, keys: Sequence[int]) -> None:
        """Note in this transaction that deliveries are in no lane any more."""
        self._returning += keys

    def raise_lanes_from(self) -> None:
        """Note in this transaction from which key on a start has to look for deliveries in lanes."""
        self._set_lanes_from(min(self.lent, default=self._ids.next_key()))

    def note_time(self, now: int) -> None:
        """Note in this transaction what time it is, so that a start notices a clock that was set back."""
        self.connection.execute("insert or replace into meta values ('noted_at', ?)", (str(now),))

    def _set_lanes_from(self, key: int) -> None:
        self.lanes_from = key
        self.connection.execute("insert or replace into meta values ('lanes_from', ?)", (str(key),))

    def _note_lent(self, accepted: list[model.Accepted], batch: Batch) -> None:
        """After the commit, here and not where lanes are: between commit and lane a delivery must not be overlooked."""
        if batch.arrivals:
            self.highest_arrival = batch.arrivals[-1].key
        self.lent.update([delivery.key for each in accepted for delivery in each.deliveries])
        self.lent.update(self._lending)
        self.lent.difference_update([settlement.key for settlement in batch.settlements])
        self.lent.difference_update(self._returning)

    def _roll_back(self, batch: Batch) -> None:
        if self.connection.in_transaction:
            self.connection.execute("rollback")
        self.names.forget()
        for arrival in batch.arrivals:  # no others: to count all months anew would keep everybody waiting
            self.month_visits.pop(decide.quota_key(arrival), None)

    def _remember(self, ledger_rows: list[tail.LedgerRow], batch: Batch, has_folded: bool) -> None:
        for row in ledger_rows:
            self.tail.growing.add(row)
        for arrival in batch.unacknowledged:
            known = self.tail.print_of(arrival.fingerprint)
            if known is not None:
                known.arrival, known.received_at, known.unacknowledged = arrival.key, arrival.received_at, True
        if has_folded:
            self.tail.folded()

    def _accept(self, batch: Batch) -> tuple[list[model.Accepted], list[tail.LedgerRow]]:
        if not batch.arrivals:
            return [], []
        acceptance = accepting.Acceptance(self, batch.arrivals, batch.now)
        return acceptance.run()

    @property
    def ids(self) -> model.IdFactory:
        """Where row keys come from."""
        return self._ids

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
            packed = self.encode([(*key, count) for key, count in self.meters.items()])
            self.connection.execute("insert into meter_batches (counts) values (?)", (packed,))

    def _fold_persons(self, arrivals: int) -> None:
        self._unfolded_persons += arrivals
        if self._unfolded_persons >= persons.SEGMENT_ARRIVALS:
            persons.fold(self)
            self._unfolded_persons = 0

    def _fold(self) -> bool:
        """Move one bucket of the tail into the lookup tables, or end its generation; False if nothing is to fold."""
        bucket = self.tail.next_bucket()
        generation = self.tail.folding
        if generation is None:
            return False
        if bucket is not None:
            prints, sightings = generation.bucket(bucket)
            rows.insert(self.connection, "insert or replace into prints", rows.PAIR, prints)
            rows.insert(self.connection, "insert or ignore into sightings", rows.PAIR, sightings)
            return True
        self.connection.execute("insert or replace into meta values ('folded_to', ?)", (str(generation.last_key),))
        return True


def probe(batch_writer: Writer) -> None:
    """A job: find out whether the database can be written again."""
    batch_writer.connection.execute("insert or replace into meta values ('probe', '')")


def truncate_after(batch_writer: Writer) -> None:
    """A job: empty the log once this transaction is through, unless a reader is in the way: then next time."""
    batch_writer.truncate_is_due = True


def checkpoint_after(batch_writer: Writer) -> None:
    """A job: copy what is left of the log once this transaction is through, so that the next one starts it anew."""
    batch_writer.checkpoint_is_due = True
