"""The documents that a gateway runs on: one per listener and one per destination. Operator and gateway share them.

The compiler writes documents; ingest and delivery read them. A document has every reference resolved, secrets too, and
every default filled in, so that a gateway decides nothing about resources. ``content_hash`` is keyed, because a
document contains secrets.
"""

import hashlib
import re
import urllib.parse
from collections.abc import Container, Mapping
from typing import Literal, TypeVar

import msgspec

from usher_gateway import model

# Field -> its places in a body: JSON pointers (RFC 6901), tried in turn. Source: docs/purple.md, The body.
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


# A route names this prefix and not the paths below it, because a token must not be in a route.
TOKEN_PREFIX = "/v1/"  # noqa: S105 - the paths of all tokens begin with it

# At this path on every hostname a gateway answers 204 with `ROUTE_CHECK_HEADER`, for the operator's route check.
# Tokens are longer. A request here is not an arrival.
ROUTE_CHECK_PATH = f"{TOKEN_PREFIX}route-check"

ROUTE_CHECK_HEADER = "Usher-Gateway"

MAX_SHOWN_URL = 2048  # Longest URL that shorten_url() returns, in characters; the status of a Listener holds no more

_MAX_SHOWN_PART = 12


Place = tuple[str, str, tuple[tuple[str, str], ...]]  # Host, path and sorted query of an address


class Address(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One URL that a listener has. A request must have every pair in ``query``; other pairs are ignored."""

    host: str  # Lower case, without port
    path: str  # Compared as sent, without decoding percent-encoding
    query: tuple[tuple[str, str], ...] = ()
    action: Literal["Accept", "Hold"] = "Accept"
    """``Hold``: an old token. The gateway accepts its visits and holds their deliveries."""
    until: int = 0  # Microseconds. From this time on the gateway answers an old token with 404. 0 means no limit.
    retired_at: int = 0
    """Microseconds: when an edit took it out of the configuration, or a later arrival. The gateway serves it as before.
    0: it is not retired."""
    is_class_address: bool = False
    """True if the listener has it from its class, whose hostname all the class's listeners share."""

    @property
    def place(self) -> Place:
        """The address's identity, in whichever order its query is written."""
        return self.host, self.path, tuple(sorted(self.query))

    @property
    def id(self) -> str:
        """Identifies the address in reports, without its URL's secret part."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    @property
    def url(self) -> str:
        """The whole URL that Purple posts to, which is a credential. HTTPS, because Purple posts to nothing else."""
        query = f"?{urllib.parse.urlencode(self.query)}" if self.query else ""
        return f"https://{self.host}{self.path}{query}"


class Authentication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How Purple authenticates. ``Unresolved`` means that the Secret never existed: the gateway answers 503."""

    type: Literal["None", "Basic", "Header", "Unresolved"] = "None"
    header: str = ""  # Lower case; `authorization` for Basic
    digest: str = ""  # credential_digest() of the header's expected value
    missing: str = ""  # Which Secret must have what, if it is `Unresolved`


class TenantDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a listener's document about its tenant."""

    name: str
    company_id: str = ""
    company_check: Literal["Off", "Warn", "Quarantine"] = "Warn"
    display_name: str = ""
    time_zone: str = "UTC"
    state: Literal["Active", "Suspended"] = "Active"
    visits_per_month: int = 0  # 0 means no quota
    when_exceeded: Literal["Forward", "Hold"] = "Forward"
    body_days: int = 30
    meter_months: int = 25


class OncePer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most one delivery per key and period, in the tenant's time zone."""

    per: tuple[Literal["User", "Venue", "Device"], ...]
    every: Literal["Day", "Week", "Month"]
    name: str = ""  # Routes of one tenant with the same name share their marks; `""`: the route has its own


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule that sends some visits from a listener to a destination."""

    name: str
    destination: str  # `namespace/name` of a destination. If it has no document, the gateway holds the deliveries.
    destination_uid: str | msgspec.UnsetType = msgspec.UNSET
    """``DestinationDocument.uid`` of the object that the route means. If the document is another object's, the gateway
    holds the deliveries: somebody deleted the Destination and made another one with its name."""
    state: Literal["Active", "Paused", "Shadow"] = "Active"
    when: str = ""  # CEL; `""` means always
    repeats: Literal["Skip", "Forward"] = "Skip"
    once_per: OncePer | None = None
    deliver_within_seconds: int = 0  # 0 means no limit
    transform: str = ""  # CEL; `""` means the destination's format


class ListenerDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="Listener"):
    """One tenant's webhook."""

    namespace: str
    name: str
    tenant: TenantDocument
    addresses: tuple[Address, ...]
    generation: int = 0
    state: Literal["Active", "Suspended"] = "Active"
    authentication: Authentication = Authentication()
    source_ranges: tuple[str, ...] = ()  # CIDRs; empty means any
    source_policy: Literal["Report", "Enforce"] = "Report"
    client_address_from: Literal["Connection", "XForwardedFor"] = "Connection"
    trusted_proxies: tuple[str, ...] = ()
    max_body_bytes: int = 256 * 1024
    requests_per_second: int = 500  # The maximum of the class
    max_stored_bytes: int = 0  # Bytes that the tenant may store; 0 means a share of the free space
    fields: dict[str, tuple[str, ...]] = msgspec.field(default_factory=lambda: dict(DEFAULT_FIELDS))
    """DEFAULT_FIELDS with the listener's overrides."""
    occurred_at_zone: str = ""  # IANA zone of times without an offset. `""`: such times are not trusted.
    dedupe_per: tuple[Literal["User", "Venue", "Device"], ...] = ("User", "Venue")
    window_seconds: int = 3600
    redelivery_seconds: int = 12_600
    late_after_seconds: int = 300
    silence_after_seconds: int = 86_400
    routes: tuple[Route, ...] = ()
    warnings: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    """Warnings for lists; not written if there are none."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def tenant_key(self) -> str:
        """``namespace/tenant``."""
        return f"{self.namespace}/{self.tenant.name}"

    @property
    def listener_name(self) -> model.ListenerName:
        """The listener's full name with its tenant."""
        return model.ListenerName(self.namespace, self.tenant.name, self.name)

    @property
    def live_addresses(self) -> tuple[Address, ...]:
        """The addresses that are not retired."""
        return tuple(address for address in self.addresses if not address.retired_at)

    @property
    def own_hostnames(self) -> frozenset[str]:
        """The hostnames that belong to the tenant. A class's hostname belongs to none."""
        return frozenset(address.host for address in self.addresses if not address.is_class_address)

    def without_places(self, places: Container[object]) -> "ListenerDocument":
        """Return the document without the addresses at some places (``Address.place``); itself if it has none there."""
        free = tuple(address for address in self.addresses if address.place not in places)
        return self if len(free) == len(self.addresses) else msgspec.structs.replace(self, addresses=free)

    @property
    def retired_addresses(self) -> tuple[Address, ...]:
        """The addresses that are retired."""
        return tuple(address for address in self.addresses if address.retired_at)


# A variable in a destination's URL. Source: RFC 6570, level 1.
URL_VARIABLE = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}")

