"""Which listener an address belongs to (pure): host and path, and for old addresses the query."""

import functools
import urllib.parse
import zoneinfo
from collections.abc import Mapping

import msgspec

from usher_gateway import documents, model
from usher_gateway.ingest import authenticate, books, identify, route
from usher_gateway.token_bucket import TokenBucket


class LiveListener:
    """A listener's document with all that is prepared from it; replaced when the document changes.

    What each arrival asks for stands here itself, and equal numbers of many listeners are one object: with thousands of
    listeners it is memory that costs (docs/performance.md).
    """

    __slots__ = (
        "_month",
        "_zone",
        "body_days",
        "books",
        "bucket",
        "company_mismatches",
        "document",
        "hold",
        "identifier",
        "is_open",
        "late_after",
        "max_body_bytes",
        "name",
        "planner",
        "quota",
        "redelivery",
        "source_ranges",
        "trusted_proxies",
        "user_is_required",
        "window",
    )

    def __init__(
        self,
        document: documents.Listener,
        destinations: Mapping[str, documents.Destination],
        keys: model.Keys,
        watch: route.Watch,
        now: float,
    ) -> None:
        self.document = document
        self.name = model.ListenerName(document.namespace, document.tenant.name, document.name)
        self.books = books.ListenerBooks(self.name)
        self.identifier = identify.Identifier(document, keys)
        self.planner = route.Planner(document, destinations, self.identifier, watch)
        self.source_ranges = authenticate.networks(document.source_ranges)
        self.trusted_proxies = authenticate.networks(document.trusted_proxies)
        self.is_open = document.authentication.type == "None"
        rate = document.requests_per_second
        self.bucket = TokenBucket(rate, burst=rate, now=now) if rate else None
        self.hold = _hold_of(document)
        self.late_after = _one(document.late_after_seconds * model.MICROSECONDS)
        self.window = _one(document.window_seconds * model.MICROSECONDS)
        self.redelivery = _one(document.redelivery_seconds * model.MICROSECONDS)
        self.max_body_bytes = _one(document.max_body_bytes)
        self.body_days = document.tenant.body_days
        self.quota = document.tenant.visits_per_month if document.tenant.when_exceeded == "Hold" else 0
        self.user_is_required = document.fields.get("user") != documents.DEFAULT_FIELDS["user"]
        self.company_mismatches = 0
        self._zone = zoneinfo.ZoneInfo(document.tenant.time_zone)
        self._month = (0, 0)

    def month(self, now: int) -> tuple[int, int]:
        """The present month in the tenant's zone: its first instant and the next one's."""
        if not self._month[0] <= now < self._month[1]:
            self._month = route.month_of(now, self._zone)
        return self._month


@functools.lru_cache(maxsize=1_024)
def _one(number: int) -> int:
    """One object for equal numbers."""
    return number


def _hold_of(document: documents.Listener) -> model.HoldReason | None:
    if document.tenant.state == "Suspended":
        return model.HoldReason.TenantSuspended
    return model.HoldReason.ListenerSuspended if document.state == "Suspended" else None


class Found(msgspec.Struct, frozen=True):
    """The listener of an address, and the address that matched."""

    listener: LiveListener
    address: documents.Address


class AddressBook:
    """All addresses of all listeners; lookups cost the same for one and for ten thousand."""

    def __init__(self) -> None:
        self._by_place: dict[tuple[str, str], list[Found]] = {}

    def add(self, listener: LiveListener) -> None:
        """Take in the addresses of a listener."""
        for address in listener.document.addresses:
            places = self._by_place.setdefault((address.host, address.path), [])
            places.append(Found(listener, address))
            places.sort(key=_precedence)

    def remove(self, listener: LiveListener) -> None:
        """Take out the addresses of a listener."""
        for address in listener.document.addresses:
            place = (address.host, address.path)
            left = [found for found in self._by_place.get(place, ()) if found.listener is not listener]
            if left:
                self._by_place[place] = left
            else:
                self._by_place.pop(place, None)

    def find(self, host: str, target: str, now: int) -> Found | None:
        """The listener of a Host header and a request target (path and query as sent); None if unknown.

        Of several addresses at one path the one with the most matching query pairs wins.
        """
        path, _, query = target.partition("?")
        places = self._by_place.get((host, path)) or self._by_place.get((host_name(host), path))
        if places is None:
            return None
        pairs: set[tuple[str, str]] | None = None
        for found in places:
            address = found.address
            if address.until and now >= address.until:
                continue
            if address.query:
                if pairs is None:
                    pairs = set(urllib.parse.parse_qsl(query, keep_blank_values=True))
                if not pairs.issuperset(address.query):
                    continue
            return found
        return None


def _precedence(found: Found) -> tuple[int, str]:
    """Most query pairs first. Two listeners hold one place only for moments, and all replicas choose the same one."""
    return -len(found.address.query), found.listener.document.key


def host_name(header: str) -> str:
    """The host of a Host header: lower case, without port and without the root's dot."""
    host = header.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")
