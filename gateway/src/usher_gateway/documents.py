"""The documents that a gateway runs on: one per listener, one per destination; what operator and gateway share.

A document holds everything resolved (secrets too) and every default filled in: a gateway decides nothing about
resources. ``content_hash`` is keyed, because secrets are inside. Written by compile(), read by ingest and delivery.
"""

import hashlib
import urllib.parse
from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

SCHEMA_VERSION = 1
"""Version of both documents' form; a gateway rejects a document that is newer than it knows."""

DEFAULT_FIELDS: dict[str, tuple[str, ...]] = {
    "user": ("/user/id",),
    "firstName": ("/user/firstName",),
    "lastName": ("/user/lastName",),
    "email": ("/user/email",),
    "venue": ("/user/venue/id",),
    "visitCount": ("/user/visitCountsForVenue",),
    "company": ("/user/venue/company/id", "/user/company/id", "/company/id", "/companyId"),
    "venueName": ("/user/venue/name",),
    "mobile": ("/user/mobile",),
    "dateOfBirth": ("/user/dateOfBirth",),
    "gender": ("/user/gender",),
    "source": ("/user/source",),
    "device": ("/user/device/mac", "/user/mac", "/device/mac"),
    "occurredAt": ("/user/loginDatetime", "/loginDatetime", "/timestamp"),
}
"""Where a body holds what: JSON pointers (RFC 6901), tried in turn. Source: purple.md, The body."""


MAX_SHOWN_URL = 2048
"""Longest URL that shorten_url() returns, in characters; the status of a Listener holds no more."""

_MAX_SHOWN_PART = 12


