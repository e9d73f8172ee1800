"""Renders and signs the request for a delivery. Pure.

``prepare`` does once per document what depends on the destination alone, because the gateway renders thousands of
requests a second.
"""

import base64
import binascii
import functools
import hmac
import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import usher_gateway
from usher_gateway import documents, model
from usher_gateway.delivery import outcome
from usher_gateway.destinations import DestinationRequest

EVENT_TYPE = "dev.usher.visit"  # CloudEvents `type`

# The value for a route without a transform. It is not None, because an expression may evaluate to None.
NOT_TRANSFORMED: Any = object()

_BASE64_MARK = "whsec_"
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_MAX_URL_VALUE = 512
_FLAT = str | int | float | bool | None
_STRUCTURED = "application/cloudevents+json"  # Without a charset, because the SDK of npm refuses one
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Characters of a header value, except for blanks, control characters and surrogates: a regular expression's range.
_VISIBLE = r"\x21-\x7e\x80-\ud7ff\ue000-\U0010ffff"
_HEADER_VALUE = re.compile(rf"[{_VISIBLE}](?:[\t {_VISIBLE}]*[{_VISIBLE}])?|")
_CONTENT_TYPE = re.compile(rb"[\x20-\x7e]{1,256}")
_RESERVED = frozenset(
    (
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "upgrade",
        "trailer",
        "expect",
    )
)
_RESERVED_PREFIXES = ("webhook-", "usher-", "ce-")

# Characters that a binary event's headers do not encode. Source: CloudEvents HTTP binding 1.0.2 §3.1.3.2.
_EVENT_SAFE = "".join(map(chr, (n for n in range(0x21, 0x7F) if chr(n) not in '"%')))


# Floating-point numbers stay texts, because converting one takes up to 8 us.
_check_json = msgspec.json.Decoder(float_hook=str).decode


class FormatError(msgspec.Struct, frozen=True):
    """The delivery cannot be rendered in the destination's format, so it is held until a user repairs the route."""

    code: str
    """- ``TransformNotJSON``: the expression's value cannot be written as JSON.
    - ``DocumentNotFlat``: a form needs a map whose values are texts, numbers, true, false and null.
    - ``UrlVariableNotUsable``: a variable's value is empty or too long, or it would change the path.
    """


class PreparedDestination(msgspec.Struct, frozen=True):
    """A destination's document, checked and ready for attempts."""

    destination: documents.DestinationDocument
    signing_keys: tuple[bytes, ...]
    headers: tuple[tuple[str, str], ...]
    """Static headers, checked, with ``user-agent``."""
    reads_answer: bool
    """True if a rule in ``http.answers`` reads the bodies of answers."""


class RequestBody(msgspec.Struct, frozen=True):
    """A request's body and the headers that describe it."""

    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


def prepare(destination: documents.DestinationDocument) -> PreparedDestination:
    """Check a destination's document and prepare it for attempts. Called once per document.

    Raises:
        ConfigurationError: a header or a signing secret cannot be used. The message names it and shows no value.
    """
    for name, value in destination.headers:
        _check_header(name, value)
    names = {name.lower() for name, _ in destination.headers}
    agent = () if "user-agent" in names else (("user-agent", f"usher/{usher_gateway.__version__}"),)
    try:
        keys = tuple(signing_key(secret) for secret in destination.signing_secrets)
    except ValueError as error:
        raise model.ConfigurationError(str(error), "repair the Secret that signing.secretRefs names") from None
    headers = (*agent, *destination.headers)
    return PreparedDestination(destination, keys, headers, outcome.rules_read_body(destination))


def render(
    prepared: PreparedDestination,
    delivery: model.Delivery,
    route: model.RouteDefinition,
    now: int,
    transformed: Any = NOT_TRANSFORMED,
    url_values: Mapping[str, Any] = {},
) -> DestinationRequest | FormatError:
    """Render and sign the next attempt's request, for a route as it was at acceptance."""
    destination = prepared.destination
    url = _expanded(destination.url, destination.url_variables, url_values)
    if isinstance(url, FormatError):
        return url
    webhook_id = model.format_id(delivery.id)
    content = _document(delivery, transformed, is_form=destination.format == "Form")
    if isinstance(content, FormatError):
        return content
    if destination.format in {"CloudEvents", "CloudEventsBinary"}:
        data = _as_json(content.body) if transformed is NOT_TRANSFORMED else content.body
        make_event = _structured_event if destination.format == "CloudEvents" else _binary_event
        content = make_event(content, data, delivery, route)
    timestamp = now // model.MICROSECONDS
    headers = [("webhook-id", webhook_id), ("webhook-timestamp", str(timestamp))]
    if prepared.signing_keys:
        signed = signature(prepared.signing_keys, webhook_id, timestamp, content.body)
        headers.append(("webhook-signature", signed))
    headers += _usher_headers(delivery, route)
    headers += content.headers
    headers.append(("content-type", destination.content_type or content.content_type))
    headers += prepared.headers
    return DestinationRequest(
        destination.method,
        url,
        headers,
        content.body,
        is_url_secret=bool(destination.url_variables),
        tls=destination.tls,
        reads_answer=prepared.reads_answer,
        destination=destination.key,
    )


