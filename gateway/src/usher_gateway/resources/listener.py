"""Listener: one webhook of a tenant, and what becomes of its visits."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway.resources import types

_Generation = Annotated[
    int, msgspec.Meta(ge=0, le=1_000_000, description="Which of the derived tokens; another number is another URL.")
]


class QueryPair(types.Model, frozen=True, kw_only=True):
    """A query parameter that a request must have; others are ignored."""

    name: types.QueryName
    value: types.QueryValue


class Address(types.Model, frozen=True, kw_only=True):
    """One URL that Purple posts to; without `path` it gets `/v1/` and the token."""

    name: types.ItemName
    hostname: types.Hostname
    path: types.UrlPath | None = None
    query: (
        Annotated[
            list[QueryPair],
            msgspec.Meta(
                max_length=16,
                description="Query parameters that a request must have, all of them.",
                extra_json_schema=types.LIST_ATOMIC,
            ),
        ]
        | None
    ) = None


class AlsoAccept(types.Model, frozen=True, kw_only=True):
    """An older or newer token that is accepted too."""

    generation: _Generation
    until_time: (
        Annotated[types.Timestamp, msgspec.Meta(description="Accepted until then (RFC 3339); for good if left out.")]
        | None
    ) = None
    action: (
        Annotated[
            Literal["Accept", "Hold"],
            msgspec.Meta(description="Hold: visits at this token's URL are accepted, their deliveries held."),
        ]
        | None
    ) = None


class Token(types.Model, frozen=True, kw_only=True):
    """Which derived tokens are in the listener's URLs: rotation without a gap."""

    generation: _Generation | None = None
    also_accept: (
        Annotated[
            list[AlsoAccept],
            msgspec.Meta(
                max_length=8,
                description="Older tokens that are accepted too, until the portal has the new URL.",
                extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["generation"]},
            ),
        ]
        | None
    ) = None


class BasicAuthentication(types.Model, frozen=True, kw_only=True):
    """HTTP Basic; the Secret has `username` and `password`."""

    secret_ref: types.SecretRef


class HeaderAuthentication(types.Model, frozen=True, kw_only=True):
    """A header with a secret value."""

    name: types.HeaderName
    secret_ref: types.SecretKeyRef


class Authentication(types.Model, frozen=True, kw_only=True):
    """How Purple proves itself, besides knowing the URL."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Union("type", {"Basic": "basic", "Header": "header"}),)

    type: Annotated[
        Literal["None", "Basic", "Header"],
        msgspec.Meta(description="Which one; None spelled out allows an address that can be guessed."),
    ]
    basic: BasicAuthentication | None = None
    header: HeaderAuthentication | None = None


class AllowedSources(types.Model, frozen=True, kw_only=True):
    """From which addresses Purple posts."""

    ranges: Annotated[
        list[types.Cidr],
        msgspec.Meta(
            min_length=1,
            max_length=256,
            description="Address ranges, IPv4 or IPv6.",
            extra_json_schema=types.LIST_SET,
        ),
    ]
    policy: (
        Annotated[
            Literal["Report", "Enforce"],
            msgspec.Meta(description="Report: others are only counted. Enforce: they are answered 403."),
        ]
        | None
    ) = None


class Fields(types.Model, frozen=True, kw_only=True):
    """JSON pointers that override where a body holds what."""

    user: Annotated[types.JsonPointer, msgspec.Meta(description="Where the visitor's id is.")] | None = None
    first_name: Annotated[types.JsonPointer, msgspec.Meta(description="Where the first name is.")] | None = None
    last_name: Annotated[types.JsonPointer, msgspec.Meta(description="Where the last name is.")] | None = None
    email: Annotated[types.JsonPointer, msgspec.Meta(description="Where the e-mail address is.")] | None = None
    venue: Annotated[types.JsonPointer, msgspec.Meta(description="Where the venue's id is.")] | None = None
    visit_count: (
        Annotated[types.JsonPointer, msgspec.Meta(description="Where how often the visitor was seen is.")] | None
    ) = None
    company: Annotated[types.JsonPointer, msgspec.Meta(description="Where the company's id is.")] | None = None
    venue_name: Annotated[types.JsonPointer, msgspec.Meta(description="Where the venue's name is.")] | None = None
    mobile: Annotated[types.JsonPointer, msgspec.Meta(description="Where the mobile number is.")] | None = None
    date_of_birth: Annotated[types.JsonPointer, msgspec.Meta(description="Where the date of birth is.")] | None = None
    gender: Annotated[types.JsonPointer, msgspec.Meta(description="Where the gender is.")] | None = None
    source: Annotated[types.JsonPointer, msgspec.Meta(description="Where how the visitor signed in is.")] | None = None
    device: Annotated[types.JsonPointer, msgspec.Meta(description="Where the device's MAC address is.")] | None = None
    occurred_at: (
        Annotated[types.JsonPointer, msgspec.Meta(description="Where the time of the authentication is.")] | None
    ) = None
    occurred_at_zone: (
        Annotated[
            types.TimeZone,
            msgspec.Meta(description="IANA time zone of times without an offset, which are not trusted without it."),
        ]
        | None
    ) = None


class Dedupe(types.Model, frozen=True, kw_only=True):
    """Which arrivals are the same visit."""

    per: (
        Annotated[
            list[types.VisitorKey],
            msgspec.Meta(
                min_length=1,
                max_length=3,
                description="What makes two arrivals the same visit, taken together.",
                extra_json_schema=types.LIST_SET,
            ),
        ]
        | None
    ) = None
    window_seconds: (
        Annotated[
            int,
            msgspec.Meta(
                ge=0,
                le=604_800,
                description="Seconds in which the same visitor is a repeat. 0: every authentication is a visit.",
            ),
        ]
        | None
    ) = None
    redelivery_seconds: (
        Annotated[
            int,
            msgspec.Meta(
                ge=0,
                le=604_800,
                description="Seconds in which identical content without a time of its own is Purple's retry.",
            ),
        ]
        | None
    ) = None


class Late(types.Model, frozen=True, kw_only=True):
    """When a visit counts as late."""

    after_seconds: (
        Annotated[int, msgspec.Meta(ge=1, le=604_800, description="Seconds from visit time to arrival.")] | None
    ) = None


class Silence(types.Model, frozen=True, kw_only=True):
    """How long no arrival is still normal."""

    after_seconds: (
        Annotated[
            int,
            msgspec.Meta(
                ge=60, le=31_536_000, description="Seconds without any arrival before `Receiving` turns False."
            ),
        ]
        | None
    ) = None


class OncePer(types.Model, frozen=True, kw_only=True):
    """At most one delivery per key and period, in the tenant's time zone."""

    per: Annotated[
        list[types.VisitorKey],
        msgspec.Meta(
            min_length=1,
            max_length=3,
            description="Whose deliveries are counted together.",
            extra_json_schema=types.LIST_SET,
        ),
    ]
    every: Annotated[Literal["Day", "Week", "Month"], msgspec.Meta(description="The period; a week begins on Monday.")]


