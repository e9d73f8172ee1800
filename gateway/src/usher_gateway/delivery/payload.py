"""From a delivery to the request that its destination gets (design §3, "What a destination gets"). Pure.

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
from collections.abc import Sequence
from typing import Any

import msgspec

import usher_gateway
from usher_gateway import documents, model
from usher_gateway.destinations import DestinationRequest

EVENT_TYPE = "dev.usher.visit"
"""CloudEvents ``type``."""

NOT_TRANSFORMED: Any = object()
"""Stands for "the route has no transform": None is a value that an expression may have."""

_BASE64_MARK = "whsec_"
_JSON = "application/json"
_STRUCTURED = "application/cloudevents+json; charset=UTF-8"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e\x80-\U0010ffff](?:[\t\x20-\x7e\x80-\U0010ffff]*[\x21-\x7e\x80-\U0010ffff])?|")
_CONTENT_TYPE = re.compile(rb"[\x20-\x7e]{1,256}")
_RESERVED = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer", "expect")
)
_RESERVED_PREFIXES = ("webhook-", "usher-", "ce-")

_EVENT_SAFE = "".join(map(chr, (n for n in range(0x21, 0x7F) if chr(n) not in '"%')))
"""What stands for itself in a binary event's headers. Source: CloudEvents HTTP binding 1.0.2 §3.1.3.2."""


class FormatError(msgspec.Struct, frozen=True):
    """The delivery cannot be put into the form that its destination wants: it is held until that is mended."""

    code: str
    """``TransformNotJSON``: the expression's value has no JSON form."""


class PreparedDestination(msgspec.Struct, frozen=True):
    """A destination's document, ready for attempts."""

    destination: documents.DestinationDocument
    signing_keys: tuple[bytes, ...]
    headers: tuple[tuple[str, str], ...]
    """Static ones, checked, ``user-agent`` included."""
    own_content_type: bool
    """Whether ``headers`` say the content type."""


class RequestBody(msgspec.Struct, frozen=True):
    """The body of a request and the headers that describe it."""

    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


def prepare(destination: documents.DestinationDocument) -> PreparedDestination:
    """Make a destination's document ready for attempts; once per document.

    Raises:
        ConfigurationError: a header or a signing secret cannot be used; the message names it and shows no value.
    """
    for name, value in destination.headers:
        _check_header(name, value)
    names = {name.lower() for name, _ in destination.headers}
    agent = () if "user-agent" in names else (("user-agent", f"usher/{usher_gateway.__version__}"),)
    try:
        keys = tuple(signing_key(secret) for secret in destination.signing_secrets)
    except ValueError as error:
        raise model.ConfigurationError(str(error), "mend the Secret that signing.secretRefs names") from None
    return PreparedDestination(destination, keys, (*agent, *destination.headers), "content-type" in names)


def render(
    prepared: PreparedDestination,
    delivery: model.Delivery,
    route: model.RouteDefinition,
    now: int,
    transformed: Any = NOT_TRANSFORMED,
) -> DestinationRequest | FormatError:
    """The request of the next attempt. ``delivery.body`` must be there; ``transformed`` is the transform's value."""
    webhook_id = model.format_id(delivery.id)
    content = _document(delivery, transformed)
    if isinstance(content, FormatError):
        return content
    if prepared.destination.format == "CloudEvents":
        content = _structured_event(content, delivery, route, webhook_id)
    elif prepared.destination.format == "CloudEventsBinary":
        content = _binary_event(content, delivery, route, webhook_id)
    timestamp = now // model.MICROSECONDS
    headers = [("webhook-id", webhook_id), ("webhook-timestamp", str(timestamp))]
    if prepared.signing_keys:
        signed = signature(prepared.signing_keys, webhook_id, timestamp, content.body)
        headers.append(("webhook-signature", signed))
    headers += _usher_headers(delivery, route)
    headers += content.headers
    if not prepared.own_content_type:
        headers.append(("content-type", content.content_type))
    headers += prepared.headers
    return DestinationRequest(prepared.destination.method, prepared.destination.url, headers, content.body)


def _document(delivery: model.Delivery, transformed: Any) -> RequestBody | FormatError:
    """What is told about the visit, before the destination's format: the body as sent, or the transform's value."""
    if transformed is NOT_TRANSFORMED:
        assert delivery.body is not None, "bodies are loaded before rendering"
        return RequestBody(delivery.body, _content_type(delivery.content_type))
    try:
        return RequestBody(msgspec.json.encode(transformed), _JSON)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return FormatError("TransformNotJSON")