def render_erasure(
    prepared: PreparedDestination,
    call: documents.ErasureCall,
    request_id: str,
    now: int,
    transformed: Any,
    url_values: Mapping[str, Any],
) -> DestinationRequest | FormatError:
    """Render and sign the request that asks a destination to erase a person; arguments as in `render`."""
    url = _expanded(call.url, call.url_variables, url_values)
    if isinstance(url, FormatError):
        return url
    content = RequestBody(b"", _JSON) if transformed is NOT_TRANSFORMED else _json(transformed)
    if isinstance(content, FormatError):
        return content
    timestamp = now // model.MICROSECONDS
    headers = [("webhook-id", request_id), ("webhook-timestamp", str(timestamp)), ("usher-erasure", "true")]
    if prepared.signing_keys:
        headers.append(("webhook-signature", signature(prepared.signing_keys, request_id, timestamp, content.body)))
    if content.body:
        headers.append(("content-type", prepared.destination.content_type or content.content_type))
    return DestinationRequest(
        call.method,
        url,
        [*headers, *prepared.headers],
        content.body,
        is_url_secret=True,
        tls=prepared.destination.tls,
        destination=prepared.destination.key,
    )


def _document(delivery: model.Delivery, transformed: Any, *, is_form: bool) -> RequestBody | FormatError:
    """Return the body as Purple sent it, or the transform's value as JSON or as a form."""
    if is_form:
        return _form(transformed)
    if transformed is NOT_TRANSFORMED:
        assert delivery.body is not None, "the store loads bodies before deliveries are offered"
        return RequestBody(delivery.body, _content_type(delivery.content_type))
    return _json(transformed)


def _json(transformed: Any) -> RequestBody | FormatError:
    try:
        return RequestBody(msgspec.json.encode(transformed), _JSON)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return FormatError("TransformNotJSON")


def _expanded(
    template: str, variables: Sequence[documents.UrlVariable], values: Mapping[str, Any]
) -> str | FormatError:
    """Return a URL with its variables. Source: RFC 6570 §3.2.2, simple string expansion."""
    if not variables:
        return template
    encoded = {}
    for variable in variables:
        value = values[variable.name] if variable.value else variable.secret
        if not 0 < len(str(value)) <= _MAX_URL_VALUE:
            return FormatError("UrlVariableNotUsable")
        encoded[variable.name] = urllib.parse.quote(str(value), safe="", errors="replace")
    url = documents.URL_VARIABLE.sub(lambda match: encoded[match[1]], template)
    # quote() keeps dots
    if documents.DOT_SEGMENT.search(url.partition("?")[0]):
        return FormatError("UrlVariableNotUsable")
    return url


def _form(document: Any) -> RequestBody | FormatError:
    """Return a flat map as a form. Source: WHATWG URL Standard, application/x-www-form-urlencoded."""
    if not isinstance(document, Mapping) or not all(isinstance(value, _FLAT) for value in document.values()):
        return FormatError("DocumentNotFlat")
    fields = [(str(name), _form_value(value)) for name, value in document.items()]
    return RequestBody(urllib.parse.urlencode(fields).encode(), _FORM)


def _form_value(value: str | float | bool | None) -> str:
    if isinstance(value, bool):
        return _boolean(value)
    return "" if value is None else str(value)


def _usher_headers(delivery: model.Delivery, route: model.RouteDefinition) -> list[tuple[str, str]]:
    replay = [("usher-replay", model.format_id(delivery.replay))] if delivery.replay else []
    return [
        *replay,
        ("usher-tenant", route.listener.tenant),
        ("usher-listener", route.listener.listener),
        ("usher-route", route.route),
        ("usher-received-at", model.format_time(delivery.received_at)),
        ("usher-visit-time", model.format_time(delivery.visit_time)),
        ("usher-late", _boolean(delivery.late)),
        ("usher-attempt", str(delivery.attempts + 1)),
        ("usher-hops", str(delivery.hops + 1)),
    ]