class Route(types.Model, frozen=True, kw_only=True):
    """Which visits go to which destination, and how."""

    name: types.ItemName
    destination_ref: types.DestinationRef
    state: (
        Annotated[
            Literal["Active", "Paused", "Shadow"],
            msgspec.Meta(
                description="Paused: visits are skipped, to be replayed. Shadow: decide and record, send nothing."
            ),
        ]
        | None
    ) = None
    when: (
        Annotated[
            types.Expression,
            msgspec.Meta(description="CEL over `visit` and `body`: which visits the route takes. All if left out."),
        ]
        | None
    ) = None
    repeats: (
        Annotated[
            Literal["Skip", "Forward"],
            msgspec.Meta(description="What happens to repeats of a visit: no delivery, or one each."),
        ]
        | None
    ) = None
    once_per: OncePer | None = None
    deliver_within_seconds: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1,
                le=604_800,
                description="Seconds from visit time after which it is of no use. No limit if left out.",
            ),
        ]
        | None
    ) = None
    transform: (
        Annotated[
            types.Expression,
            msgspec.Meta(description="CEL over `visit` and `body`: what is sent. The body as it came if left out."),
        ]
        | None
    ) = None


class ListenerSpec(types.Model, frozen=True, kw_only=True):
    """Where Purple posts, and what becomes of it."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Immutable("tenantRef.name"),
        types.Immutable("listenerClassName"),
    )

    tenant_ref: types.TenantRef
    listener_class_name: (
        Annotated[
            types.ResourceName,
            msgspec.Meta(description="The ListenerClass that exposes this listener; never changes."),
        ]
        | None
    ) = None
    addresses: (
        Annotated[
            list[Address],
            msgspec.Meta(
                min_length=1,
                max_length=types.MAX_ADDRESSES,
                description="The URLs, and no others; if left out, the class's hostname and `/v1/` with the token.",
                extra_json_schema=types.LIST_MAP,
            ),
        ]
        | None
    ) = None
    token: Token | None = None
    state: (
        Annotated[
            Literal["Active", "Suspended"],
            msgspec.Meta(description="Suspended: visits are accepted and their deliveries held."),
        ]
        | None
    ) = None
    authentication: Authentication | None = None
    allowed_sources: AllowedSources | None = None
    fields: Fields | None = None
    dedupe: Dedupe | None = None
    late: Late | None = None
    silence: Silence | None = None
    routes: (
        Annotated[
            list[Route],
            msgspec.Meta(
                max_length=types.MAX_ROUTES,
                description="Which visits go where. A listener without routes only counts.",
                extra_json_schema=types.LIST_MAP,
            ),
        ]
        | None
    ) = None


class Listener(types.ResourceBase, frozen=True, kw_only=True):
    """One webhook of a tenant: one or more URLs that Purple posts to."""

    kind_name: ClassVar[str] = "Listener"
    namespaced: ClassVar[bool] = True

    api_version: Literal["usher.dev/v1alpha1"]
    kind: Literal["Listener"]
    metadata: types.NamedMetadata
    spec: ListenerSpec
