"""A Destination to its document: secrets resolved, defaults filled in."""

import urllib.parse
from typing import Literal, cast

import msgspec

from usher_gateway import documents, resources
from usher_gateway.resources import condition, defaults, destination, secrets

_SIGNING_PREFIX = "whsec_"

_Unresolved = Literal["", "SecretNotFound", "SecretKeyNotFound", "SecretNotLabelled"]


def compile_destination(
    one: resources.Destination, resolution: secrets.Resolution, previous: documents.Destination | None
) -> tuple[documents.Destination | None, list[condition.Finding]]:
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
        state=defaults.pick(spec.state, "Destination.spec.state"),
        method=defaults.pick(http.method, "Destination.spec.http.method"),
        headers=_headers(http, resolution),
        signing_secrets=_signing(http, resolution),
        success_header=(http.success_header.name, http.success_header.value) if http.success_header else None,
        timeout_seconds=defaults.pick(http.timeout_seconds, "Destination.spec.http.timeoutSeconds"),
        format=defaults.pick(spec.format, "Destination.spec.format"),
        concurrency=defaults.pick(spec.concurrency, "Destination.spec.concurrency"),
        requests_per_second=defaults.pick(
            spec.rate_limit and spec.rate_limit.requests_per_second, "Destination.spec.rateLimit.requestsPerSecond"
        ),
        retry_max_age_seconds=defaults.pick(
            spec.retry and spec.retry.max_age_seconds, "Destination.spec.retry.maxAgeSeconds"
        ),
    )
    unsupported = _unsupported(one, http, document)
    findings = [*resolution.findings, *unsupported]
    if unsupported:
        return previous, findings
    return _resolved(document, resolution, previous), findings


def _resolved(
    document: documents.Destination, resolution: secrets.Resolution, previous: documents.Destination | None
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


def _headers(http: destination.Http, resolution: secrets.Resolution) -> tuple[tuple[str, str], ...]:
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


def _signing(http: destination.Http, resolution: secrets.Resolution) -> tuple[str, ...]:
    refs = http.signing.secret_refs if http.signing else []
    found = [resolution.text(ref, f"spec.http.signing.secretRefs[{index}]") for index, ref in enumerate(refs)]
    return tuple(found)


def _unsupported(
    one: resources.Destination, http: destination.Http, document: documents.Destination
) -> list[condition.Finding]:
    """What the schema cannot say."""
    findings = []

    def report(path: str, message: str) -> None:
        key = resources.key_of(one)
        findings.append(condition.Finding("Destination", key, path, condition.Reason.UnsupportedValue, message))

    if not _is_url(http.url):
        report("spec.http.url", "must have a host, and a port from 1 to 65535 where it has one")
    names = [name.lower() for name, _ in document.headers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        report("spec.http.headers", f"must not set the header `{name}` twice (authentication sets `authorization`)")
    for index, secret in enumerate(document.signing_secrets):
        if secret.startswith(_SIGNING_PREFIX) and not secrets.is_base64(secret[len(_SIGNING_PREFIX) :]):
            report(f"spec.http.signing.secretRefs[{index}]", "a secret that starts with `whsec_` must go on in base64")
    return findings


def _is_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
