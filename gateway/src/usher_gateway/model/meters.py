"""Meters: counts per tenant, listener and quarter of an hour (UTC); a bill can be made from them."""

import enum

SLOT_SECONDS = 900
"""A meter's slot: a quarter of an hour, UTC."""


class Counter(enum.IntEnum):
    """What is counted. The numbers are stored: never reuse one."""

    visits = 1
    repeats = 2
    redeliveries = 3
    probes = 4
    quarantined = 5
    refused = 6
    unacknowledged = 7
    routed = 8
    """Routes in force, summed over visits and repeats: equals created + skipped."""
    created = 9
    released = 10
    replayed = 11
    redriven = 12
    delivered = 13
    died = 14
    cancelled = 15
    attempts = 16
    late = 17
    carried = 18
    """Open deliveries at the end of slots that retention has deleted: the first row of what is left (slot 0)."""
    skipped_filter = 21
    skipped_once_per = 22
    skipped_stale = 23
    skipped_repeat = 24
    skipped_paused = 25
    skipped_shadow = 26


Counts = dict[int, int]
"""Counter -> count, for one listener and slot."""


def slot_of(instant: int) -> int:
    """The first second of the slot that an instant (microseconds) lies in."""
    return instant // (SLOT_SECONDS * 1_000_000) * SLOT_SECONDS
