"""Counts for the last hour, today and yesterday, side by side. Pure; it takes ``GET /api/usage`` rows."""

import datetime
from collections.abc import Iterable, Mapping, Sequence

from usher_gateway.pages.api import Row

Periods = Mapping[str, Sequence[Row]]  # Heading of a period -> its rows


def last_hour(slots: Sequence[Row], now: datetime.datetime, zone: datetime.tzinfo) -> tuple[str, list[Row]]:
    """Return the heading and the rows for the last four ended slots (15 minutes each) and the running one.

    ``slots``: rows by slot. ``zone``: the heading's.
    """
    since = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0) - datetime.timedelta(hours=1)
    rows = [row for row in slots if datetime.datetime.fromisoformat(row["period"]) >= since]
    return f"Last hour (since {since.astimezone(zone):%H:%M})", rows


def recent(days: Sequence[Row], slots: Sequence[Row], now: datetime.datetime, zone: datetime.tzinfo) -> Periods:
    """Return a tenant's periods.

    Args:
        days: rows by day in the tenant's zone, for the last 30 days.
        slots: rows by slot, for the last hours.
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

    ``answer``: from ``GET /api/deliveries/delivered``.
    """
    counts_by_name = {row["destination"]: (row["lastHour"], row["delivered"]) for row in answer["rows"]}
    hour, day = counts_by_name.get(destination, (0, 0))
    more = "+" if answer["areMore"] else ""
    return [f"{hour:,}{more if hour == day else ''}", f"{day:,}{more}"]


def sums(rows: Sequence[Row], names: Iterable[str]) -> dict[str, int]:
    """Return each count's sum over rows."""
    return {name: sum(row[name] for row in rows) for name in names}


def counts(kinds: Mapping[str, str], periods: Periods) -> list[tuple[str, list[int]]]:
    """Return each kind's words with its count in each period.

    Kinds that no period counts are left out; the first is always there.

    Args:
        kinds: name in a row -> words.
        periods: the table's periods.
    """
    table = [(words, [sum(row[name] for row in rows) for rows in periods.values()]) for name, words in kinds.items()]
    return [table[0], *[line for line in table[1:] if any(line[1])]]