DOT_SEGMENT = re.compile(r"/\.{1,2}(?:/|$)")  # A segment of a path that a client resolves. Source: RFC 3986 §5.2.4.


class OAuth2(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a destination's access tokens are obtained."""

    grant: Literal["ClientCredentials", "JWTBearer"]
    token_url: str
    scopes: tuple[str, ...] = ()
    client_id: str = ""
    client_secret: str = ""
    client_authentication: Literal["Basic", "Form"] = "Basic"
    issuer: str = ""
    subject: str = ""
    audience: str = ""  # `""`: the token URL
    private_key: str = ""  # PEM
    key_id: str = ""


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a destination is verified, and how Usher proves who it is."""

    authority: str = ""  # PEM: authorities to trust instead of the system's; `""`: the system's
    chain: str = ""  # PEM of the client's certificate; `""`: none
    key: str = ""
    server_name: str = ""  # Name in the destination's certificate; `""`: the host of the URL


class UrlVariable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a destination's URL."""

    name: str
    value: str = ""  # CEL; `""`: it is `secret`
    secret: str = ""


class AnswerRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A meaning for a destination's answers that have one of the statuses and for which the expression is true."""

    effect: Literal["Delivered", "Retry", "Throttle", "Dead"]
    statuses: tuple[int, ...] = ()  # Empty: any status
    when: str = ""  # CEL over `answer`; `""`: always


class ErasureCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request that asks a destination to erase a person."""

    by: Literal["User", "Email", "Mobile", "Device"]  # Kind of the value that it needs
    url: str  # At the host of the destination's URL
    url_variables: tuple[UrlVariable, ...] = ()
    method: Literal["POST", "PUT", "DELETE"] = "POST"
    transform: str = ""  # CEL that makes the JSON document; `""`: no body


class DestinationDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="Destination"):
    """One system that receives visits, with its secrets resolved."""

    namespace: str
    name: str
    url: str  # May have variables in path and query; with their values it is a secret
    uid: str | msgspec.UnsetType = msgspec.UNSET  # `metadata.uid` of the Destination; objects from files have none
    generation: int = 0
    type: Literal["HTTP"] = "HTTP"
    url_variables: tuple[UrlVariable, ...] = ()
    tenant: str = ""  # The one tenant that may use it; `""`: every tenant of the namespace
    state: Literal["Active", "Paused"] = "Active"
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    """Static headers with their values, including ``Authorization: Basic …`` or ``Bearer …``."""
    oauth2: OAuth2 | None = None  # Sends `Authorization: Bearer` with a token that the gateway obtains
    tls: Tls | None = None
    signing_secrets: tuple[str, ...] = ()
    """Standard Webhooks secrets (``whsec_`` + base64, or any text); the first is the newest."""
    success_header: tuple[str, str] | None = None
    answers: tuple[AnswerRule, ...] = ()
    """The first that applies to an answer decides, before its status's standard meaning."""
    retry_after_header: str = ""  # Lower case; `""`: `retry-after` alone
    erasure: ErasureCall | None = None
    redirect_hosts: tuple[str, ...] = ()
    """Lower case. An answer 302 or 303 that leads there over https is followed once."""
    timeout_seconds: int = 10
    content_type: str = ""  # For every request; `""`: as the format says
    format: Literal["Verbatim", "CloudEvents", "CloudEventsBinary", "Form"] = "Verbatim"
    transform: str = ""  # CEL that makes the document for routes without a transform; `""`: the body as received
    concurrency: int = 8
    rate_requests: int = 0  # Requests in `rate_seconds`; 0 means no limit
    rate_seconds: int = 1
    rate_shared_by: str = ""  # Destinations of the namespace with the same text use one limit together
    retry_max_age_seconds: int = 604_800
    unresolved: Literal["", "SecretNotFound", "SecretKeyNotFound", "SecretNotLabelled", "CertificateInvalid"] = ""
    """Why a secret is missing; ``""`` if none is. Until it exists, the gateway holds deliveries (SecretNotFound)."""
    missing: str = ""  # Which Secret must have what, if `unresolved` is set
    warnings: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET  # As in `ListenerDocument`

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class Snapshot(msgspec.Struct, frozen=True):
    """All documents that a gateway runs at one moment, by key. A snapshot never changes; another one replaces it."""

    listeners: dict[str, ListenerDocument]
    destinations: dict[str, DestinationDocument]
    is_complete: bool = True
    """False while the operator has not published everything once, so that an unknown address may be valid."""

    def first_tenants_of(self, destination: str) -> list[str]:
        """Return the tenants with a route to a destination, sorted, as many as a log line names."""
        tenants = {
            listener.tenant.name
            for listener in self.listeners.values()
            if any(route.destination == destination for route in listener.routes)
        }
        return sorted(tenants)[:_MOST_TENANTS]


_MOST_TENANTS = 8

_Document = TypeVar("_Document", ListenerDocument, DestinationDocument)


def changed(previous: Mapping[str, _Document], present: Mapping[str, _Document]) -> dict[str, _Document]:
    """Return the documents that are new or different now, by key. It is fast if most are the same objects as before."""
    different = {key: document for key, document in present.items() if previous.get(key) is not document}
    return {key: document for key, document in different.items() if previous.get(key) != document}


def content_hash(document: ListenerDocument | DestinationDocument, key: bytes) -> str:
    """Return the keyed hash (32 hex digits) of a document's whole content. ``key``: ``Keys.document``."""
    return hashlib.blake2b(msgspec.json.encode(document, order="sorted"), key=key, digest_size=16).hexdigest()


def url_digest(url: str, key: bytes) -> bytes:
    """Return the keyed hash of a destination's URL, which may have a secret. ``key``: ``Keys.document``."""
    return hashlib.blake2b(url.encode(), key=key, person=b"url", digest_size=8).digest()


def credential_digest(header_value: bytes, key: bytes) -> str:
    """Return the keyed hash (hex) of a whole header value that Purple sends. ``key``: ``Keys.credential``."""
    return hashlib.blake2b(header_value, key=key, digest_size=32).hexdigest()


def retiring_addresses(previous: ListenerDocument, newest: ListenerDocument, now: int) -> tuple[Address, ...]:
    """Return the addresses that a changed document takes out of service.

    An address past its ``untilTime`` is not among them, because it ended as declared. ``now``: microseconds.
    """
    places = {address.place for address in newest.live_addresses}
    return tuple(
        address for address in previous.live_addresses if address.place not in places and not 0 < address.until <= now
    )


def ended_addresses(previous: ListenerDocument, newest: ListenerDocument, now: int) -> tuple[Address, ...]:
    """Return the retired addresses that the same tenant's newer document does not have any more.

    An address past its ``untilTime`` is not among them. ``now``: microseconds.
    """
    if previous.tenant.name != newest.tenant.name:
        return ()
    places = {address.place for address in newest.addresses}
    return tuple(
        address
        for address in previous.retired_addresses
        if address.place not in places and not 0 < address.until <= now
    )


def shorten_url(url: str) -> str:
    """Return a URL in a form that may be shown, because the path and the query in a listener's URL are a credential.

    It keeps the scheme, the host and the query parameters' names. It shortens every path part longer than
    12 characters, and drops every query value, user information and the fragment. ``url`` may lack the scheme.
    """
    base, question_mark, query = url.partition("#")[0].partition("?")
    scheme, separator, host_and_path = base.rpartition("://")
    host, *parts = host_and_path.split("/")
    shortened_parts = [part if len(part) <= _MAX_SHOWN_PART else f"{part[:4]}…" for part in parts]
    pairs = [f"{name}=…" if equals else "…" for name, equals, _ in (pair.partition("=") for pair in query.split("&"))]
    path = "/".join([host.rpartition("@")[2], *shortened_parts])
    short = f"{scheme}{separator}{path}{question_mark}{'&'.join(pairs) if query else ''}"
    return short if len(short) <= MAX_SHOWN_URL else f"{short[: MAX_SHOWN_URL - 1]}…"
