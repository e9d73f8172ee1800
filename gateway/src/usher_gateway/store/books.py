"""The books: the equations that the meters satisfy per listener and period. Pure.

- Arrivals: each arrival is counted as exactly one kind, so the kinds add up to the arrivals that reached a gateway.
- Routes: routes in force = created + skipped.
- Deliveries: open before + created + released + replayed + redriven = delivered + died + cancelled + open after.
"""

import datetime
import functools
from collections.abc import Iterable, Mapping

import msgspec

from usher_gateway import model
from usher_gateway.model import Counter
from usher_gateway.store.base import Period, UsageRow

# The kinds under which an arrival can be counted.
ARRIVALS = (
    Counter.visits,
    Counter.repeats,
    Counter.redeliveries,
    Counter.probes,
    Counter.quarantined,
    Counter.refused,
    Counter.suppressed,
)

# Skip reason -> the counter that meters it.
SKIPPED: Mapping[model.SkipReason, Counter] = {
    model.SkipReason.Filter: Counter.skipped_filter,
    model.SkipReason.OncePer: Counter.skipped_once_per,
    model.SkipReason.Stale: Counter.skipped_stale,
    model.SkipReason.Repeat: Counter.skipped_repeat,
    model.SkipReason.Paused: Counter.skipped_paused,
    model.SkipReason.Shadow: Counter.skipped_shadow,
}

# Counter -> how it changes the number of open deliveries.
OPEN_SIGNS: Mapping[int, int] = {
    Counter.carried: 1,
    Counter.created: 1,
    Counter.released: 1,
    Counter.replayed: 1,
    Counter.redriven: 1,
    Counter.delivered: -1,
    Counter.died: -1,
    Counter.cancelled: -1,
}


# An attempt's outcome -> the delivery's state, and the counter that meters it.
SETTLED: Mapping[model.SettledAs, tuple[model.DeliveryState, Counter | None]] = {
    model.SettledAs.Delivered: (model.DeliveryState.Delivered, Counter.delivered),
    model.SettledAs.Retry: (model.DeliveryState.Pending, None),
    model.SettledAs.Dead: (model.DeliveryState.Dead, Counter.died),
    model.SettledAs.Cancelled: (model.DeliveryState.Cancelled, Counter.cancelled),
    model.SettledAs.Held: (model.DeliveryState.Pending, None),
}


class Violation(msgspec.Struct, frozen=True):
    """An equation that does not hold; ``period`` is None if it covers the whole time."""

    listener: model.ListenerName
    equation: str
    """``Routes`` or ``Deliveries``."""
    left: int
    right: int
    period: int | None = None


@functools.lru_cache(maxsize=4096)
def first_second(slot: int, period: Period, zone: datetime.tzinfo = datetime.UTC) -> int:
    """Return the first second of the period that contains a slot: days and months are those of a time zone."""
    if period == "slot":
        return slot
    day = datetime.datetime.fromtimestamp(slot, zone).date()
    if period == "month":
        day = day.replace(day=1)
    return int(datetime.datetime.combine(day, datetime.time(), zone).timestamp())


def add(total: model.Counts, counts: model.Counts) -> None:
    """Add counts to a total."""
    for counter, count in counts.items():
        total[counter] = total.get(counter, 0) + count


def arrivals(counts: model.Counts) -> int:
    """Return the number of arrivals that reached a gateway."""
    return sum([counts.get(counter, 0) for counter in ARRIVALS])


def skipped(counts: model.Counts) -> int:
    """Return the number of verdicts that skipped."""
    return sum([counts.get(counter, 0) for counter in SKIPPED.values()])


def opened(counts: model.Counts) -> int:
    """Return by how much the number of open deliveries grew; negative if it fell."""
    return sum([sign * counts.get(counter, 0) for counter, sign in OPEN_SIGNS.items()])


def check(
    usage: Iterable[UsageRow],
    open_before: Mapping[model.ListenerName, int],
    open_after: Mapping[model.ListenerName, int],
) -> list[Violation]:
    """Return every equation that does not hold.

    ``open_before`` belongs to the slot border before the first row, ``open_after`` to the border after the last. Given
    all rows, an empty ``open_before``, and ``open_after`` counted from the deliveries themselves, check() compares the
    meters with the deliveries in the store.

    Open deliveries are compared at the end only: if a clock was wrong, or the clocks of gateways differ, the end of a
    delivery may be counted in an earlier slot than its beginning.
    """
    rows = sorted(usage, key=lambda row: (row.listener, row.period))
    violations = []
    running = dict(open_before)
    for row in rows:
        routed, decided = row.counts.get(Counter.routed, 0), row.counts.get(Counter.created, 0) + skipped(row.counts)
        if routed != decided:
            violations.append(Violation(row.listener, "Routes", routed, decided, row.period))
        running[row.listener] = running.get(row.listener, 0) + opened(row.counts)
    for listener in sorted(running.keys() | open_after.keys()):
        left, right = running.get(listener, 0), open_after.get(listener, 0)
        if left != right:
            violations.append(Violation(listener, "Deliveries", left, right))
    return violations
