"""The encodings that the engines share: an arrival's flags, person keys, and estimated sizes."""

import struct
from collections.abc import Sequence

from usher_gateway import model
from usher_gateway.store.base import AttemptRecord

FLAG_TRUSTED, FLAG_LATE, FLAG_UNACKNOWLEDGED, FLAG_RELEASED, FLAG_FIRST = 1, 2, 4, 8, 16  # Bits of arrivals.flags

# More bits of arrivals.flags: the body names another company than the tenant, and was accepted; it has a time that
# cannot be trusted.
FLAG_OTHER_COMPANY, FLAG_UNTRUSTED_TIME = 128, 256

# More bits of arrivals.flags: reasons that hold every delivery of an arrival, even if another reason came first.
HOLD_FLAGS = {model.HoldReason.TokenHeld: 32, model.HoldReason.QuotaExceeded: 64}

_ARRIVAL_BYTES = 512  # Estimated bytes that the rows of an arrival take in addition to its body and deliveries

# Estimated bytes of a delivery: 100 if the first attempt succeeds, 800 with ten attempts and a kept answer.
DELIVERY_BYTES = 512

STORED_SLOT = -1  # The slot of Counter.stored_bytes


def split_person_keys(packed: bytes) -> tuple[bytes, ...]:
    """Split the column arrivals.persons into 8-byte keys."""
    return tuple([packed[start : start + 8] for start in range(0, len(packed), 8)])


def row_bytes(verdicts: Sequence[tuple[int, int, int]]) -> int:
    """Return the estimated bytes of an arrival's rows besides its body. ``verdicts``: (route, skip, delivery)."""
    return _ARRIVAL_BYTES + DELIVERY_BYTES * sum([delivery > 0 for _, _, delivery in verdicts])


# A delivery's log with the last attempts: records of one length, so that a statement can append and cut them.

KEPT_ATTEMPTS = 10  # Attempts of a delivery that are kept
_RECORD = struct.Struct(">qHI24s")  # Time, HTTP status, milliseconds and error code (ASCII, padded with zero bytes)
ATTEMPTS_BYTES = KEPT_ATTEMPTS * _RECORD.size  # The length of a full log


def pack_attempt(settlement: model.Settlement) -> bytes:
    """Return an attempt's record."""
    return _RECORD.pack(
        settlement.at,
        settlement.status,
        min(settlement.milliseconds, 0xFFFF_FFFF),
        settlement.error.encode("ascii", "replace"),
    )


def unpack_attempts(log: bytes) -> list[AttemptRecord]:
    """Return a log's records, the oldest first."""
    return [
        AttemptRecord(at, status, error.rstrip(b"\0").decode("ascii"), milliseconds)
        for at, status, milliseconds, error in _RECORD.iter_unpack(log)
    ]


# Holds


def first_hold(flags: int, reasons: Sequence[model.HoldReason]) -> int:
    """Return the first reason that holds a delivery from an arrival with these flags, or 0."""
    lasting = [reason for reason in reasons if reason not in HOLD_FLAGS or flags & HOLD_FLAGS[reason]]
    return int(lasting[0]) if lasting else 0


# Holds for deliveries on which their route's filter has not decided. When one is released or cancelled, the column
# ``hold`` keeps the reason as a negative number, so that the next attempt evaluates the filter first.
FILTER_HOLDS = (int(model.HoldReason.FilterError), int(model.HoldReason.ExpressionTooSlow))


# Names that the database has lost


def unknown_listener(number: int) -> model.ListenerName:
    """Return the name under which rows are shown whose listener has no name. No resource can have such a name."""
    return model.ListenerName("?", "?", f"#{number}")


def unknown_route(number: int) -> model.RouteDefinition:
    """Return the definition under which deliveries are shown whose route has none. It has no destination."""
    return model.RouteDefinition(unknown_listener(number), f"#{number}", model.UNKNOWN_DESTINATION)
