"""What things are: the words of the design as frozen values. Standard library and msgspec only; no I/O.

Use as ``from usher_gateway import model`` and ``model.Arrival``, so that a call says where its name lives.
"""

from usher_gateway.model.arrival import (
    REDELIVERY_KEEP_SECONDS,
    REDELIVERY_NOT_BEFORE_SECONDS,
    TRUSTED_AHEAD_SECONDS,
    Accepted,
    Arrival,
    CountedAs,
    QuarantineReason,
    RefusedReason,
)
from usher_gateway.model.delivery import (
    CancelReason,
    Delivery,
    DeliveryState,
    HoldReason,
    Origin,
    SettledAs,
    Settlement,
)
from usher_gateway.model.errors import (
    ConfigurationError,
    DocumentHashError,
    DocumentTooLargeError,
    DocumentTooNewError,
    DocumentUnreadableError,
    InstallKeyError,
    NotFoundError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreLockedError,
    StoreUnavailableError,
    UsherError,
)
from usher_gateway.model.identifiers import IdFactory, format_id, key_of, milliseconds_of, parse_id
from usher_gateway.model.keys import Keys, derive_keys, key_fingerprint, url_token
from usher_gateway.model.meters import SLOT_SECONDS, Counter, Counts, slot_of
from usher_gateway.model.route import RouteDefinition, RoutePlan, SkipReason
from usher_gateway.model.tenant import ListenerName
from usher_gateway.model.times import MICROSECONDS, format_time
from usher_gateway.model.visit import Visit

__all__ = [
    "MICROSECONDS",
    "REDELIVERY_KEEP_SECONDS",
    "REDELIVERY_NOT_BEFORE_SECONDS",
    "SLOT_SECONDS",
    "TRUSTED_AHEAD_SECONDS",
    "Accepted",
    "Arrival",
    "CancelReason",
    "ConfigurationError",
    "CountedAs",
    "Counter",
    "Counts",
    "Delivery",
    "DeliveryState",
    "DocumentHashError",
    "DocumentTooLargeError",
    "DocumentTooNewError",
    "DocumentUnreadableError",
    "HoldReason",
    "IdFactory",
    "InstallKeyError",
    "Keys",
    "ListenerName",
    "NotFoundError",
    "Origin",
    "QuarantineReason",
    "RefusedReason",
    "RouteDefinition",
    "RoutePlan",
    "SettledAs",
    "Settlement",
    "SkipReason",
    "StoreBusyError",
    "StoreCorruptError",
    "StoreFullError",
    "StoreLockedError",
    "StoreUnavailableError",
    "UsherError",
    "Visit",
    "derive_keys",
    "format_id",
    "format_time",
    "key_fingerprint",
    "key_of",
    "milliseconds_of",
    "parse_id",
    "slot_of",
    "url_token",
]
