"""The settling half of a transaction: results of attempts. Runs in the writer's thread only.

Nearly all results are first deliveries: many of them are one statement. All others are settled one by one, in their
order, and so is a delivery of which a batch says more than one thing.
"""

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING

from usher_gateway import model
from usher_gateway.store.sqlite import rows

if TYPE_CHECKING:
    from usher_gateway.store.sqlite import writer

_SETTLED: dict[model.SettledAs, tuple[model.DeliveryState, model.Counter | None]] = {
    model.SettledAs.Delivered: (model.DeliveryState.Delivered, model.Counter.delivered),
    model.SettledAs.Retry: (model.DeliveryState.Pending, None),
    model.SettledAs.Dead: (model.DeliveryState.Dead, model.Counter.died),
    model.SettledAs.Cancelled: (model.DeliveryState.Cancelled, model.Counter.cancelled),
    model.SettledAs.Held: (model.DeliveryState.Pending, None),
}

_DELIVERED = (
    "update deliveries set state = 1, hold = 0, waiting = 0, attempts = done.column4, due_at = 0,"
    " settled_at = done.column2, cancel = 0, status = done.column5, error = '', answer = null"
    " from (values {}) done"
    " where deliveries.key = done.column1 and deliveries.state = 0 and deliveries.attempts = done.column3"
    " returning deliveries.key, deliveries.route"
)
"""Columns: key, at, attempts before and after, HTTP status. Source: SQLite names those of VALUES column1, column2 …"""

_ONE = (
    "update deliveries set state = ?, hold = ?, waiting = ?, attempts = ?, due_at = ?, settled_at = ?,"
    " cancel = ?, status = ?, error = ?, answer = ? where key = ? and state = 0 and attempts = ?"
    " returning route"
)


def settle(batch_writer: "writer.Writer", settlements: Sequence[model.Settlement]) -> None:
    """Write results; each only where its delivery is pending with the attempts that the result speaks of."""
    said = collections.Counter([settlement.key for settlement in settlements])
    delivered: dict[int, model.Settlement] = {}
    for settlement in settlements:
        if settlement.settled_as is model.SettledAs.Delivered and said[settlement.key] == 1:
            delivered[settlement.key] = settlement
        else:
            _settle_one(batch_writer, settlement)
    retried_at = [each.at for each in settlements if each.settled_as is model.SettledAs.Retry]
    if retried_at:
        batch_writer.note_time(max(retried_at))  # a start has to know by what clock they are due
    values = [
        (key, each.at, each.attempts_before, each.attempts, each.status) for key, each in sorted(delivered.items())
    ]
    for key, route in rows.from_values(batch_writer.connection, _DELIVERED, "(?,?,?,?,?)", values):
        _count(batch_writer, delivered[key], route, model.Counter.delivered)


def _settle_one(batch_writer: "writer.Writer", settlement: model.Settlement) -> None:
    state, counter = _SETTLED[settlement.settled_as]
    waiting = settlement.settled_as is model.SettledAs.Retry
    held = settlement.settled_as is model.SettledAs.Held
    row = batch_writer.connection.execute(
        _ONE,
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
    if row is not None:
        _count(batch_writer, settlement, row[0], counter)


def _count(
    batch_writer: "writer.Writer", settlement: model.Settlement, route: int, counter: model.Counter | None
) -> None:
    listener, slot = batch_writer.names.listener_of_route(route), model.slot_of(settlement.at)
    if counter:
        batch_writer.meter(listener, slot, counter)
    if settlement.attempts > settlement.attempts_before:
        batch_writer.meter(listener, slot, model.Counter.attempts)
