"""Destination: one system that receives visits."""

import contextlib
import urllib.parse
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, cast

import msgspec

from usher_gateway import documents
from usher_gateway.resources import conditions, tls_material, types
from usher_gateway.resources.secret import SecretResolver, is_base64

RESERVED_HEADERS = (
    "host|content-length|content-type|content-encoding|transfer-encoding|connection|upgrade|te|trailer|keep-alive"
    "|expect|proxy-.*|webhook-.*|usher-.*|ce-.*"
)
"""Headers that HTTP or Usher sets."""


class ValueFrom(types.Model, frozen=True, kw_only=True):
    """Source of a value."""

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
    """HTTP Basic authentication. The Secret has `username` and `password`."""

    secret_ref: types.SecretRef


class Bearer(types.Model, frozen=True, kw_only=True):
    """`Authorization: Bearer` with a token from a Secret."""

    secret_ref: types.SecretKeyRef


class HeaderCredential(types.Model, frozen=True, kw_only=True):
    """A header with a credential from a Secret, such as `Authorization: Klaviyo-API-Key …`."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Forbidden("name", RESERVED_HEADERS),)

    name: types.HeaderName
    scheme: (
        Annotated[
            str,
            msgspec.Meta(
                min_length=1,
                max_length=64,
                pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
                description="Word before the credential, such as `Klaviyo-API-Key`.",
            ),
        ]
        | None
    ) = None
    secret_ref: types.SecretKeyRef


class ClientCredentials(types.Model, frozen=True, kw_only=True):
    """The grant of RFC 6749, section 4.4."""

    client_id: Annotated[
        str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^[\x21-\x7e]*$", description="Id of the client.")
    ] = msgspec.field(name="clientID")
    secret_ref: types.SecretKeyRef
    send_as: (
        Annotated[
            Literal["Basic", "Form"],
            msgspec.Meta(
                description="Basic: HTTP Basic authentication. Form: fields of the request's body. Basic if left out."
            ),
        ]
        | None
    ) = None


class JWTBearer(types.Model, frozen=True, kw_only=True):
    """The grant of RFC 7523, with RS256. The Secret has a private key in PEM, or a Google service account's JSON."""

    secret_ref: types.SecretKeyRef
    issuer: (
        Annotated[
            str,
            msgspec.Meta(min_length=1, max_length=512, description="`iss`; a service account's JSON has its own."),
        ]
        | None
    ) = None
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=512, description="`sub`.")] | None = None
    audience: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=512, description="`aud`; `tokenURL` if left out.")] | None
    ) = None


class OAuth2(types.Model, frozen=True, kw_only=True):
    """Access tokens from a token endpoint, which the gateway renews."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Union("grant", {"ClientCredentials": "clientCredentials", "JWTBearer": "jwtBearer"}),
    )

    grant: Annotated[Literal["ClientCredentials", "JWTBearer"], msgspec.Meta(description="How tokens are obtained.")]
    token_url: types.TokenUrl = msgspec.field(name="tokenURL")
    scopes: (
        Annotated[
            list[
                Annotated[
                    str,
                    msgspec.Meta(
                        min_length=1, max_length=256, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]*$", description="A scope."
                    ),
                ]
            ],
            msgspec.Meta(max_length=16, description="Scopes to ask for.", extra_json_schema=types.LIST_ATOMIC),
        ]
        | None
    ) = None
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
    """TLS with an authority of its own, or with a client certificate. Renewed Secrets are used at once."""

    authority_secret_ref: (
        Annotated[
            types.SecretKeyRef,
            msgspec.Meta(description="Certificates in PEM of the authorities to trust instead of the system's."),
        ]
        | None
    ) = None
    client_certificate_secret_ref: (
        Annotated[
            types.SecretRef,
            msgspec.Meta(description="Secret of type `kubernetes.io/tls`: the certificate and key of the client."),
        ]
        | None
    ) = None
    server_name: (
        Annotated[
            types.Hostname,
            msgspec.Meta(
                description="Name that the destination's certificate must have. The host of `url` if left out."
            ),
        ]
        | None
    ) = None


class Signing(types.Model, frozen=True, kw_only=True):
    """Signatures according to Standard Webhooks. Several secrets allow a rotation."""

    secret_refs: Annotated[
        list[types.SecretKeyRef],
        msgspec.Meta(
            min_length=1,
            max_length=4,
            description="The secrets, the newest first. Each one signs every request.",
            extra_json_schema=types.LIST_ATOMIC,
        ),
    ]


class SuccessHeader(types.Model, frozen=True, kw_only=True):
    """A header that an answer needs to count as success, as the answer of another Purple listener has."""

    name: types.HeaderName
    value: types.HeaderValue


class UrlVariable(types.Model, frozen=True, kw_only=True):
    """A part of the URL, percent-encoded: an expression, or a Secret for an API that wants its key there."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Exactly(("value", "valueFrom")),)

    name: types.UrlVariableName
    value: (
        Annotated[
            types.Transform,
            msgspec.Meta(
                description="CEL over `visit` and `body`, whose value is a text or a whole number. Use a digest and no "
                "personal data, because URLs get into the logs of the destination."
            ),
        ]
        | None
    ) = None
    value_from: ValueFrom | None = None


