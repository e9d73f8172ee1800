"""Listener: a tenant's webhook, and what Usher does with its visits."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway.resources import types

DEFAULT_CLASS = "public"  # Name of the ListenerClass of a listener that names none
_SECRET_LENGTH = 20  # A path or query value this long, with letters and digits, cannot be guessed

_Generation = Annotated[
    int, types.number("Number of the derived token. Another number gives another URL.", 0, 1_000_000)
]


class QueryPair(types.Model, frozen=True, kw_only=True):
    """A query parameter that a request must have. Other parameters are ignored."""

    name: types.QueryName
    value: types.QueryValue


class AddressSpec(types.Model, frozen=True, kw_only=True):
    """One URL that Purple posts to. Without `path` it gets `/v1/` and the token."""

    name: types.ItemName
    hostname: types.Hostname
    path: types.UrlPath | None = None
    query: Annotated[
        list[QueryPair], types.entries("Query parameters that a request must have, all of them.", 16, types.LIST_ATOMIC)
    ] = []

    @property
    def query_pairs(self) -> tuple[tuple[str, str], ...]:
        """The query parameters that a request must have, as (name, value)."""
        return tuple((pair.name, pair.value) for pair in self.query)

    @property
    def has_secret(self) -> bool:
        """True if the URL cannot be guessed: it has a token, or a part with 20 or more letters and digits."""
        if self.path is None:
            return True
        parts = [*self.path.split("/"), *(pair.value for pair in self.query)]
        return any(
            len(part) >= _SECRET_LENGTH and any(map(str.isdigit, part)) and any(map(str.isalpha, part))
            for part in parts
        )


class AlsoAccept(types.Model, frozen=True, kw_only=True):
    """An older or newer token that is also accepted."""

    generation: _Generation
    until_time: Annotated[
        types.Timestamp,
        msgspec.Meta(description="Time until which the token is accepted (RFC 3339). No limit if left out."),
    ] = ""
    action: Annotated[
        Literal["Accept", "Hold"],
        msgspec.Meta(
            description="Hold: the gateway accepts visits at the URL with this token and holds their deliveries."
        ),
    ] = "Accept"


class Token(types.Model, frozen=True, kw_only=True):
    """The tokens in the listener's URLs. Several tokens allow a rotation without a gap."""

    generation: _Generation = 0
    also_accept: Annotated[
        list[AlsoAccept],
        types.entries(
            "Older tokens that are also accepted, until the portal has the new URL.",
            8,
            {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["generation"]},
        ),
    ] = []


class BasicAuthentication(types.Model, frozen=True, kw_only=True):
    """HTTP Basic authentication. The Secret has `username` and `password`."""

    secret_ref: types.SecretRef


class HeaderAuthentication(types.Model, frozen=True, kw_only=True):
    """A header with a secret value."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Forbidden("name", types.HTTP_HEADERS),)

    name: types.HeaderName
    secret_ref: types.SecretKeyRef


class AuthenticationSpec(types.Model, frozen=True, kw_only=True):
    """How Purple authenticates, besides knowing the URL."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Union("type", {"Basic": "basic", "Header": "header"}),)

    type: Annotated[
        Literal["None", "Basic", "Header"],
        msgspec.Meta(description="Type of authentication. An explicit None allows an address that can be guessed."),
    ]
    basic: BasicAuthentication | None = None
    header: HeaderAuthentication | None = None


class AllowedSources(types.Model, frozen=True, kw_only=True):
    """Purple's source addresses."""

    ranges: Annotated[list[types.Cidr], types.entries("Address ranges, IPv4 or IPv6.", 256, types.LIST_SET, shortest=1)]
    policy: Annotated[
        Literal["Report", "Enforce"],
        msgspec.Meta(
            description="Report: requests from other addresses are only counted. Enforce: the gateway "
            "answers them with 403."
        ),
    ] = "Report"


class Fields(types.Model, frozen=True, kw_only=True):
    """JSON pointers that override the default places of fields in a body."""

    user: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the visitor's id.")] | None = None
    first_name: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the first name.")] | None = None
    last_name: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the last name.")] | None = None
    email: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the e-mail address.")] | None = None
    venue: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the venue's id.")] | None = None
    visit_count: (
        Annotated[types.JsonPointer, msgspec.Meta(description="Place of the number of visits so far.")] | None
    ) = None
    company: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the company's id.")] | None = None
    venue_name: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the venue's name.")] | None = None
    mobile: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the mobile number.")] | None = None
    date_of_birth: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the date of birth.")] | None = None
    gender: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the gender.")] | None = None
    source: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the sign-up method.")] | None = None
    device: Annotated[types.JsonPointer, msgspec.Meta(description="Place of the device's MAC address.")] | None = None
    occurred_at: (
        Annotated[types.JsonPointer, msgspec.Meta(description="Place of the time of the authentication.")] | None
    ) = None
    occurred_at_zone: Annotated[
        types.TimeZone,
        msgspec.Meta(description="IANA time zone of times without an offset. Without it such times are not trusted."),
    ] = ""


class Dedupe(types.Model, frozen=True, kw_only=True):
    """The rules by which arrivals count as the same visit."""

    per: Annotated[
        list[types.VisitorKey],
        types.entries(
            "The ids that two arrivals of the same visit have in common, all of them.", 3, types.LIST_SET, shortest=1
        ),
    ] = msgspec.field(default_factory=lambda: ["User", "Venue"])
    window_seconds: Annotated[
        int,
        types.number(
            "Seconds in which an arrival of the same visitor is a repeat. 0: every authentication is a visit.",
            0,
            604_800,
        ),
    ] = 3600
    redelivery_seconds: Annotated[
        int,
        types.number("Seconds in which identical content without a time in it counts as Purple's retry.", 0, 604_800),
    ] = 12_600


