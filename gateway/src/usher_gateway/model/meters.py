"""Meters: counts per tenant, listener and quarter of an hour (UTC), good enough to make a bill from.

Everywhere in Usher an instant is an int: microseconds since the Unix epoch, UTC.
"""

import enum
import functools
import time

MICROSECONDS = 1_000_000  # Microseconds in a second
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


def format_time(instant: int) -> str:
    """Return an instant (microseconds) as RFC 3339 in UTC with milliseconds: ``2026-11-25T12:00:00.250Z``."""
    seconds, micros = divmod(instant, MICROSECONDS)
    return f"{_format_second(seconds)}.{micros // 1000:03d}Z"


def time_or_none(instant: int | None) -> str | None:
    """Return an instant as `format_time` does; None for 0 and None: never."""
    return format_time(instant) if instant else None


@functools.lru_cache(maxsize=1024)
def _format_second(seconds: int) -> str:
    """Format a whole second; cached, because instants that are formatted together are mostly close together."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