class Answer(types.Model, frozen=True, kw_only=True):
    """A rule for answers. It applies if the answer has one of the statuses and `when` is true."""

    status: (
        Annotated[
            list[Annotated[int, msgspec.Meta(ge=200, le=599, description="HTTP status.")]],
            msgspec.Meta(
                min_length=1,
                max_length=16,
                description="HTTP statuses. Any if left out.",
                extra_json_schema=types.LIST_SET,
            ),
        ]
        | None
    ) = None
    when: (
        Annotated[
            types.AnswerFilter,
            msgspec.Meta(
                description="CEL over `answer.status`, `answer.headers` (names in lower case) and `answer.body` (JSON, "
                "or text; at most 64 KiB). Always if left out."
            ),
        ]
        | None
    ) = None
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
        msgspec.Meta(
            min_length=1,
            max_length=8,
            description="Hosts to which an answer may lead, over https.",
            extra_json_schema=types.LIST_SET,
        ),
    ]


class Http(types.Model, frozen=True, kw_only=True):
    """A destination that receives HTTP requests."""

    url: types.DestinationUrl
    url_variables: (
        Annotated[
            list[UrlVariable],
            msgspec.Meta(
                max_length=8,
                description="The variables of `url`.",
                extra_json_schema=types.LIST_MAP,
            ),
        ]
        | None
    ) = None
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
    tls: DestinationTLS | None = None
    signing: Signing | None = None
    content_type: (
        Annotated[
            str,
            msgspec.Meta(
                min_length=3,
                max_length=128,
                pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+/[\x20-\x7e]*[\x21-\x7e]$",
                description="Content type of every request, such as `application/vnd.api+json`. What the format says "
                "if left out.",
            ),
        ]
        | None
    ) = None
    success_header: SuccessHeader | None = None
    answers: (
        Annotated[
            list[Answer],
            msgspec.Meta(
                max_length=16,
                description="What answers mean: the first rule that applies, else the standard meaning of the status.",
                extra_json_schema=types.LIST_ATOMIC,
            ),
        ]
        | None
    ) = None
    retry_after_header: (
        Annotated[
            types.HeaderName,
            msgspec.Meta(
                description="Header of an answer that says when to try again, besides `Retry-After`: seconds, an HTTP "
                "date, or a Unix time; numbers over a day are milliseconds."
            ),
        ]
        | None
    ) = None
    redirects: Redirects | None = None
    timeout_seconds: (
        Annotated[int, msgspec.Meta(ge=1, le=30, description="Seconds that one attempt may take.")] | None
    ) = None


class RateLimit(types.Model, frozen=True, kw_only=True):
    """Limit of the requests to a destination, over all replicas. A tenth of them may go at once."""

    requests: Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="Requests in any `perSeconds`.")]
    per_seconds: (
        Annotated[int, msgspec.Meta(ge=1, le=86_400, description="Seconds of the limit: up to a day.")] | None
    ) = None
    shared_by: (
        Annotated[
            types.ItemName,
            msgspec.Meta(
                description="Lower-case letters and digits, with `-` in between. Destinations of the namespace with "
                "the same text use one limit together, such as those of one account. If their limits differ, the "
                "slowest counts."
            ),
        ]
        | None
    ) = None


