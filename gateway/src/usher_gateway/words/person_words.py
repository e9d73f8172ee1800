"""Words about persons, for the commands and the pages: which values there are, and what was done with a person."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from usher_gateway.words import listings

# An id as the lists show it, and not a person's value: whole, or its beginning (RFC 9562 §5.7).
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]*", re.IGNORECASE)

# Kind of a person's value -> its name.
FIELDS = {"user": "Purple user id", "email": "e-mail address", "mobile": "mobile number", "device": "device MAC"}

KINDS = {"device": "mac"}  # Kind of a person's value -> its name in `--as`, if that is another one

# After a search by a mobile number that finds nothing.
OTHER_SPELLINGS = "Another spelling is another value: try +49…, 0170…, +49 (0)170…"


NO_VISIT = "No readable visit has this value."  # After a search for a person that finds nothing

NOT_SEARCHED = "Bodies that could not be read are not searched: `usher quarantine` lists them."

# On a receipt from a store on PostgreSQL.
ROWS_ON_DISK = (
    "PostgreSQL keeps deleted rows on its disks and those of its standbys until the next vacuum, and in the write-ahead"
    " log and its archives as long as the server is set to keep these."
)

# On a receipt without a destination.
NOT_SENT = (
    "None of the visits that this request found had gone to a destination; earlier requests and visits that retention"
    " deleted are not counted."
)


def suppressed_at(tenants: Sequence[str], searched: int) -> str:
    """Return at which searched tenants a person is suppressed, such as ``1 of 3 tenants: agency/acme``."""
    if searched == 1:
        return tenants[0]
    if len(tenants) == searched:
        return f"all {listings.counted(searched, 'tenant')}"
    return f"{len(tenants)} of {listings.counted(searched, 'tenant')}: {listings.named(tenants)}"


def nothing_stored(answer: Mapping[str, Any], field: str | None, no_visit: str = NO_VISIT) -> str:
    """Return that no visit by a person is found, where the person is suppressed, and what else to look for."""
    texts = [no_visit]
    if answer["suppressedAt"]:
        where = suppressed_at(answer["suppressedAt"], answer["tenants"])
        texts.append(f"Usher keeps a keyed digest, because the person is suppressed at {where}.")
    if field == "mobile":
        texts.append(OTHER_SPELLINGS)
    return " ".join([*texts, NOT_SEARCHED])


def refused_elsewhere(listeners: Sequence[str]) -> str:
    """Return which listeners refuse everything now: a person who is not found may have been there."""
    who = "1 listener refuses" if len(listeners) == 1 else f"{len(listeners)} listeners refuse"
    return f"A refused visit is not stored, and {who} every visit at present: {listings.named(listeners)}."


def suppressed(answer: Mapping[str, Any]) -> str:
    """Return at how many tenants a person was suppressed."""
    return _changed(answer["suppressed"], answer["tenants"], "Suppressed now", "suppressed before")


def unsuppressed(answer: Mapping[str, Any]) -> str:
    """Return at how many tenants a person's suppression was lifted."""
    return _changed(answer["unsuppressed"], answer["tenants"], "Unsuppressed", "not suppressed")


def _changed(changed: int, tenants: int, done: str, as_before: str) -> str:
    """Return a sentence about how many tenants changed, and how many were so already."""
    counts = {done: changed, as_before: tenants - changed}
    parts = [f"{what} at {listings.counted(count, 'tenant')}" for what, count in counts.items() if count]
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def forwarded(sent: Mapping[str, Any]) -> str:
    """Return how a destination answered the request to erase the person."""
    answer = sent["forwarded"]
    if answer is None:
        return "not asked"
    status = f" ({answer['status']})" if answer["status"] else ""
    if answer["error"]:
        return f"not taken, {answer['error']}{status}"
    return f"taken{status}, but a visit came after it" if _has_later_visit(sent) else f"taken{status}"


def left_to_do(sent: Mapping[str, Any]) -> str:
    """Return what a person has to do about a destination, by its answer to the request to erase."""
    answer = sent["forwarded"]
    if answer is None:
        return "erase them there too"
    advice = ": erase them there" if answer["error"] or _has_later_visit(sent) else ""
    return f"the request to erase them was {forwarded(sent)}{advice}"


def _has_later_visit(sent: Mapping[str, Any]) -> bool:
    """Return whether a destination that was asked to erase the person perhaps got the person's visit after that."""
    last_at, asked_at = sent["lastAt"], sent["forwarded"]["at"]
    return last_at is not None and str(last_at) > str(asked_at)  # both are times in the same form
