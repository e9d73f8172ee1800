"""Checks one Destination and builds its document, as far as that depends on the destination and its Secrets alone."""

import contextlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import Literal, cast

import msgspec

from usher_gateway import documents
from usher_gateway.resources import conditions, tls_material, types
from usher_gateway.resources.destination import Destination, Http, UrlVariable
from usher_gateway.resources.secret import SecretResolver, is_base64

_SIGNING_PREFIX = "whsec_"

_Unresolved = Literal["", "SecretNotFound", "SecretKeyNotFound", "SecretNotLabelled", "CertificateInvalid"]


def destination_document(
    destination: Destination, resolver: SecretResolver, previous: documents.DestinationDocument | None, now: int
) -> tuple[documents.DestinationDocument | None, list[conditions.Finding]]:
    """Return a destination's document, and the findings.

    A value that is not supported keeps the previous document in force. If a Secret disappeared, the last known
    credentials stay, together with the URL that they were given for. ``now``: microseconds; 0: unknown.
    """
    spec, http = destination.spec, destination.spec.http
    if http is None:  # cannot happen: the reader has checked the rule of the union
        raise ValueError("a Destination of type HTTP must have http")
    document = documents.DestinationDocument(
        namespace=destination.metadata.namespace,
        name=destination.metadata.name,
        url=http.url,
        url_variables=_url_variables(http.url_variables, "spec.http.urlVariables", resolver),
        erasure=_erasure(http, resolver),
        generation=destination.metadata.generation,
        tenant=spec.tenant_ref.name if spec.tenant_ref else "",
        state=spec.state,
        method=http.method,
        headers=_headers(http, resolver),
        oauth2=_oauth2(http, resolver),
        tls=_tls(http, resolver, now),
        signing_secrets=_signing_secrets(http, resolver),
        success_header=(http.success_header.name, http.success_header.value) if http.success_header else None,
        answers=tuple(documents.AnswerRule(rule.effect, tuple(rule.status), rule.when) for rule in http.answers),
        retry_after_header=http.retry_after_header.lower(),
        redirect_hosts=tuple(http.redirects.hosts) if http.redirects else (),
        timeout_seconds=http.timeout_seconds,
        content_type=http.content_type,
        format=spec.format,
        transform=spec.transform,
        concurrency=spec.concurrency,
        rate_requests=spec.rate_limit.requests,
        rate_seconds=spec.rate_limit.per_seconds,
        rate_shared_by=spec.rate_limit.shared_by,
        retry_max_age_seconds=spec.retry.max_age_seconds,
    )
    invalid = [
        *_unsupported_values(destination, http, document),
        *conditions.expression_findings(destination),
    ]
    findings = [*resolver.findings, *invalid]
    if conditions.has_errors(invalid):
        return previous, findings
    return _with_last_credentials(document, resolver, previous), findings


# Fields that may have credentials, and the URL: a credential must never be sent to a URL that it was not given for.
_WITH_CREDENTIALS = ("url", "url_variables", "erasure", "headers", "oauth2", "tls", "signing_secrets")


def _with_last_credentials(
    document: documents.DestinationDocument, resolver: SecretResolver, previous: documents.DestinationDocument | None
) -> documents.DestinationDocument:
    if resolver.missing is None:
        return document
    has_last = previous is not None and not previous.unresolved
    source = previous if has_last else documents.DestinationDocument("", "", document.url)
    document = msgspec.structs.replace(document, **{name: getattr(source, name) for name in _WITH_CREDENTIALS})
    if has_last:
        return document
    unresolved = cast("_Unresolved", str(resolver.missing.reason))
    return msgspec.structs.replace(document, unresolved=unresolved, missing=resolver.missing.message)


def _headers(http: Http, resolver: SecretResolver) -> tuple[tuple[str, str], ...]:
    headers = []
    for index, header in enumerate(http.headers):
        value = header.value
        if header.value_from is not None:
            path = f"spec.http.headers[{index}].valueFrom.secretKeyRef"
            value = resolver.text(header.value_from.secret_key_ref, path)
        headers.append((header.name, value))
    authentication = http.authentication
    if authentication.basic:
        value = resolver.basic(authentication.basic.secret_ref, "spec.http.authentication.basic.secretRef")
        headers.append(("Authorization", value))
    if authentication.bearer:
        token = resolver.text(authentication.bearer.secret_ref, "spec.http.authentication.bearer.secretRef")
        headers.append(("Authorization", f"Bearer {token}"))
    if authentication.header:
        own = authentication.header
        secret = resolver.text(own.secret_ref, "spec.http.authentication.header.secretRef")
        headers.append((own.name, f"{own.scheme} {secret}" if own.scheme else secret))
    return tuple((name, value.strip(" ")) for name, value in headers)  # RFC 9110 §5.5: no blanks at its ends


class _ServiceAccount(msgspec.Struct):
    """The fields in a Google service account's JSON that a token request needs."""

    client_email: str
    private_key: str
    private_key_id: str = ""


