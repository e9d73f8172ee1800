"""The words of the design as values: arrivals, visits, routes, deliveries, meters, keys and errors. No I/O.

Import it as ``from usher_gateway import model`` and write ``model.Arrival``, so that readers see where it comes from.
Depends on the standard library and msgspec only.
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
    Visit,
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
from usher_gateway.model.meters import MICROSECONDS, SLOT_SECONDS, Counter, Counts, format_time, slot_of
from usher_gateway.model.route import ListenerName, RouteDefinition, RoutePlan, SkipReason

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