class Retry(types.Model, frozen=True, kw_only=True):
    """How long Usher retries."""

    max_age_seconds: (
        Annotated[
            int,
            msgspec.Meta(
                ge=60,
                le=2_592_000,
                description="Seconds from the time when Usher accepted the visit, or when a user redrove the delivery,"
                " after which Usher makes a last attempt. Time on hold does not count.",
            ),
        ]
        | None
    ) = None


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
    state: (
        Annotated[Literal["Active", "Paused"], msgspec.Meta(description="Paused: the gateway holds deliveries.")] | None
    ) = None
    type: Annotated[Literal["HTTP"], msgspec.Meta(description="Protocol of the destination.")]
    http: Http | None = None
    format: (
        Annotated[
            Literal["Verbatim", "CloudEvents", "CloudEventsBinary", "Form"],
            msgspec.Meta(
                description="Verbatim: the document, or the body as Purple sent it. CloudEvents: wrapped as a "
                "CloudEvent in structured mode. CloudEventsBinary: in binary mode. Form: the document, which must be "
                "a map of texts, numbers, true, false and null, as `application/x-www-form-urlencoded`."
            ),
        ]
        | None
    ) = None
    transform: (
        Annotated[
            types.Transform,
            msgspec.Meta(
                description="CEL over `visit` and `body` that makes the document for every route without a transform "
                "of its own. The body as received if left out."
            ),
        ]
        | None
    ) = None
    concurrency: (
        Annotated[int, msgspec.Meta(ge=1, le=1000, description="Concurrent requests, over all replicas.")] | None
    ) = None
    rate_limit: RateLimit | None = None
    retry: Retry | None = None

    @property
    def url(self) -> str:
        """The address of a destination of any type; the reader refuses a Destination without it."""
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
        """The expressions of the destination."""
        declared: list[types.DeclaredExpression] = []
        if self.spec.transform is not None:
            declared.append(("spec.transform", self.spec.transform, "transform"))
        for index, variable in enumerate(self.spec.http.url_variables or () if self.spec.http else ()):
            if variable.value is not None:
                declared.append((f"spec.http.urlVariables[{index}].value", variable.value, "variable"))
        for index, rule in enumerate(self.spec.http.answers or () if self.spec.http else ()):
            if rule.when is not None:
                declared.append((f"spec.http.answers[{index}].when", rule.when, "answer"))
        return declared


_SIGNING_PREFIX = "whsec_"

_Unresolved = Literal["", "SecretNotFound", "SecretKeyNotFound", "SecretNotLabelled", "CertificateInvalid"]


def destination_document(
    destination: Destination, resolver: SecretResolver, previous: documents.DestinationDocument | None, now: int
) -> tuple[documents.DestinationDocument | None, list[conditions.Finding]]:
    """Return the document of a destination, and the findings.

    A value that is not supported keeps the previous document in force. If a Secret disappeared, the last known
    credentials stay, together with the URL that they were given for. ``now``: microseconds; 0: unknown.
    """
    spec = destination.spec
    http, rate = spec.http, spec.rate_limit
    if http is None:  # cannot happen: the reader has checked the rule of the union
        raise ValueError("a Destination of type HTTP must have http")
    pick = types.value_or_default
    document = documents.DestinationDocument(
        namespace=destination.metadata.namespace,
        name=destination.metadata.name,
        url=http.url,
        url_variables=_url_variables(http, resolver),
        generation=destination.metadata.generation,
        tenant=spec.tenant_ref.name if spec.tenant_ref else "",
        state=pick(spec.state, "Destination.spec.state"),
        method=pick(http.method, "Destination.spec.http.method"),
        headers=_headers(http, resolver),
        oauth2=_oauth2(http, resolver),
        tls=_tls(http, resolver, now),
        signing_secrets=_signing_secrets(http, resolver),
        success_header=(http.success_header.name, http.success_header.value) if http.success_header else None,
        answers=tuple(
            documents.AnswerRule(rule.effect, tuple(rule.status or ()), rule.when or "") for rule in http.answers or ()
        ),
        retry_after_header=(http.retry_after_header or "").lower(),
        redirect_hosts=tuple(http.redirects.hosts) if http.redirects else (),
        timeout_seconds=pick(http.timeout_seconds, "Destination.spec.http.timeoutSeconds"),
        content_type=http.content_type or "",
        format=pick(spec.format, "Destination.spec.format"),
        transform=spec.transform or "",
        concurrency=pick(spec.concurrency, "Destination.spec.concurrency"),
        rate_requests=pick(rate and rate.requests, "Destination.spec.rateLimit.requests"),
        rate_seconds=pick(rate and rate.per_seconds, "Destination.spec.rateLimit.perSeconds"),
        rate_shared_by=(rate and rate.shared_by) or "",
        retry_max_age_seconds=pick(spec.retry and spec.retry.max_age_seconds, "Destination.spec.retry.maxAgeSeconds"),
    )
    invalid = [
        *_unsupported_values(destination, http, document),
        *conditions.expression_findings(destination),
    ]
    findings = [*resolver.findings, *invalid]
    if invalid:
        return previous, findings
    return _with_last_credentials(document, resolver, previous), findings


