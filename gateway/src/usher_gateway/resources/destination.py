"""Destination: one system that receives visits."""

import urllib.parse
from typing import Annotated, ClassVar, Literal, cast

import msgspec

from usher_gateway import documents
from usher_gateway.resources import conditions, secret, types

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


class Destination(types.ResourceBase, frozen=True, kw_only=True):
    """One system that receives visits."""

    kind_name: ClassVar[str] = "Destination"
    namespaced: ClassVar[bool] = True

    api_version: Literal["usher.dev/v1alpha1"]
    kind: Literal["Destination"]
    metadata: types.NamedMetadata
    spec: DestinationSpec


_SIGNING_PREFIX = "whsec_"

_Unresolved = Literal["", "SecretNotFound", "SecretKeyNotFound", "SecretNotLabelled"]


def compile_destination(
    one: Destination, resolution: secret.SecretResolver, previous: documents.Destination | None
) -> tuple[documents.Destination | None, list[conditions.Finding]]:
    """The document and what is wrong; what is not valid leaves the previous document in force.

    Secrets that went away: the last good ones stay, with the URL they were for.
    """
    spec = one.spec
    http = spec.http
    if http is None:  # the rule of the union was checked when the resource was read
        raise ValueError("a Destination of type HTTP must have http")
    document = documents.Destination(
        namespace=one.metadata.namespace,
        name=one.metadata.name,
        url=http.url,
        generation=one.metadata.generation,
        tenant=spec.tenant_ref.name if spec.tenant_ref else "",
        state=types.value_or_default(spec.state, "Destination.spec.state"),
        method=types.value_or_default(http.method, "Destination.spec.http.method"),
        headers=_headers(http, resolution),
        signing_secrets=_signing(http, resolution),
        success_header=(http.success_header.name, http.success_header.value) if http.success_header else None,
        timeout_seconds=types.value_or_default(http.timeout_seconds, "Destination.spec.http.timeoutSeconds"),
        format=types.value_or_default(spec.format, "Destination.spec.format"),
        concurrency=types.value_or_default(spec.concurrency, "Destination.spec.concurrency"),
        requests_per_second=types.value_or_default(
            spec.rate_limit and spec.rate_limit.requests_per_second, "Destination.spec.rateLimit.requestsPerSecond"
        ),
        retry_max_age_seconds=types.value_or_default(
            spec.retry and spec.retry.max_age_seconds, "Destination.spec.retry.maxAgeSeconds"
        ),
    )
    unsupported = _unsupported(one, http, document)
    findings = [*resolution.findings, *unsupported]
    if unsupported:
        return previous, findings
    return _resolved(document, resolution, previous), findings


def _resolved(
    document: documents.Destination, resolution: secret.SecretResolver, previous: documents.Destination | None
) -> documents.Destination:
    if resolution.missing is None:
        return document
    if previous is None or previous.unresolved:
        reason = cast("_Unresolved", str(resolution.missing))
        return msgspec.structs.replace(document, headers=(), signing_secrets=(), unresolved=reason)
    # a credential is never sent to a URL that it was not given for
    return msgspec.structs.replace(
        document, url=previous.url, headers=previous.headers, signing_secrets=previous.signing_secrets
    )


def _headers(http: Http, resolution: secret.SecretResolver) -> tuple[tuple[str, str], ...]:
    headers = []
    for index, header in enumerate(http.headers or ()):
        value = header.value or ""
        if header.value_from is not None:
            path = f"spec.http.headers[{index}].valueFrom.secretKeyRef"
            value = resolution.text(header.value_from.secret_key_ref, path)
        headers.append((header.name, value))
    authentication = http.authentication
    if authentication and authentication.basic:
        value = resolution.basic(authentication.basic.secret_ref, "spec.http.authentication.basic.secretRef")
        headers.append(("Authorization", value))
    if authentication and authentication.bearer:
        token = resolution.text(authentication.bearer.secret_ref, "spec.http.authentication.bearer.secretRef")
        headers.append(("Authorization", f"Bearer {token}"))
    return tuple(headers)


def _signing(http: Http, resolution: secret.SecretResolver) -> tuple[str, ...]:
    refs = http.signing.secret_refs if http.signing else []
    found = [resolution.text(ref, f"spec.http.signing.secretRefs[{index}]") for index, ref in enumerate(refs)]
    return tuple(found)


def _unsupported(one: Destination, http: Http, document: documents.Destination) -> list[conditions.Finding]:
    """What the schema cannot say."""
    findings = []

    def report(path: str, message: str) -> None:
        key = one.key
        findings.append(conditions.Finding("Destination", key, path, conditions.Reason.UnsupportedValue, message))

    if not _is_url(http.url):
        report("spec.http.url", "must have a host, and a port from 1 to 65535 where it has one")
    names = [name.lower() for name, _ in document.headers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        report("spec.http.headers", f"must not set the header `{name}` twice (authentication sets `authorization`)")
    for index, value in enumerate(document.signing_secrets):
        if value.startswith(_SIGNING_PREFIX) and not secret.is_base64(value[len(_SIGNING_PREFIX) :]):
            report(f"spec.http.signing.secretRefs[{index}]", "a secret that starts with `whsec_` must go on in base64")
    return findings


def _is_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