def _attributes(delivery: model.Delivery, route: model.RouteDefinition) -> dict[str, Any]:
    """Return the event's attributes except for the content type. None contains personal data."""
    return {
        "specversion": "1.0",
        "id": model.format_id(delivery.id),
        "source": _event_source(route.listener),
        "type": EVENT_TYPE,
        "time": model.format_time(delivery.visit_time),
        "usherroute": route.route,
        "usherlate": delivery.late,
        "usherreceivedat": model.format_time(delivery.received_at),
    }


@functools.lru_cache(maxsize=4096)
def _event_source(listener: model.ListenerName) -> str:
    """Return a URI reference (RFC 3986) made from the listener's full name."""
    parts = (listener.namespace, listener.tenant, listener.listener)
    return "/" + "/".join([urllib.parse.quote(part, safe="") for part in parts])


def _structured_event(
    content: RequestBody, data: bytes | None, delivery: model.Delivery, route: model.RouteDefinition
) -> RequestBody:
    """Return one JSON document with attributes and data. Source: CloudEvents JSON format 1.0.2 §3.1.

    ``data``: the content as JSON in UTF-8; None if it is not JSON.
    """
    event = _attributes(delivery, route)
    if data is not None:
        event |= {"datacontenttype": _JSON, "data": msgspec.Raw(data)}
    else:
        event |= {"datacontenttype": content.content_type, "data_base64": content.body}
    return RequestBody(msgspec.json.encode(event), _STRUCTURED)


def _binary_event(
    content: RequestBody, data: bytes | None, delivery: model.Delivery, route: model.RouteDefinition
) -> RequestBody:
    """Return the data as the body and the attributes as headers. Source: CloudEvents HTTP binding 1.0.2 §3.1.

    As in structured mode, JSON is UTF-8 with JSON's content type, because SDKs do not parse everything that the gateway
    does: Go's and npm's reject a byte order mark, and npm's leaves JSON with ``charset=UTF-8`` as text.
    """
    attributes = _attributes(delivery, route)
    headers = tuple([("ce-" + name, _event_header(value)) for name, value in attributes.items()])
    if data is not None:
        return RequestBody(data, _JSON, headers)
    return RequestBody(content.body, content.content_type, headers)


def _event_header(value: str | bool) -> str:
    return _boolean(value) if isinstance(value, bool) else urllib.parse.quote(value, safe=_EVENT_SAFE)


def _as_json(body: bytes) -> bytes | None:
    """Return a stored body as JSON in UTF-8, unchanged if it already is, or None if it is not JSON."""
    try:
        _check_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _as_json_leniently(body)
    return body


def _as_json_leniently(body: bytes) -> bytes | None:
    """Read what the fast parser rejects: a byte order mark, UTF-16, UTF-32 or lone surrogates. NaN is not JSON."""
    try:
        return json.dumps(json.loads(body), allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return None


def _content_type(sent: bytes) -> str:
    """Return the content type as sent, or JSON's if it is missing or cannot be a header value."""
    return sent.decode("ascii") if _CONTENT_TYPE.fullmatch(sent) else _JSON


def _check_header(name: str, value: str) -> None:
    lower = name.lower()
    if not _HEADER_NAME.fullmatch(name):
        raise model.ConfigurationError("a header's name has characters that HTTP does not allow", "repair http.headers")
    if lower in _RESERVED or lower.startswith(_RESERVED_PREFIXES):
        raise model.ConfigurationError(f"only Usher may set the header {lower}", "remove it from http.headers")
    if not _HEADER_VALUE.fullmatch(value):
        raise model.ConfigurationError(
            f"the value of the header {lower} has a character that HTTP does not allow, or a space at its start or end",
            "look for a newline at the end of the Secret's value",
        )


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def signing_key(secret: str) -> bytes:
    """Return a signing secret's key: ``whsec_`` and base64, or any other text as it is.

    Raises:
        ValueError: the secret is empty, or no base64 follows ``whsec_``. The message does not show the secret.
    """
    try:
        key = (
            base64.b64decode(secret.removeprefix(_BASE64_MARK), validate=True)
            if secret.startswith(_BASE64_MARK)
            else secret.encode()
        )
    except binascii.Error:
        raise ValueError("a signing secret that starts with whsec_ must continue in base64") from None
    if not key:
        raise ValueError("a signing secret must not be empty")
    return key


def signature(keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the ``webhook-signature`` value: one ``v1,<base64>`` per key, separated by spaces.

    Source: Standard Webhooks specification, "Signature scheme": HMAC-SHA256 over ``id.timestamp.body``.
    """
    message = b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)
    return " ".join(["v1," + _digest(key, message) for key in keys])


def _digest(key: bytes, message: bytes) -> str:
    return binascii.b2a_base64(hmac.digest(key, message, "sha256"), newline=False).decode()