def _with_last_credentials(
    document: documents.DestinationDocument, resolver: SecretResolver, previous: documents.DestinationDocument | None
) -> documents.DestinationDocument:
    if resolver.missing is None:
        return document
    if previous is None or previous.unresolved:
        return msgspec.structs.replace(
            document,
            headers=(),
            oauth2=None,
            tls=None,
            url_variables=(),
            signing_secrets=(),
            unresolved=cast("_Unresolved", str(resolver.missing.reason)),
            missing=resolver.missing.message,
        )
    # Keep the URL too: a credential must never be sent to a URL that it was not given for.
    return msgspec.structs.replace(
        document,
        url=previous.url,
        url_variables=previous.url_variables,
        headers=previous.headers,
        oauth2=previous.oauth2,
        tls=previous.tls,
        signing_secrets=previous.signing_secrets,
    )


def _headers(http: Http, resolver: SecretResolver) -> tuple[tuple[str, str], ...]:
    headers = []
    for index, header in enumerate(http.headers or ()):
        value = header.value or ""
        if header.value_from is not None:
            path = f"spec.http.headers[{index}].valueFrom.secretKeyRef"
            value = resolver.text(header.value_from.secret_key_ref, path)
        headers.append((header.name, value))
    authentication = http.authentication
    if authentication and authentication.basic:
        value = resolver.basic(authentication.basic.secret_ref, "spec.http.authentication.basic.secretRef")
        headers.append(("Authorization", value))
    if authentication and authentication.bearer:
        token = resolver.text(authentication.bearer.secret_ref, "spec.http.authentication.bearer.secretRef")
        headers.append(("Authorization", f"Bearer {token}"))
    if authentication and authentication.header:
        own = authentication.header
        secret = resolver.text(own.secret_ref, "spec.http.authentication.header.secretRef")
        headers.append((own.name, f"{own.scheme} {secret}" if own.scheme else secret))
    return tuple(headers)


class _ServiceAccount(msgspec.Struct):
    """The parts of a Google service account's JSON that a token request needs."""

    client_email: str
    private_key: str
    private_key_id: str = ""


def _oauth2(http: Http, resolver: SecretResolver) -> documents.OAuth2 | None:
    oauth2 = http.authentication.oauth2 if http.authentication else None
    if oauth2 is None:
        return None
    document = documents.OAuth2(oauth2.grant, oauth2.token_url, tuple(oauth2.scopes or ()))
    path = "spec.http.authentication.oauth2"
    if oauth2.client_credentials is not None:
        client = oauth2.client_credentials
        return msgspec.structs.replace(
            document,
            client_id=client.client_id,
            client_secret=resolver.text(client.secret_ref, f"{path}.clientCredentials.secretRef"),
            client_authentication=client.send_as or "Basic",
        )
    bearer = oauth2.jwt_bearer
    if bearer is None:  # cannot happen: the reader has checked the rule of the union
        raise ValueError("a grant must have its part")
    key, account = resolver.document(bearer.secret_ref, f"{path}.jwtBearer.secretRef"), None
    if key.startswith("{"):
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            account = msgspec.json.decode(key, type=_ServiceAccount)
    return msgspec.structs.replace(
        document,
        issuer=bearer.issuer or (account.client_email if account else ""),
        subject=bearer.subject or "",
        audience=bearer.audience or "",
        private_key=account.private_key if account else key,
        key_id=account.private_key_id if account else "",
    )


def _tls(http: Http, resolver: SecretResolver, now: int) -> documents.Tls | None:
    spec, path = http.tls, "spec.http.tls"
    if spec is None:
        return None
    authority = chain = key = ""
    ref = spec.authority_secret_ref
    if ref is not None:
        authority = resolver.document(ref, f"{path}.authoritySecretRef")
        problem = tls_material.authority_problem(authority, now) if authority else None
        if problem is not None:
            message = f"the value under `{ref.key}` of Secret `{ref.name}` {problem}"
            resolver.refuse(f"{path}.authoritySecretRef", conditions.Reason.CertificateInvalid, message)
    if spec.client_certificate_secret_ref is not None:
        name, at = spec.client_certificate_secret_ref.name, f"{path}.clientCertificateSecretRef"
        chain = resolver.document(types.SecretKeyRef(name=name, key="tls.crt"), at)
        key = resolver.document(types.SecretKeyRef(name=name, key="tls.key"), at) if chain else ""
        problem = tls_material.client_problem(chain, key, now) if key else None
        if problem is not None:
            resolver.refuse(at, conditions.Reason.CertificateInvalid, f"of Secret `{name}`, {problem}")
    return documents.Tls(authority, chain, key, spec.server_name or "")


