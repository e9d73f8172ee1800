"""Counts of the last hour, today and yesterday, side by side. Pure; it takes rows of ``GET /api/usage``."""

import datetime
from collections.abc import Iterable, Mapping, Sequence

from usher_gateway.pages.api import Row

Periods = Mapping[str, Sequence[Row]]  # Heading of a period -> its rows


def last_hour(slots: Sequence[Row], now: datetime.datetime, zone: datetime.tzinfo) -> tuple[str, list[Row]]:
    """Return the heading and the rows of the last four ended quarters of an hour and the running one.

    ``slots``: rows by slot. ``zone``: of the heading.
    """
    since = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0) - datetime.timedelta(hours=1)
    rows = [row for row in slots if datetime.datetime.fromisoformat(row["period"]) >= since]
    return f"Last hour (since {since.astimezone(zone):%H:%M})", rows


def recent(days: Sequence[Row], slots: Sequence[Row], now: datetime.datetime, zone: datetime.tzinfo) -> Periods:
    """Return the periods of a tenant.

    Args:
        days: rows by day of the tenant's zone, of the last 30 days.
        slots: rows by slot, of the last hours.
        now: with a time zone.
        zone: the tenant's.
    """
    today = now.astimezone(zone).date()
    yesterday = today - datetime.timedelta(days=1)
    heading, of_last_hour = last_hour(slots, now, zone)
    return {
        heading: of_last_hour,
        "Today": [row for row in days if row["period"] == today.isoformat()],
        "Yesterday": [row for row in days if row["period"] == yesterday.isoformat()],
        "30 days": days,
    }


def delivered_to(answer: Row, destination: str) -> list[str]:
    """Return how many deliveries a destination got in the last hour and in 24 h; ``+``: or more.

    ``answer``: of ``GET /api/deliveries/delivered``.
    """
    counts_by_name = {row["destination"]: (row["lastHour"], row["delivered"]) for row in answer["rows"]}
    hour, day = counts_by_name.get(destination, (0, 0))
    more = "+" if answer["areMore"] else ""
    return [f"{hour:,}{more if hour == day else ''}", f"{day:,}{more}"]


def sums(rows: Sequence[Row], names: Iterable[str]) -> dict[str, int]:
    """Return the sum of each count over rows."""
    return {name: sum(row[name] for row in rows) for name in names}


def counts(kinds: Mapping[str, str], periods: Periods) -> list[tuple[str, list[int]]]:
    """Return the words of each kind with its count in each period.

    Kinds that no period counts are left out; the first is always there.

    Args:
        kinds: name in a row -> words.
        periods: of the table.
    """
    table = [(words, [sum(row[name] for row in rows) for rows in periods.values()]) for name, words in kinds.items()]
    return [table[0], *[line for line in table[1:] if any(line[1])]]