def _usher_headers(delivery: model.Delivery, route: model.RouteDefinition) -> list[tuple[str, str]]:
    return [
        ("usher-tenant", route.listener.tenant),
        ("usher-listener", route.listener.listener),
        ("usher-route", route.route),
        ("usher-received-at", model.format_time(delivery.received_at)),
        ("usher-visit-time", model.format_time(delivery.visit_time)),
        ("usher-late", _boolean(delivery.late)),
        ("usher-attempt", str(delivery.attempts + 1)),
        ("usher-hops", str(delivery.hops + 1)),
    ]


def _attributes(delivery: model.Delivery, route: model.RouteDefinition, webhook_id: str) -> dict[str, Any]:
    """The event's attributes but for the content type. None of them tells anything about a person."""
    return {
        "specversion": "1.0",
        "id": webhook_id,
        "source": _event_source(route.listener),
        "type": EVENT_TYPE,
        "time": model.format_time(delivery.visit_time),
        "usherroute": route.route,
        "usherlate": delivery.late,
        "usherreceivedat": model.format_time(delivery.received_at),
    }


@functools.lru_cache(maxsize=4096)
def _event_source(listener: model.ListenerName) -> str:
    """A URI reference (RFC 3986) made of the listener's full name."""
    parts = (listener.namespace, listener.tenant, listener.listener)
    return "/" + "/".join([urllib.parse.quote(part, safe="") for part in parts])


def _structured_event(
    content: RequestBody, delivery: model.Delivery, route: model.RouteDefinition, webhook_id: str
) -> RequestBody:
    """One JSON document with attributes and data. Source: CloudEvents JSON format 1.0.2 §3.1."""
    event = _attributes(delivery, route, webhook_id)
    data = _as_json(content)
    if data is not None:
        event |= {"datacontenttype": _JSON, "data": msgspec.Raw(data)}
    else:
        event |= {"datacontenttype": content.content_type, "data_base64": content.body}
    return RequestBody(msgspec.json.encode(event), _STRUCTURED)


def _binary_event(
    content: RequestBody, delivery: model.Delivery, route: model.RouteDefinition, webhook_id: str
) -> RequestBody:
    """The data as the body, the attributes as headers. Source: CloudEvents HTTP binding 1.0.2 §3.1."""
    attributes = _attributes(delivery, route, webhook_id)
    headers = tuple([("ce-" + name, _event_header(value)) for name, value in attributes.items()])
    return RequestBody(content.body, content.content_type, headers)


def _event_header(value: str | bool) -> str:
    return _boolean(value) if isinstance(value, bool) else urllib.parse.quote(value, safe=_EVENT_SAFE)


def _as_json(content: RequestBody) -> bytes | None:
    """The content as JSON in UTF-8, byte for byte where it is that already; None where it is no JSON at all."""
    try:
        msgspec.json.decode(content.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _as_json_leniently(content.body)
    return content.body


def _as_json_leniently(body: bytes) -> bytes | None:
    """For what the fast parser refuses: a byte order mark, UTF-16 or UTF-32, lone surrogates. NaN is no JSON."""
    try:
        return json.dumps(json.loads(body), allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return None


def _content_type(sent: bytes) -> str:
    """The content type as sent, unless it is missing or would not be a clean header value."""
    return sent.decode("ascii") if _CONTENT_TYPE.fullmatch(sent) else _JSON


def _check_header(name: str, value: str) -> None:
    lower = name.lower()
    if not _HEADER_NAME.fullmatch(name):
        raise model.ConfigurationError("a header's name has characters that HTTP does not allow", "mend http.headers")
    if lower in _RESERVED or lower.startswith(_RESERVED_PREFIXES):
        raise model.ConfigurationError(f"the header {lower} is Usher's own", "leave it out of http.headers")
    if not _HEADER_VALUE.fullmatch(value):
        raise model.ConfigurationError(
            f"the value of the header {lower} has a control character, or a space at its start or end",
            "look for a newline at the end of the Secret's value",
        )


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def signing_key(secret: str) -> bytes:
    """The key that a signing secret stands for: ``whsec_`` + base64, or any other text as it is.

    Raises:
        ValueError: nothing is left of the secret, or what follows ``whsec_`` is not base64. Never shows the secret.
    """
    try:
        key = (
            base64.b64decode(secret.removeprefix(_BASE64_MARK), validate=True)
            if _is_encoded(secret)
            else secret.encode()
        )
    except binascii.Error:
        raise ValueError("a signing secret that starts with whsec_ must go on in base64") from None
    if not key:
        raise ValueError("a signing secret must not be empty")
    return key


def signature(keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``: one ``v1,<base64>`` per key, separated by spaces."""
    message = b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)
    return " ".join(["v1," + _digest(key, message) for key in keys])


def _digest(key: bytes, message: bytes) -> str:
    return binascii.b2a_base64(hmac.digest(key, message, "sha256"), newline=False).decode()


def _is_encoded(secret: str) -> bool:
    return secret.startswith(_BASE64_MARK)