def _url_variables(http: Http, resolver: SecretResolver) -> tuple[documents.UrlVariable, ...]:
    variables = []
    for index, variable in enumerate(http.url_variables or ()):
        secret = ""
        if variable.value_from is not None:
            path = f"spec.http.urlVariables[{index}].valueFrom.secretKeyRef"
            secret = resolver.text(variable.value_from.secret_key_ref, path)
        variables.append(documents.UrlVariable(variable.name, variable.value or "", secret))
    return tuple(variables)


def _signing_secrets(http: Http, resolver: SecretResolver) -> tuple[str, ...]:
    refs = http.signing.secret_refs if http.signing else []
    return tuple(resolver.text(ref, f"spec.http.signing.secretRefs[{index}]") for index, ref in enumerate(refs))


def _unsupported_values(
    destination: Destination, http: Http, document: documents.DestinationDocument
) -> Iterator[conditions.Finding]:
    """Yield what the schema cannot check."""

    def unsupported(path: str, message: str) -> conditions.Finding:
        return conditions.finding(destination, path, conditions.Reason.UnsupportedValue, message)

    if not _has_valid_host(http.url):
        yield unsupported("spec.http.url", "must have a host, and its port, if any, must be from 1 to 65535")
    yield from (unsupported("spec.http.url", message) for message in _template_problems(http))
    yield from (unsupported(path, message) for path, message in _rules_without_use(http))
    names = [name.lower() for name, _ in document.headers] + ["authorization"] * (document.oauth2 is not None)
    if document.oauth2 is not None and not _has_valid_host(document.oauth2.token_url):
        yield unsupported("spec.http.authentication.oauth2.tokenURL", "must have a host and a valid port")
    if document.oauth2 is not None and document.oauth2.private_key and not document.oauth2.issuer:
        message = "must have `issuer`, unless the Secret has the JSON of a Google service account"
        yield unsupported("spec.http.authentication.oauth2.jwtBearer", message)
    for name in sorted({name for name in names if names.count(name) > 1}):
        message = f"must not set the header `{name}` twice (authentication sets `authorization`)"
        yield unsupported("spec.http.headers", message)
    for index, value in enumerate(document.signing_secrets):
        if value.startswith(_SIGNING_PREFIX) and not is_base64(value[len(_SIGNING_PREFIX) :]):
            message = "a secret that starts with `whsec_` must continue in base64"
            yield unsupported(f"spec.http.signing.secretRefs[{index}]", message)


def _template_problems(http: Http) -> Iterator[str]:
    """Yield what is wrong with the variables of a URL."""
    used = set(documents.URL_VARIABLE.findall(http.url))
    declared = {variable.name for variable in http.url_variables or ()}
    if set("{}") & set(documents.URL_VARIABLE.sub("", http.url)):
        yield "`{` and `}` must enclose the name of a variable: letters, digits and `_`"
    if used and documents.DOT_SEGMENT.search(http.url.partition("?")[0]):
        yield "must have no segment `.` or `..` beside variables"
    for name in sorted(used - declared):
        yield f"`{{{name}}}` must be in `urlVariables`"
    for name in sorted(declared - used):
        yield f"must use the variable `{{{name}}}`"


def _rules_without_use(http: Http) -> Iterator[tuple[str, str]]:
    """Yield the path of each rule for answers that never applies, and why."""
    taken: dict[int | None, int] = {}
    """Status -> the rule that takes every answer with it; None: every answer."""
    for index, rule in enumerate(http.answers or ()):
        before = [taken.get(status, taken.get(None)) for status in rule.status or (None,)]
        if None not in before:
            numbers = " and ".join(str(number) for number in sorted({number for number in before if number}))
            yield f"spec.http.answers[{index}]", f"never applies, because rule {numbers} before it takes its answers"
        if rule.when is None:
            taken.update({status: index + 1 for status in rule.status or (None,) if status not in taken})


def _has_valid_host(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
