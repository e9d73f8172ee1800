"""A receipt's page: one HTML file for people, which has the signed receipt in it."""

import datetime
import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from usher_gateway.words import listings, person_words

_STATES = {
    "delivered": "Delivered to the destination",
    "dead": "Failed for good",
    "pending": "Not delivered yet: cancelled by the erasure",
    "cancelled": "Cancelled before the erasure",
}
_GONE_FROM_FILES = (
    "The deleted visits are gone from the files of the store. A body that could not be read is deleted when its"
    " retention ends."
)
_SIGNED = re.compile(r'<pre id="receipt">(.*?)</pre>', re.DOTALL)


def render(receipt: Mapping[str, Any]) -> str:
    """Return a signed receipt's page. It loads nothing and has no script."""
    from usher_gateway.pages import rendering  # late, because most commands do without its library

    values = {
        "zone": datetime.UTC,
        "receipt": receipt,
        "request": facts(receipt),
        "deliveries": deliveries(receipt),
        "copies": copies(receipt),
        "forwarded": person_words.forwarded,
        "no_visit": person_words.NO_VISIT,
        "not_sent": person_words.NOT_SENT,
        "signed_lines": ["{", *_lines(receipt), "}"],
    }
    return rendering.render("receipt.html", values) + "\n"


def _lines(receipt: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields as JSON, one on each line, and only in ASCII."""
    for number, (name, value) in enumerate(receipt.items(), 1):
        yield f"{json.dumps(name)}: {json.dumps(value)}{',' if number < len(receipt) else ''}"


def facts(receipt: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked, when, and in which store; also for a request that has not ended."""
    ended_at = receipt["completedAt"]
    fields = ", ".join([person_words.FIELDS.get(field, field) for field in receipt["fields"]])
    rows = [
        ("Request", receipt["id"]),
        ("Reference", receipt["reference"] or "none"),
        ("Requested", f"{_time(receipt['receivedAt'])} UTC"),
        (receipt["status"].capitalize(), f"{_time(ended_at)} UTC") if ended_at else ("Status", receipt["status"]),
        ("Requested by", f"{receipt['requestedBy']} (name of a token or a user)"),
        ("Searched by", f"{fields}; Usher does not keep it"),
        ("Searched at", listings.counted(receipt["tenants"], "tenant")),
        ("Oldest visit in the store", _oldest(receipt["since"])),
        ("Store", receipt["store"] or "not stated"),
    ]
    if "version" in receipt:
        rows.append(("Written by", f"Usher {receipt['version']}, install {receipt['install']}"))
    return rows


def _oldest(since: str | None) -> str:
    """Return when the oldest stored visit of all persons came; for a token with a limit, at its tenants."""
    return f"{_time(since)} UTC; nothing older is stored" if since else "not stated"


def deliveries(receipt: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the states that deleted deliveries had before, in words, each with its number of deliveries."""
    return [(_STATES.get(state, state), count) for state, count in receipt["deliveries"].items()]


def copies(receipt: Mapping[str, Any]) -> list[str]:
    """Return what store copies may still have, in sentences; none if no visit was erased."""
    if receipt["status"] == "completed" and not receipt["arrivals"]:
        return []
    sentences = []
    if receipt["store"] == "PostgreSQL":
        if "notReached" not in receipt:
            sentences.append(person_words.ROWS_ON_DISK)
    elif receipt["status"] == "completed":
        sentences.append(_GONE_FROM_FILES)
    else:
        sentences.append("The files of the store may have the deleted visits for some minutes more.")
    backups = receipt["backups"]
    if backups:
        retention = f"Backups of the store are kept for {listings.counted(backups['days'], 'day')}"
        sentences.append(
            f"{retention}: those from before the end of the erasure are gone by {_time(backups['goneBy'])} UTC."
        )
    else:
        sentences.append("Backups may have the visits; the agency has not stated for how long.")
    return sentences


def _time(value: str | None) -> str:
    """Return a time to the second, in UTC."""
    return value.replace("T", " ")[:19] if value else "-"


def signed_text(page: str) -> str:
    """Return the receipt inside a page; a text without a page is returned unchanged."""
    match = _SIGNED.search(page)
    return html.unescape(match[1]) if match else page
