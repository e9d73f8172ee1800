"""The books: what must add up, per listener and period (pure). Source: design §2.6.

Three equations. Arrivals: each is counted as exactly one word, so their sum is what reached a gateway. Routes: what was
in force equals what was created and what was skipped. Deliveries: open before + created + released + replayed +
redriven = delivered + died + cancelled + open after.
"""

import datetime
from collections.abc import Iterable, Mapping

import msgspec

from usher_gateway import model
from usher_gateway.model import Counter
from usher_gateway.store.base import Period, UsageRow

ARRIVALS = (
    Counter.visits,
    Counter.repeats,
    Counter.redeliveries,
    Counter.probes,
    Counter.quarantined,
    Counter.refused,
)
"""The words that an arrival can be counted as."""

SKIPPED: Mapping[model.SkipReason, Counter] = {
    model.SkipReason.Filter: Counter.skipped_filter,
    model.SkipReason.OncePer: Counter.skipped_once_per,
    model.SkipReason.Stale: Counter.skipped_stale,
    model.SkipReason.Repeat: Counter.skipped_repeat,
    model.SkipReason.Paused: Counter.skipped_paused,
    model.SkipReason.Shadow: Counter.skipped_shadow,
}
"""Reason of a skip -> the counter that it is metered in."""

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
"""How each counter moves the number of open deliveries."""


class Violation(msgspec.Struct, frozen=True):
    """An equation that does not hold; ``period`` is None for one over the whole time."""

    listener: model.ListenerName
    equation: str
    """``Routes`` or ``Deliveries``."""
    left: int
    right: int
    period: int | None = None


def first_second(slot: int, period: Period) -> int:
    """The first second of the period (UTC) that a slot lies in."""
    if period == "slot":
        return slot
    if period == "day":
        return slot // 86_400 * 86_400
    day = datetime.datetime.fromtimestamp(slot, datetime.UTC)
    return int(datetime.datetime(day.year, day.month, 1, tzinfo=datetime.UTC).timestamp())


def arrivals(counts: model.Counts) -> int:
    """Arrivals that reached a gateway."""
    return sum([counts.get(counter, 0) for counter in ARRIVALS])


def skipped(counts: model.Counts) -> int:
    """Verdicts that made no delivery."""
    return sum([counts.get(counter, 0) for counter in SKIPPED.values()])


def opened(counts: model.Counts) -> int:
    """By how much the open deliveries have grown; negative where they became fewer."""
    return sum([sign * counts.get(counter, 0) for counter, sign in OPEN_SIGNS.items()])


def check(
    usage: Iterable[UsageRow],
    open_before: Mapping[model.ListenerName, int],
    open_after: Mapping[model.ListenerName, int],
) -> list[Violation]:
    """Every equation that does not hold.

    ``open_before`` belongs to the border before the first row, ``open_after`` to the one after the last. At the very
    beginning nothing was open: with all rows there are, and ``open_after`` counted from the deliveries themselves,
    this compares the meters with what is in the store.
    """
    rows = sorted(usage, key=lambda row: (row.listener, row.period))
    violations = []
    running = dict(open_before)
    for row in rows:
        routed, decided = row.counts.get(Counter.routed, 0), row.counts.get(Counter.created, 0) + skipped(row.counts)
        if routed != decided:
            violations.append(Violation(row.listener, "Routes", routed, decided, row.period))
        running[row.listener] = balance = running.get(row.listener, 0) + opened(row.counts)
        if balance < 0:
            violations.append(Violation(row.listener, "Deliveries", balance, 0, row.period))
    for listener in sorted(running.keys() | open_after.keys()):
        left, right = running.get(listener, 0), open_after.get(listener, 0)
        if left != right:
            violations.append(Violation(listener, "Deliveries", left, right))
    return violations