class Late(types.Model, frozen=True, kw_only=True):
    """When a visit counts as late."""

    after_seconds: Annotated[int, types.number("Seconds from the visit time to the arrival.", 1, 604_800)] = 300


class Silence(types.Model, frozen=True, kw_only=True):
    """How long a listener may be silent."""

    after_seconds: Annotated[
        int, types.number("Seconds without any arrival before `Receiving` turns False.", 60, 31_536_000)
    ] = 86_400


class OncePerSpec(types.Model, frozen=True, kw_only=True):
    """At most one delivery per key and period, in the tenant's time zone."""

    per: Annotated[
        list[types.VisitorKey], types.entries("The ids that make up the key.", 3, types.LIST_SET, shortest=1)
    ]
    every: Annotated[Literal["Day", "Week", "Month"], msgspec.Meta(description="The period. A week begins on Monday.")]
    name: Annotated[
        types.ItemName,
        msgspec.Meta(
            description="Routes of one tenant with the same name share one limit, also those of other listeners: a "
            "visitor whom two webhooks report gets one mail a day. They need the same `every`, and share nothing "
            "with a route that has another `per`. Without it, each route has its own limit."
        ),
    ] = ""


class RouteSpec(types.Model, frozen=True, kw_only=True):
    """A rule that sends visits to a destination."""

    name: types.ItemName
    destination_ref: types.DestinationRef
    state: Annotated[
        Literal["Active", "Paused", "Shadow"],
        msgspec.Meta(
            description="Paused: visits are skipped and can be replayed. Shadow: the gateway decides "
            "and records, and sends nothing."
        ),
    ] = "Active"
    when: Annotated[
        types.Filter, msgspec.Meta(description="CEL over `visit` and `body` that selects the visits. All if left out.")
    ] = ""
    repeats: Annotated[
        Literal["Skip", "Forward"],
        msgspec.Meta(description="Skip: a repeat of a visit makes no delivery. Forward: it makes one."),
    ] = "Skip"
    once_per: OncePerSpec | None = None
    deliver_within_seconds: Annotated[
        int,
        types.number(
            "Seconds from the visit time after which a delivery is useless and is cancelled. No limit if left out.",
            1,
            604_800,
        ),
    ] = 0
    transform: Annotated[
        types.Transform,
        msgspec.Meta(
            description="CEL over `visit` and `body` that makes the document to send. The body as received if left out."
        ),
    ] = ""


class ListenerSpec(types.Model, frozen=True, kw_only=True):
    """Where Purple posts, and what Usher does with the visits."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Immutable("tenantRef.name"),
        types.Immutable("listenerClassName"),
    )

    tenant_ref: types.TenantRef
    listener_class_name: Annotated[
        types.ResourceName,
        msgspec.Meta(description="The ListenerClass that exposes this listener. It cannot be changed."),
    ] = DEFAULT_CLASS
    addresses: Annotated[
        list[AddressSpec],
        types.entries(
            "All URLs of the listener. If left out: the class's hostname, and `/v1/` with the token.",
            types.MAX_ADDRESSES,
            types.LIST_MAP,
            shortest=1,
        ),
    ] = []
    token: Token = Token()
    state: Annotated[
        Literal["Active", "Suspended"],
        msgspec.Meta(description="Suspended: the gateway accepts visits and holds their deliveries."),
    ] = "Active"
    authentication: AuthenticationSpec | None = None
    allowed_sources: AllowedSources = AllowedSources(ranges=[])
    fields: Fields = Fields()
    dedupe: Dedupe = Dedupe()
    late: Late = Late()
    silence: Silence = Silence()
    routes: Annotated[
        list[RouteSpec],
        types.entries(
            "Rules that send visits to destinations. A listener without routes only counts.",
            types.MAX_ROUTES,
            types.LIST_MAP,
        ),
    ] = []


class Listener(types.ResourceBase, frozen=True, kw_only=True):
    """One webhook of a tenant: one or more URLs that Purple posts to."""

    kind_name: ClassVar[str] = "Listener"
    namespaced: ClassVar[bool] = True

    api_version: Literal["usher.dev/v1alpha1"]
    kind: Literal["Listener"]
    metadata: types.NamedMetadata
    spec: ListenerSpec

    @property
    def class_name(self) -> str:
        """The ListenerClass (name) that exposes this listener."""
        return self.spec.listener_class_name

    @property
    def owner(self) -> tuple[str, str]:
        """(namespace, tenant)."""
        return self.metadata.namespace, self.spec.tenant_ref.name

    @property
    def named_rules(self) -> list[tuple[str, OncePerSpec]]:
        """The rules ``oncePer`` with a name, each after its period's path."""
        rules = [
            (f"spec.routes[{index}].oncePer.every", route.once_per) for index, route in enumerate(self.spec.routes)
        ]
        return [(path, rule) for path, rule in rules if rule is not None and rule.name]

    @property
    def expressions(self) -> list[types.DeclaredExpression]:
        """The routes' expressions."""
        expressions: list[types.DeclaredExpression] = []
        for index, route in enumerate(self.spec.routes):
            expressions.append((f"spec.routes[{index}].when", route.when, "when"))
            expressions.append((f"spec.routes[{index}].transform", route.transform, "transform"))
        return [expression for expression in expressions if expression[1]]
