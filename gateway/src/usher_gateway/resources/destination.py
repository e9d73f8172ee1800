"""Destination: one system that receives visits."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway.resources import types

# Headers that HTTP or Usher sets.
RESERVED_HEADERS = f"{types.HTTP_HEADERS}|proxy-.*|webhook-.*|usher-.*|ce-.*"


class ValueFrom(types.Model, frozen=True, kw_only=True):
    """Where a value comes from."""

    secret_key_ref: types.SecretKeyRef


class Header(types.Model, frozen=True, kw_only=True):
    """A static header for every request."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Exactly(("value", "valueFrom")),
        types.Forbidden("name", RESERVED_HEADERS),
    )

    name: types.HeaderName
    value: types.HeaderValue = ""
    value_from: ValueFrom | None = None


class Basic(types.Model, frozen=True, kw_only=True):
    """HTTP Basic authentication. The Secret has `username` and `password`."""

    secret_ref: types.SecretRef


class Bearer(types.Model, frozen=True, kw_only=True):
    """`Authorization: Bearer` with a token from a Secret."""

    secret_ref: types.SecretKeyRef


class HeaderCredential(types.Model, frozen=True, kw_only=True):
    """A header with a credential from a Secret, such as `Authorization: Klaviyo-API-Key …`."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Forbidden("name", RESERVED_HEADERS),)

    name: types.HeaderName
    scheme: Annotated[
        str, types.text("Word before the credential, such as `Klaviyo-API-Key`.", 64, r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
    ] = ""
    secret_ref: types.SecretKeyRef


class ClientCredentials(types.Model, frozen=True, kw_only=True):
    """The grant of RFC 6749, section 4.4."""

    client_id: Annotated[str, types.text("Id of the client.", 512, r"^[\x21-\x7e]*$")] = msgspec.field(name="clientID")
    secret_ref: types.SecretKeyRef
    send_as: Annotated[
        Literal["Basic", "Form"],
        msgspec.Meta(description="Basic: HTTP Basic authentication. Form: fields of the request's body."),
    ] = "Basic"


class JWTBearer(types.Model, frozen=True, kw_only=True):
    """The grant of RFC 7523, with RS256. The Secret has a private key in PEM, or a Google service account's JSON."""

    secret_ref: types.SecretKeyRef
    issuer: Annotated[str, types.text("`iss`; a service account's JSON has its own.", 512)] = ""
    subject: Annotated[str, types.text("`sub`.", 512)] = ""
    audience: Annotated[str, types.text("`aud`; `tokenURL` if left out.", 512)] = ""


class OAuth2(types.Model, frozen=True, kw_only=True):
    """Access tokens from a token endpoint, which the gateway renews."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Union("grant", {"ClientCredentials": "clientCredentials", "JWTBearer": "jwtBearer"}),
    )

    grant: Annotated[Literal["ClientCredentials", "JWTBearer"], msgspec.Meta(description="How tokens are obtained.")]
    token_url: types.TokenUrl = msgspec.field(name="tokenURL")
    scopes: Annotated[
        list[Annotated[str, types.text("A scope.", 256, r"^[\x21\x23-\x5b\x5d-\x7e]*$")]],
        types.entries("Scopes to ask for.", 16, types.LIST_ATOMIC),
    ] = []
    client_credentials: ClientCredentials | None = None
    jwt_bearer: JWTBearer | None = None


class DestinationAuthentication(types.Model, frozen=True, kw_only=True):
    """How Usher authenticates at the destination."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Union("type", {"Basic": "basic", "Bearer": "bearer", "Header": "header", "OAuth2": "oauth2"}),
    )

    type: Annotated[
        Literal["None", "Basic", "Bearer", "Header", "OAuth2"], msgspec.Meta(description="Type of authentication.")
    ]
    basic: Basic | None = None
    bearer: Bearer | None = None
    header: HeaderCredential | None = None
    oauth2: OAuth2 | None = None


class DestinationTLS(types.Model, frozen=True, kw_only=True):
    """TLS with its own authority, or with a client certificate. Renewed Secrets are used at once."""

    authority_secret_ref: (
        Annotated[
            types.SecretKeyRef,
            msgspec.Meta(description="Certificates in PEM of the authorities to trust instead of the system's."),
        ]
        | None
    ) = None
    client_certificate_secret_ref: (
        Annotated[
            types.TLSSecretRef,
            msgspec.Meta(description="Secret of type `kubernetes.io/tls`: the certificate and key of the client."),
        ]
        | None
    ) = None
    server_name: Annotated[
        types.Hostname,
        msgspec.Meta(description="Name that the destination's certificate must have. The host of `url` if left out."),
    ] = ""