def _oauth2(http: Http, resolver: SecretResolver) -> documents.OAuth2 | None:
    oauth2 = http.authentication.oauth2
    if oauth2 is None:
        return None
    document = documents.OAuth2(oauth2.grant, oauth2.token_url, tuple(oauth2.scopes))
    path = "spec.http.authentication.oauth2"
    if oauth2.client_credentials is not None:
        client = oauth2.client_credentials
        return msgspec.structs.replace(
            document,
            client_id=client.client_id,
            client_secret=resolver.text(client.secret_ref, f"{path}.clientCredentials.secretRef"),
            client_authentication=client.send_as,
        )
    bearer = oauth2.jwt_bearer
    if bearer is None:  # cannot happen: the reader has checked the rule of the union
        raise ValueError("a grant must have its part")
    key, account = resolver.document(bearer.secret_ref, f"{path}.jwtBearer.secretRef"), None
    if key.startswith("{"):
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            account = msgspec.json.decode(key, type=_ServiceAccount)
            key = account.private_key
    problem = tls_material.signing_problem(key) if key else None
    if problem is not None:
        message = f"the private key in Secret `{bearer.secret_ref.name}` {problem}"
        resolver.report(f"{path}.jwtBearer.secretRef", conditions.Reason.CertificateInvalid, message)
    return msgspec.structs.replace(
        document,
        issuer=bearer.issuer or (account.client_email if account else ""),
        subject=bearer.subject,
        audience=bearer.audience,
        private_key=key,
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
            resolver.report(f"{path}.authoritySecretRef", conditions.Reason.CertificateInvalid, message)
    if spec.client_certificate_secret_ref is not None:
        name, at = spec.client_certificate_secret_ref.name, f"{path}.clientCertificateSecretRef"
        chain_ref, key_ref = (types.SecretKeyRef(name=name, key=key) for key in types.TLS_KEYS)
        chain = resolver.document(chain_ref, at)
        key = resolver.document(key_ref, at) if chain else ""
        problem = tls_material.client_problem(chain, key, now) if key else None
        if problem is not None:
            resolver.report(at, conditions.Reason.CertificateInvalid, f"of Secret `{name}`, {problem}")
    return documents.Tls(authority, chain, key, spec.server_name)


def _erasure(http: Http, resolver: SecretResolver) -> documents.ErasureCall | None:
    call, path = http.erasure, "spec.http.erasure"
    if call is None:
        return None
    return documents.ErasureCall(
        by=call.by,
        url=call.url,
        url_variables=_url_variables(call.url_variables, f"{path}.urlVariables", resolver),
        method=call.method,
        transform=call.transform,
    )


def _url_variables(
    declared: list[UrlVariable], path: str, resolver: SecretResolver
) -> tuple[documents.UrlVariable, ...]:
    variables = []
    for index, variable in enumerate(declared):
        secret = ""
        if variable.value_from is not None:
            secret = resolver.text(variable.value_from.secret_key_ref, f"{path}[{index}].valueFrom.secretKeyRef")
        variables.append(documents.UrlVariable(variable.name, variable.value, secret))
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
    for path, target in (("spec.http", http), ("spec.http.erasure", http.erasure)):
        for message in _template_problems(target.url, target.url_variables) if target is not None else ():
            yield unsupported(f"{path}.url", message)
    if http.erasure is not None and _origin(http.erasure.url) != _origin(http.url):
        message = "must have the scheme, the host and the port of `http.url`, because it gets its credentials"
        yield unsupported("spec.http.erasure.url", message)
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
        key = value.removeprefix(_SIGNING_PREFIX)
        if value.startswith(_SIGNING_PREFIX) and (" " in key or not key or not is_base64(key)):
            message = "a secret that starts with `whsec_` must continue in base64"
            yield unsupported(f"spec.http.signing.secretRefs[{index}]", message)


def _origin(url: str) -> str:
    """Return a URL's scheme, host and port as written."""
    scheme, _, host_and_path = url.partition("://")
    return f"{scheme}://{re.split('[/?]', host_and_path, maxsplit=1)[0].lower()}"


def _template_problems(url: str, variables: list[UrlVariable]) -> Iterator[str]:
    """Yield what is wrong with a URL's variables."""
    used = set(documents.URL_VARIABLE.findall(url))
    declared = {variable.name for variable in variables}
    if set("{}") & set(documents.URL_VARIABLE.sub("", url)):
        yield "`{` and `}` must enclose the name of a variable: letters, digits and `_`"
    if used and documents.DOT_SEGMENT.search(url.partition("?")[0]):
        yield "must have no segment `.` or `..` beside variables"
    for name in sorted(used - declared):
        yield f"`{{{name}}}` must be in `urlVariables`"
    for name in sorted(declared - used):
        yield f"must use the variable `{{{name}}}`"


def _rules_without_use(http: Http) -> Iterator[tuple[str, str]]:
    """Yield the path to each answer rule that never applies, and why."""
    taken: dict[int | None, int] = {}  # Status -> the rule that takes every answer with it; None: every answer
    for index, rule in enumerate(http.answers):
        earlier_rules = [taken.get(status, taken.get(None)) for status in rule.status or (None,)]
        if None not in earlier_rules:
            numbers = " and ".join(str(number) for number in sorted({number for number in earlier_rules if number}))
            yield f"spec.http.answers[{index}]", f"never applies, because rule {numbers} before it takes its answers"
        if not rule.when:
            taken.update({status: index + 1 for status in rule.status or (None,) if status not in taken})


def _has_valid_host(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
