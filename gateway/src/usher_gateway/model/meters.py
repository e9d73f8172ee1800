"""Meters: counts per tenant, listener and quarter of an hour (UTC), good enough to make a bill from."""

import enum

from usher_gateway.model.instants import MICROSECONDS

SLOT_SECONDS = 900  # A meter's slot: a quarter of an hour, UTC


class Counter(enum.IntEnum):
    """The events that meters count. The store keeps the numbers: never reuse one."""

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
    """Open deliveries at the end of the slots that retention deleted; kept in slot 0, before all others."""
    stored_bytes = 19
    """Bytes that bodies and their rows take; kept in slot -1, which no period includes."""
    skipped_filter = 21
    skipped_once_per = 22
    skipped_stale = 23
    skipped_repeat = 24
    skipped_paused = 25
    skipped_shadow = 26
    suppressed = 27


Counts = dict[int, int]  # Counter -> count, for one listener and slot


def slot_of(instant: int) -> int:
    """Return the first second of the slot that contains an instant (microseconds)."""
    return instant // (SLOT_SECONDS * MICROSECONDS) * SLOT_SECONDS
