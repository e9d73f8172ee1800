"""Settling: writes the outcomes of attempts with a group commit, in the writer's thread."""

import collections
import sqlite3
from collections.abc import Mapping, Sequence

from usher_gateway import model
from usher_gateway.store.books import SETTLED
from usher_gateway.store.encodings import ATTEMPTS_BYTES, pack_attempt
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.transaction import Transaction

_SETTLE_DELIVERED = (
    "update deliveries set state = 1, hold = 0, waiting = false, attempts = done.column4, due_at = 0,"
    " settled_at = done.column2, cancel = 0, status = done.column5, error = '', answer = null"
    " from (values {}) done"
    " where deliveries.key = done.column1 and deliveries.state = 0 and deliveries.attempts = done.column3"
    " returning deliveries.key, deliveries.route"
)
"""Settle many successes. Columns of the values (column1 …): key, time, attempts before and after, HTTP status."""

_SETTLE_ONE = (
    "update deliveries set state = ?, hold = ?, waiting = ?, attempts = ?, due_at = ?, settled_at = ?,"
    " cancel = ?, status = ?, error = ?, answer = ? where key = ? and state = 0 and attempts = ?"
    " returning route"
)
"""Settle any outcome, if the delivery is pending with the attempts that the settlement names."""

_APPEND_ATTEMPTS = (
    f"on conflict (delivery) do update set log = substr(cast(log || excluded.log as blob), -{ATTEMPTS_BYTES})"
)
"""Append records of attempts to the logs of deliveries, and cut the oldest ones."""


def settle(transaction: Transaction, settlements: Sequence[model.Settlement]) -> None:
    """Write outcomes, each only if its delivery is pending with the attempts that the settlement names.

    Nearly all outcomes are successes at the first attempt, and one statement settles many of them. All others, and
    deliveries with several settlements in the batch, are settled one by one in their order.
    """
    per_delivery = collections.Counter([settlement.key for settlement in settlements])
    delivered: dict[int, model.Settlement] = {}
    for settlement in settlements:
        if settlement.settled_as is model.SettledAs.Delivered and per_delivery[settlement.key] == 1:
            delivered[settlement.key] = settlement
        else:
            _settle_one(transaction, settlement)
    retried_at = [each.at for each in settlements if each.settled_as is model.SettledAs.Retry]
    if retried_at:
        transaction.note_time(max(retried_at))  # a start needs to know the clock by which they are due
    values = [
        (key, each.at, each.attempts_before, each.attempts, each.status) for key, each in sorted(delivered.items())
    ]
    settled = database.select_from_values(transaction.connection, _SETTLE_DELIVERED, "(?,?,?,?,?)", values)
    records: dict[int, bytes] = {}
    for key, route in settled:
        _count_settled(transaction, delivered[key], route, model.Counter.delivered)
        records[key] = pack_attempt(delivered[key])
    _append_attempts(transaction.connection, records)


def _settle_one(transaction: Transaction, settlement: model.Settlement) -> None:
    state, counter = SETTLED[settlement.settled_as]
    in_backlog = settlement.settled_as is model.SettledAs.Retry
    held = settlement.settled_as is model.SettledAs.Held
    row = transaction.connection.execute(
        _SETTLE_ONE,
        (
            int(state),
            int(settlement.hold or 0),
            int(in_backlog),
            settlement.attempts,
            settlement.at if held else settlement.due_at,
            0 if in_backlog or held else settlement.at,
            int(settlement.cancel or 0),
            settlement.status,
            settlement.error,
            settlement.answer or None,
            settlement.key,
            settlement.attempts_before,
        ),
    ).fetchone()
    if row is not None:
        _count_settled(transaction, settlement, row[0], counter)
        if settlement.attempts > settlement.attempts_before:
            _append_attempts(transaction.connection, {settlement.key: pack_attempt(settlement)})


def _count_settled(
    transaction: Transaction, settlement: model.Settlement, route: int, counter: model.Counter | None
) -> None:
    listener, slot = transaction.names.listener_of_route(route), model.slot_of(settlement.at)
    if counter:
        transaction.meter(listener, slot, counter)
    if settlement.attempts > settlement.attempts_before:
        transaction.meter(listener, slot, model.Counter.attempts)


def _append_attempts(connection: sqlite3.Connection, records: Mapping[int, bytes]) -> None:
    """Append one record each to the logs of deliveries, by the row keys of the deliveries."""
    database.insert_rows(connection, "insert into attempts", "(?,?)", sorted(records.items()), _APPEND_ATTEMPTS)
