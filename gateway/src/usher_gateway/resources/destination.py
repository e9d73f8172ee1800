"""Destination: one system that receives visits."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway.resources import metadata, types

RESERVED_HEADERS = (
    "host|content-length|content-type|content-encoding|transfer-encoding|connection|upgrade|te|trailer|keep-alive"
    "|expect|proxy-.*|webhook-.*|usher-.*|ce-.*"
)
"""Headers that belong to HTTP or to Usher."""


class ValueFrom(types.Model, frozen=True, kw_only=True):
    """Where a value is taken from."""

    secret_key_ref: types.SecretKeyRef


class Header(types.Model, frozen=True, kw_only=True):
    """A static header of every request."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Exactly(("value", "valueFrom")),
        types.Forbidden("name", RESERVED_HEADERS),
    )

    name: types.HeaderName
    value: types.HeaderValue | None = None
    value_from: ValueFrom | None = None


class Basic(types.Model, frozen=True, kw_only=True):
    """HTTP Basic; the Secret has `username` and `password`."""

    secret_ref: types.SecretRef


class Bearer(types.Model, frozen=True, kw_only=True):
    """`Authorization: Bearer` with a token from a Secret."""

    secret_ref: types.SecretKeyRef


class DestinationAuthentication(types.Model, frozen=True, kw_only=True):
    """How Usher proves itself to the destination."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Union("type", {"Basic": "basic", "Bearer": "bearer"}),)

    type: Annotated[Literal["None", "Basic", "Bearer"], msgspec.Meta(description="Which one.")]
    basic: Basic | None = None
    bearer: Bearer | None = None


class Signing(types.Model, frozen=True, kw_only=True):
    """Signatures after Standard Webhooks; several secrets while rotating, the newest first."""

    secret_refs: Annotated[
        list[types.SecretKeyRef],
        msgspec.Meta(
            min_length=1,
            max_length=4,
            description="The secrets, the newest first; each signs every request.",
            extra_json_schema=types.LIST_ATOMIC,
        ),
    ]


class SuccessHeader(types.Model, frozen=True, kw_only=True):
    """A header that an answer must have to be a success: another Purple listener's."""

    name: types.HeaderName
    value: types.HeaderValue


class Http(types.Model, frozen=True, kw_only=True):
    """A destination that is reached by HTTP."""

    url: types.DestinationUrl
    method: Annotated[Literal["POST", "PUT", "PATCH"], msgspec.Meta(description="HTTP method.")] | None = None
    headers: (
        Annotated[
            list[Header],
            msgspec.Meta(
                max_length=32,
                description="Headers of every request, besides those that Usher sets.",
                extra_json_schema=types.LIST_MAP,
            ),
        ]
        | None
    ) = None
    authentication: DestinationAuthentication | None = None
    signing: Signing | None = None
    success_header: SuccessHeader | None = None
    timeout_seconds: (
        Annotated[int, msgspec.Meta(ge=1, le=30, description="Seconds that one attempt may take.")] | None
    ) = None


class RateLimit(types.Model, frozen=True, kw_only=True):
    """How fast a destination may be sent to, over all replicas."""

    requests_per_second: Annotated[int, msgspec.Meta(ge=1, le=10_000, description="Requests a second.")]


class Retry(types.Model, frozen=True, kw_only=True):
    """How long attempts are repeated."""

    max_age_seconds: (
        Annotated[
            int, msgspec.Meta(ge=60, le=2_592_000, description="Seconds from visit time; then the delivery is dead.")
        ]
        | None
    ) = None


class DestinationSpec(types.Model, frozen=True, kw_only=True):
    """Where visits go, and how fast."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Union("type", {"HTTP": "http"}),
        types.Immutable("tenantRef.name"),
    )

    tenant_ref: (
        Annotated[
            types.TenantRef,
            msgspec.Meta(
                description="Whose it is; never changes. If left out, every tenant of the namespace may use it."
            ),
        ]
        | None
    ) = None
    state: Annotated[Literal["Active", "Paused"], msgspec.Meta(description="Paused: deliveries are held.")] | None = (
        None
    )
    type: Annotated[Literal["HTTP"], msgspec.Meta(description="How it is reached.")]
    http: Http | None = None
    format: (
        Annotated[
            Literal["Verbatim", "CloudEvents", "CloudEventsBinary"],
            msgspec.Meta(
                description="The body as Purple sent it, or wrapped as a CloudEvent (structured or binary mode)."
            ),
        ]
        | None
    ) = None
    concurrency: (
        Annotated[int, msgspec.Meta(ge=1, le=1000, description="Requests at the same time, over all replicas.")] | None
    ) = None
    rate_limit: RateLimit | None = None
    retry: Retry | None = None


class Destination(types.Model, frozen=True, kw_only=True):
    """One system that receives visits."""

    kind_name: ClassVar[str] = "Destination"
    namespaced: ClassVar[bool] = True

    api_version: Literal["usher.dev/v1alpha1"]
    kind: Literal["Destination"]
    metadata: metadata.NamedMetadata
    spec: DestinationSpec