class Address(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One URL that a listener answers at. ``query`` pairs must all be present in the request; others are ignored."""

    host: str
    """Lower case, without port."""
    path: str
    """Compared as sent, percent-encoding untouched."""
    query: tuple[tuple[str, str], ...] = ()
    action: Literal["Accept", "Hold"] = "Accept"
    """``Hold``: an old token whose visits are accepted, but held."""
    until: int = 0
    """Microseconds; an old token is unknown (404) from then on; 0 means no limit."""

    @property
    def url(self) -> str:
        """What Purple posts to, whole: a credential. Source: purple.md, only HTTPS is posted to."""
        query = f"?{urllib.parse.urlencode(self.query)}" if self.query else ""
        return f"https://{self.host}{self.path}{query}"


class Authentication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How Purple proves itself. ``Unresolved`` (a secret that never was there) is answered 503: fail closed."""

    type: Literal["None", "Basic", "Header", "Unresolved"] = "None"
    header: str = ""
    """Lower case; ``authorization`` for Basic."""
    digest: str = ""
    """Hex of credential_digest() over the header's expected value."""


class TenantDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a listener needs to know of its tenant."""

    name: str
    company_id: str = ""
    company_check: Literal["Off", "Warn", "Quarantine"] = "Warn"
    display_name: str = ""
    time_zone: str = "UTC"
    state: Literal["Active", "Suspended"] = "Active"
    visits_per_month: int = 0
    """0 means no quota."""
    when_exceeded: Literal["Forward", "Hold"] = "Forward"
    body_days: int = 30
    meter_months: int = 25


class OncePer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most one delivery per key and period, in the tenant's time zone."""

    per: tuple[Literal["User", "Venue", "Device"], ...]
    every: Literal["Day", "Week", "Month"]


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which visits go to which destination, and how."""

    name: str
    destination: str
    """``namespace/name`` of a destination document, which may be missing: deliveries are held then."""
    state: Literal["Active", "Paused", "Shadow"] = "Active"
    when: str = ""
    """CEL; ``""`` means always."""
    repeats: Literal["Skip", "Forward"] = "Skip"
    once_per: OncePer | None = None
    deliver_within_seconds: int = 0
    """0 means no limit."""
    transform: str = ""
    """CEL; ``""`` means the destination's format."""


class ListenerDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One webhook of a tenant."""

    namespace: str
    name: str
    tenant: TenantDocument
    addresses: tuple[Address, ...]
    schema_version: int = SCHEMA_VERSION
    generation: int = 0
    state: Literal["Active", "Suspended"] = "Active"
    authentication: Authentication = Authentication()
    source_ranges: tuple[str, ...] = ()
    """CIDRs; empty means any."""
    source_policy: Literal["Report", "Enforce"] = "Report"
    client_address_from: Literal["Connection", "XForwardedFor"] = "Connection"
    trusted_proxies: tuple[str, ...] = ()
    max_body_bytes: int = 256 * 1024
    requests_per_second: int = 0
    """The class's maximum; 0 means no limit."""
    fields: dict[str, tuple[str, ...]] = msgspec.field(default_factory=lambda: dict(DEFAULT_FIELDS))
    """Overrides merged over DEFAULT_FIELDS by compile()."""
    occurred_at_zone: str = ""
    """IANA zone for times without an offset; ``""``: such times are not trusted."""
    dedupe_per: tuple[Literal["User", "Venue", "Device"], ...] = ("User", "Venue")
    window_seconds: int = 3600
    redelivery_seconds: int = 12_600
    late_after_seconds: int = 300
    silence_after_seconds: int = 86_400
    routes: tuple[Route, ...] = ()

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class DestinationDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One system that receives visits, secrets resolved."""

    namespace: str
    name: str
    url: str
    schema_version: int = SCHEMA_VERSION
    generation: int = 0
    type: Literal["HTTP"] = "HTTP"
    tenant: str = ""
    """Only this tenant may use it; ``""``: every tenant of the namespace."""
    state: Literal["Active", "Paused"] = "Active"
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    """Static headers with their values, authentication included (``Authorization: Basic …`` or ``Bearer …``)."""
    signing_secrets: tuple[str, ...] = ()
    """Standard Webhooks secrets (``whsec_`` + base64, or any text); the first is the newest."""
    success_header: tuple[str, str] | None = None
    timeout_seconds: int = 10
    format: Literal["Verbatim", "CloudEvents", "CloudEventsBinary"] = "Verbatim"
    concurrency: int = 8
    requests_per_second: int = 0
    """0 means no limit."""
    retry_max_age_seconds: int = 604_800
    unresolved: Literal["", "SecretNotFound", "SecretKeyNotFound", "SecretNotLabelled"] = ""
    """Why secrets are missing: deliveries are held (SecretNotFound) until they are there."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


Listener = ListenerDocument
Destination = DestinationDocument
Tenant = TenantDocument


class Snapshot(msgspec.Struct, frozen=True):
    """All documents that a gateway runs at one moment, by key. Replaced as a whole, never changed."""

    listeners: dict[str, ListenerDocument]
    destinations: dict[str, DestinationDocument]


_Document = TypeVar("_Document", ListenerDocument, DestinationDocument)


def changed(before: Mapping[str, _Document], now: Mapping[str, _Document]) -> dict[str, _Document]:
    """What is new or another document now, by key. Cheap where most documents are the same objects as before."""
    different = {key: one for key, one in now.items() if before.get(key) is not one}
    return {key: one for key, one in different.items() if before.get(key) != one}


def content_hash(document: ListenerDocument | DestinationDocument, key: bytes) -> str:
    """Keyed hash (32 hex digits) of a document's whole content. ``key``: ``Keys.document``."""
    return hashlib.blake2b(msgspec.json.encode(document, order="sorted"), key=key, digest_size=16).hexdigest()


def credential_digest(header_value: bytes, key: bytes) -> str:
    """Keyed hash (hex) of an incoming credential: the whole header value. ``key``: ``Keys.credential``."""
    return hashlib.blake2b(header_value, key=key, digest_size=32).hexdigest()


def shorten_url(url: str) -> str:
    """Return a URL that may be shown to anybody, because the path and the query of a listener's URL are a credential.

    It keeps the scheme, the host and the names of query parameters. It cuts every part of the path that is longer than
    12 characters, every value of the query, and user information. ``url`` may lack the scheme.
    """
    base, question_mark, query = url.partition("#")[0].partition("?")
    scheme, separator, rest = base.rpartition("://")
    host, *parts = rest.split("/")
    shown = [part if len(part) <= _MAX_SHOWN_PART else f"{part[:4]}…" for part in parts]
    pairs = [f"{name}=…" if equals else "…" for name, equals, _ in (pair.partition("=") for pair in query.split("&"))]
    path = "/".join([host.rpartition("@")[2], *shown])
    short = f"{scheme}{separator}{path}{question_mark}{'&'.join(pairs) if query else ''}"
    return short if len(short) <= MAX_SHOWN_URL else f"{short[: MAX_SHOWN_URL - 1]}…"
