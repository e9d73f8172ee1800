"""Listener: one webhook of a tenant, and what becomes of its visits."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway.resources import metadata, types

_Generation = Annotated[int, msgspec.Meta(ge=0, le=1_000_000, description="Which of the derived tokens.")]


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
        Annotated[list[QueryPair], msgspec.Meta(max_length=16, extra_json_schema={"x-kubernetes-list-type": "atomic"})]
        | None
    ) = None


class AlsoAccept(types.Model, frozen=True, kw_only=True):
    """An older or newer token that is accepted too."""

    generation: _Generation
    until_time: types.Timestamp | None = None
    action: (
        Annotated[
            Literal["Accept", "Hold"],
            msgspec.Meta(description="Hold: visits are accepted, their deliveries held. Default Accept."),
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

    type: Literal["None", "Basic", "Header"]
    basic: BasicAuthentication | None = None
    header: HeaderAuthentication | None = None


class AllowedSources(types.Model, frozen=True, kw_only=True):
    """From which addresses Purple posts."""

    ranges: Annotated[list[types.Cidr], msgspec.Meta(min_length=1, max_length=256, extra_json_schema=types.LIST_SET)]
    policy: (
        Annotated[
            Literal["Report", "Enforce"],
            msgspec.Meta(description="Enforce: others are answered 403. Default Report."),
        ]
        | None
    ) = None


class Fields(types.Model, frozen=True, kw_only=True):
    """JSON pointers that override where a body holds what."""

    user: types.JsonPointer | None = None
    first_name: types.JsonPointer | None = None
    last_name: types.JsonPointer | None = None
    email: types.JsonPointer | None = None
    venue: types.JsonPointer | None = None
    visit_count: types.JsonPointer | None = None
    company: types.JsonPointer | None = None
    venue_name: types.JsonPointer | None = None
    mobile: types.JsonPointer | None = None
    date_of_birth: types.JsonPointer | None = None
    gender: types.JsonPointer | None = None
    source: types.JsonPointer | None = None
    device: types.JsonPointer | None = None
    occurred_at: types.JsonPointer | None = None
    occurred_at_zone: types.TimeZone | None = None


class Dedupe(types.Model, frozen=True, kw_only=True):
    """Which arrivals are the same visit."""

    per: (
        Annotated[list[types.VisitorKey], msgspec.Meta(min_length=1, max_length=3, extra_json_schema=types.LIST_SET)]
        | None
    ) = None
    window_seconds: (
        Annotated[
            int,
            msgspec.Meta(ge=0, le=604_800, description="0: every authentication is a visit. Default 3600."),
        ]
        | None
    ) = None
    redelivery_seconds: (
        Annotated[
            int,
            msgspec.Meta(ge=0, le=604_800, description="Until when identical content is a retry. Default 12600."),
        ]
        | None
    ) = None


class Late(types.Model, frozen=True, kw_only=True):
    """When a visit counts as late."""

    after_seconds: Annotated[int, msgspec.Meta(ge=1, le=604_800, description="Default 300.")] | None = None


class Silence(types.Model, frozen=True, kw_only=True):
    """How long no arrival is still normal."""

    after_seconds: Annotated[int, msgspec.Meta(ge=60, le=31_536_000, description="Default 86400.")] | None = None


class OncePer(types.Model, frozen=True, kw_only=True):
    """At most one delivery per key and period, in the tenant's time zone."""

    per: Annotated[list[types.VisitorKey], msgspec.Meta(min_length=1, max_length=3, extra_json_schema=types.LIST_SET)]
    every: Literal["Day", "Week", "Month"]


class Route(types.Model, frozen=True, kw_only=True):
    """Which visits go to which destination, and how."""

    name: types.ItemName
    destination_ref: types.DestinationRef
    state: (
        Annotated[
            Literal["Active", "Paused", "Shadow"],
            msgspec.Meta(description="Shadow: decide and record, send nothing. Default Active."),
        ]
        | None
    ) = None
    when: types.Expression | None = None
    repeats: (
        Annotated[
            Literal["Skip", "Forward"],
            msgspec.Meta(description="What happens to repeats of a visit. Default Skip."),
        ]
        | None
    ) = None
    once_per: OncePer | None = None
    deliver_within_seconds: (
        Annotated[
            int, msgspec.Meta(ge=1, le=604_800, description="Too late to be of use after this. Default: no limit.")
        ]
        | None
    ) = None
    transform: types.Expression | None = None


class ListenerSpec(types.Model, frozen=True, kw_only=True):
    """Where Purple posts, and what becomes of it."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Immutable("tenantRef.name"),
        types.Immutable("listenerClassName"),
    )

    tenant_ref: types.TenantRef
    listener_class_name: types.ResourceName | None = None
    addresses: (
        Annotated[
            list[Address],
            msgspec.Meta(
                min_length=1,
                max_length=16,
                description="Without it: the class's hostname and `/v1/` with the token.",
                extra_json_schema=types.LIST_MAP,
            ),
        ]
        | None
    ) = None
    token: Token | None = None
    state: (
        Annotated[
            Literal["Active", "Suspended"],
            msgspec.Meta(description="Suspended: visits are accepted and their deliveries held. Default Active."),
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
        Annotated[list[Route], msgspec.Meta(max_length=types.MAX_ROUTES, extra_json_schema=types.LIST_MAP)] | None
    ) = None


class Listener(types.Model, frozen=True, kw_only=True):
    """One webhook of a tenant: one or more URLs that Purple posts to."""

    kind_name: ClassVar[str] = "Listener"
    namespaced: ClassVar[bool] = True

    api_version: Literal["usher.dev/v1alpha1"]
    kind: Literal["Listener"]
    metadata: metadata.NamedMetadata
    spec: ListenerSpec