class Signing(types.Model, frozen=True, kw_only=True):
    """Signatures according to Standard Webhooks. Several secrets allow a rotation."""

    secret_refs: Annotated[
        list[types.SecretKeyRef],
        types.entries("The secrets, the newest first. Each one signs every request.", 4, types.LIST_ATOMIC, shortest=1),
    ]


class SuccessHeader(types.Model, frozen=True, kw_only=True):
    """A header that an answer needs to count as success, as another Purple listener's answer has."""

    name: types.HeaderName
    value: types.HeaderValue


class UrlVariable(types.Model, frozen=True, kw_only=True):
    """Part of the URL, percent-encoded: an expression, or a Secret for an API that wants its key there."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Exactly(("value", "valueFrom")),)

    name: types.UrlVariableName
    value: Annotated[
        types.Transform,
        msgspec.Meta(
            description="CEL over `visit` and `body`, whose value is a text or a whole number. Use a digest and no "
            "personal data, because URLs get into the logs of the destination."
        ),
    ] = ""
    value_from: ValueFrom | None = None


class Answer(types.Model, frozen=True, kw_only=True):
    """A rule for answers. It applies if the answer has a listed status and `when` is true."""

    status: Annotated[
        list[Annotated[int, types.number("HTTP status.", 200, 599)]],
        types.entries("HTTP statuses. Any if left out.", 16, types.LIST_SET, shortest=1),
    ] = []
    when: Annotated[
        types.AnswerFilter,
        msgspec.Meta(
            description="CEL over `answer.status`, `answer.headers` (names in lower case) and `answer.body` (JSON, "
            "or text; at most 64 KiB). Always if left out."
        ),
    ] = ""
    effect: Annotated[
        Literal["Delivered", "Retry", "Throttle", "Dead"],
        msgspec.Meta(
            description="Delivered: the destination has it. Retry: try again later. Throttle: as 429. Dead: give up."
        ),
    ]


class Redirects(types.Model, frozen=True, kw_only=True):
    """Answers 302 and 303 that are followed once, by GET, without credentials and body. Others are not followed."""

    hosts: Annotated[
        list[types.Hostname],
        types.entries("Hosts to which an answer may lead, over https.", 8, types.LIST_SET, shortest=1),
    ]


class ErasureCall(types.Model, frozen=True, kw_only=True):
    """The request that asks the destination to erase a person: `usher person erase --forward` sends it.

    In expressions, `visit` has only the value by which the person is erased. Headers, authentication, TLS and signature
    are the same as in `http`. Answers 2xx, 404 and 410 mean that the destination takes it.
    """

    by: Annotated[
        Literal["User", "Email", "Mobile", "Device"],
        msgspec.Meta(description="Kind of the value that the request needs. It is not sent for a value of another."),
    ]
    url: Annotated[types.DestinationUrl, msgspec.Meta(description="URL of the request, at the host of `http.url`.")]
    url_variables: Annotated[list[UrlVariable], types.entries("The variables of this `url`.", 8, types.LIST_MAP)] = []
    method: Annotated[Literal["POST", "PUT", "DELETE"], msgspec.Meta(description="HTTP method.")] = "POST"
    transform: Annotated[
        types.Transform, msgspec.Meta(description="CEL over `visit` that makes the JSON document. No body if left out.")
    ] = ""


class Http(types.Model, frozen=True, kw_only=True):
    """A destination that receives HTTP requests."""

    url: types.DestinationUrl
    url_variables: Annotated[list[UrlVariable], types.entries("The variables of `url`.", 8, types.LIST_MAP)] = []
    method: Annotated[Literal["POST", "PUT", "PATCH"], msgspec.Meta(description="HTTP method.")] = "POST"
    headers: Annotated[
        list[Header], types.entries("Headers of every request, besides those that Usher sets.", 32, types.LIST_MAP)
    ] = []
    authentication: DestinationAuthentication = DestinationAuthentication(type="None")
    tls: DestinationTLS | None = None
    signing: Signing | None = None
    content_type: Annotated[
        str,
        types.text(
            "Content type of every request, such as `application/vnd.api+json`. What the format says if left out.",
            128,
            r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+/[\x20-\x7e]*[\x21-\x7e]$",
            shortest=3,
        ),
    ] = ""
    success_header: SuccessHeader | None = None
    answers: Annotated[
        list[Answer],
        types.entries(
            "What answers mean: the first rule that applies, else the standard meaning of the status.",
            16,
            types.LIST_ATOMIC,
        ),
    ] = []
    retry_after_header: Annotated[
        types.HeaderName,
        msgspec.Meta(
            description="Header of an answer that says when to try again, besides `Retry-After`: seconds, an HTTP "
            "date, or a Unix time; numbers over a day are milliseconds."
        ),
    ] = ""
    redirects: Redirects | None = None
    erasure: ErasureCall | None = None
    timeout_seconds: Annotated[int, types.number("Seconds that one attempt may take.", 1, 30)] = 10


class RateLimit(types.Model, frozen=True, kw_only=True):
    """Limit for requests to a destination, over all replicas. A tenth of them may go at once."""

    requests: Annotated[int, types.number("Requests in any `perSeconds`.", 1, 1_000_000)]
    per_seconds: Annotated[int, types.number("Seconds of the limit: up to a day.", 1, 86_400)] = 1
    shared_by: Annotated[
        types.ItemName,
        msgspec.Meta(
            description="Lower-case letters and digits, with `-` in between. Destinations of the namespace with "
            "the same text use one limit together, such as those of one account. If their limits differ, the "
            "slowest counts."
        ),
    ] = ""


class Retry(types.Model, frozen=True, kw_only=True):
    """How long Usher retries."""

    max_age_seconds: Annotated[
        int,
        types.number(
            "Seconds from the time when Usher accepted the visit, or when a user redrove the delivery,"
            " after which Usher makes a last attempt. Time on hold does not count.",
            60,
            2_592_000,
        ),
    ] = 604_800


class DestinationSpec(types.Model, frozen=True, kw_only=True):
    """Where Usher sends visits, and how fast."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Union("type", {"HTTP": "http"}),
        types.Immutable("tenantRef.name"),
    )

    tenant_ref: (
        Annotated[
            types.TenantRef,
            msgspec.Meta(
                description="The owner, which cannot be changed. If left out, every tenant of the namespace "
                "may use the destination."
            ),
        ]
        | None
    ) = None
    state: Annotated[Literal["Active", "Paused"], msgspec.Meta(description="Paused: the gateway holds deliveries.")] = (
        "Active"
    )
    type: Annotated[Literal["HTTP"], msgspec.Meta(description="Protocol of the destination.")]
    http: Http | None = None
    format: Annotated[
        Literal["Verbatim", "CloudEvents", "CloudEventsBinary", "Form"],
        msgspec.Meta(
            description="Verbatim: the document, or the body as Purple sent it. CloudEvents: wrapped as a "
            "CloudEvent in structured mode. CloudEventsBinary: in binary mode. Form: the document, which must be "
            "a map of texts, numbers, true, false and null, as `application/x-www-form-urlencoded`."
        ),
    ] = "Verbatim"
    transform: Annotated[
        types.Transform,
        msgspec.Meta(
            description="CEL over `visit` and `body` that makes the document for every route that has no transform. "
            "Without it, such a route sends the body as received."
        ),
    ] = ""
    concurrency: Annotated[int, types.number("Concurrent requests, over all replicas.", 1, 1000)] = 8
    rate_limit: RateLimit = RateLimit(requests=0)
    retry: Retry = Retry()

    @property
    def url(self) -> str:
        """A destination's address, whatever its type; the reader refuses a Destination without it."""
        return self.http.url if self.http else ""


class Destination(types.ResourceBase, frozen=True, kw_only=True):
    """One system that receives visits."""

    kind_name: ClassVar[str] = "Destination"
    namespaced: ClassVar[bool] = True

    api_version: Literal["usher.dev/v1alpha1"]
    kind: Literal["Destination"]
    metadata: types.NamedMetadata
    spec: DestinationSpec

    @property
    def expressions(self) -> list[types.DeclaredExpression]:
        """The destination's expressions."""
        http = self.spec.http
        erasure = http.erasure if http else None
        declared: list[types.DeclaredExpression] = [("spec.transform", self.spec.transform, "transform")]
        if erasure is not None:
            declared.append(("spec.http.erasure.transform", erasure.transform, "transform"))
        for path, call in (("spec.http", http), ("spec.http.erasure", erasure)):
            for index, variable in enumerate(call.url_variables if call else ()):
                declared.append((f"{path}.urlVariables[{index}].value", variable.value, "variable"))
        for index, rule in enumerate(http.answers if http else ()):
            declared.append((f"spec.http.answers[{index}].when", rule.when, "answer"))
        return [expression for expression in declared if expression[1]]
