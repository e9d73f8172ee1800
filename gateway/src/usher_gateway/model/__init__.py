"""The words of the design as values: arrivals, visits, routes, deliveries, instants, meters, keys and errors. No I/O.

Import it as ``from usher_gateway import model`` and write ``model.Arrival``, so that readers see where it comes from.
Depends on the standard library and msgspec only.
"""

from usher_gateway.model.arrival import (
    PERSON_KEY_START,
    REDELIVERY_KEEP,
    REDELIVERY_NOT_BEFORE,
    TRUSTED_AHEAD,
    UNREADABLE,
    Accepted,
    Arrival,
    CountedAs,
    QuarantineReason,
    RefusedReason,
    Visit,
    without_surrogates,
)
from usher_gateway.model.delivery import (
    UNKNOWN_DESTINATION,
    CancelReason,
    Delivery,
    DeliveryState,
    Hold,
    HoldReason,
    Origin,
    RouteDefinition,
    RoutePlan,
    SettledAs,
    Settlement,
    SkipReason,
)
from usher_gateway.model.errors import (
    ConfigurationError,
    DocumentHashError,
    DocumentTooLargeError,
    DocumentTooNewError,
    DocumentUnreadableError,
    InstallKeyError,
    NotFoundError,
    SchemaTooOldError,
    StorageLimitError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreLockedError,
    StoreUnavailableError,
    UsherError,
)
from usher_gateway.model.identifiers import (
    IdFactory,
    ListenerName,
    format_id,
    instant_of,
    key_before,
    key_of,
    parse_id,
)
from usher_gateway.model.instants import DAY, HOUR, MICROSECONDS, format_time, instant_at, time_or_none
from usher_gateway.model.keys import Keys, derive_keys, key_fingerprint, url_token
from usher_gateway.model.meters import SLOT_SECONDS, Counter, Counts, slot_of
