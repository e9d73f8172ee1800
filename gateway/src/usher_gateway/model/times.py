"""Times: everywhere in Usher an instant is an int, microseconds since the Unix epoch, UTC."""

import datetime

MICROSECONDS = 1_000_000
"""Microseconds in a second."""


def format_time(instant: int) -> str:
    """An instant (microseconds) as RFC 3339 in UTC, milliseconds kept: ``2026-11-25T12:00:00.250Z``."""
    seconds, micros = divmod(instant, MICROSECONDS)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{micros // 1000:03d}Z"
