"""Instants: everywhere in Usher an instant is an int: microseconds since the Unix epoch, UTC."""

import datetime
import functools
import time

MICROSECONDS = 1_000_000  # Microseconds in a second
HOUR = 3_600 * MICROSECONDS
DAY = 24 * HOUR

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def instant_at(moment: datetime.datetime) -> int:
    """Return a time that has a time zone as an instant."""
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)


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
