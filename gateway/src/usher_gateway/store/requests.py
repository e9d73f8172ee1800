"""Shared code of the engines for changes that people request, and for retention. Pure."""

import datetime
from collections.abc import Sequence

import msgspec

from usher_gateway import model

SLICE = 100
"""Deliveries that one job creates or changes; arrivals wait for it (docs/performance.md)."""

Holds = dict[int, Sequence[model.HoldReason]]
"""Route number -> the reasons that hold its deliveries now (``store.base.HoldsOf``)."""

SkippedVerdict = tuple[int, int]
"""(arrival, route number) of a skipped verdict."""

ENDED = frozenset({model.DeliveryState.Dead.name.lower(), model.DeliveryState.Cancelled.name.lower()})
NOT_RELEASABLE = (model.QuarantineReason.Truncated, model.QuarantineReason.Unstorable)

LEDGER_DAYS = 8
"""The ledger is kept at least this long, because dedupe looks back 7 days, in visit time and in received time."""

METER_MONTHS = 25
"""Months that meters are kept for tenants that are not (any more) in the configuration."""


class MeterWalk(msgspec.Struct):
    """How far retention has checked the meters today; it does not check kept rows twice a day."""

    day: int = -1
    slot: int = 0


def months_before(now: int, months: int) -> int:
    """Return the first second (UTC) of the month that is ``months`` months before the current one."""
    day = datetime.datetime.fromtimestamp(now // model.MICROSECONDS, datetime.UTC)
    month = day.year * 12 + day.month - 1 - months
    return int(datetime.datetime(month // 12, month % 12 + 1, 1, tzinfo=datetime.UTC).timestamp())
