"""Times: everywhere in Usher an instant is an int, microseconds since the Unix epoch, UTC."""

import functools
import time

MICROSECONDS = 1_000_000
"""Microseconds in a second."""


def format_time(instant: int) -> str:
    """An instant (microseconds) as RFC 3339 in UTC, milliseconds kept: ``2026-11-25T12:00:00.250Z``."""
    seconds, micros = divmod(instant, MICROSECONDS)
    return f"{_format_second(seconds)}.{micros // 1000:03d}Z"


@functools.lru_cache(maxsize=1024)
def _format_second(seconds: int) -> str:
    """Cached: what is formatted together mostly lies within the same seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
