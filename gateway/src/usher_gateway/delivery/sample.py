"""Sends a sample visit to a destination, so that people can try it before visits arrive.

The sample takes an attempt's path: transform, format, signature, address rules. It is not a delivery: the store
does not know it, and no counter, circuit or condition changes.
"""

import base64
import importlib.resources
import time
import urllib.parse

import msgspec

from usher_gateway import documents, model
from usher_gateway.delivery import outcome, payload
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.destinations import HINTS
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.destinations.sending import Sender
from usher_gateway.timing import Clock

MARK = ("usher-test", "true")  # The header by which a receiver tells a sample from a visit

# A body as Purple sends it, for a person who does not exist (docs/purple.md).
VISIT = importlib.resources.files(__package__).joinpath("sample_visit.json").read_bytes()

_HIDDEN = "…"
_MIN_SECRET_CHARACTERS = 4  # A shorter text is not hidden in the answer, because it is part of ordinary words
_MAX_ORDINARY_PART = 12  # Longer parts of a URL's path may be a credential, as in `documents.shorten_url`


# By the codes of `payload.FormatError`.
_FORMAT_HINTS = {
    "TransformNotJSON": "a map of the transform has true or false as a key, which JSON does not have",
    "DocumentNotFlat": "`Form` needs a transform that gives a flat map of texts, numbers, true, false and null",
    "UrlVariableNotUsable": "a variable of the URL is empty, longer than 512 characters, or `.` or `..`",
}


class SampleRequest(msgspec.Struct, frozen=True):
    """The request, without credentials."""

    method: str
    url: str
    """Shortened, because its path or query may be a credential, and with its variables' names."""
    headers: list[tuple[str, str]]
    """Values in the destination's own headers are replaced by ``…``, because they may be credentials."""
    body: str


class SampleResult(msgspec.Struct, frozen=True, rename="camel"):
    """The answer, and what it would mean for a visit."""

    request: SampleRequest
    route: str | None
    """``namespace/listener/route`` whose transform was used; None: no route names the destination."""
    outcome: str
    """``Delivered``, ``Retry`` or ``Dead``: what would become of a visit."""
    error: str
    """Why, as in docs/deliveries.md; empty if it is delivered."""
    hint: str
    """How to correct the error; empty if no setting is a likely cause."""
    rule: int
    """The rule in ``http.answers`` that decided, as a number from 1; 0: none."""
    rule_error: str
    """Why that rule could not be evaluated, as in docs/expressions.md; mostly empty."""
    status: int
    """0: there was no answer."""
    milliseconds: int
    answer: str
    """The first KiB of the answer's body. Credentials that the destination repeats are replaced by ``…``."""


class SampleError(model.UsherError):
    """The sample cannot be sent. The hint says what to do."""


class SampleSender:
    """Sends samples."""

    def __init__(self, *, route_documents: RouteDocuments, client: DestinationClient, clock: Clock) -> None:
        self._documents = route_documents
        self._sender = Sender(client)
        self._clock = clock

    async def send(self, key: str, route: model.RouteDefinition | None, body: bytes = VISIT) -> SampleResult:
        """Send a sample to the destination ``key``, with a route's transform, or only the destination's own.

        Raises:
            SampleError: the request cannot be made.
        """
        prepared = self._documents.prepared_destination(key)
        if prepared is None or prepared.destination.unresolved:
            if prepared is not None and prepared.destination.missing:
                raise SampleError(f"destination {key} lacks a secret: {prepared.destination.missing}", "")
            hint = "the line `destination_rejected` of the log says which header or secret is wrong"
            raise SampleError(f"destination {key} has a secret or a header that cannot be used", hint)
        namespace = key.partition("/")[0]
        definition = route or model.RouteDefinition(model.ListenerName(namespace, "sample", "sample"), "sample", key)
        delivery = unstored_delivery(body, self._clock.now())
        evaluated = self._documents.evaluate_delivery(delivery, definition, prepared.destination)
        if evaluated.error_code:
            where = f"{route.listener.key}, route {route.route}" if route is not None else key
            field = f" ({evaluated.missing_field})" if evaluated.missing_field else ""
            message = f"the transform or a variable of the URL failed for {where}: {evaluated.error_code}{field}"
            raise SampleError(message, "`usher check --body FILE` shows what the expression reads")
        now = self._clock.now()
        request = payload.render(prepared, delivery, definition, now, evaluated.document, evaluated.url_values)
        if isinstance(request, payload.FormatError):
            raise SampleError(f"the sample cannot be written: {request.code}", _FORMAT_HINTS.get(request.code, ""))
        request = msgspec.structs.replace(request, headers=[*request.headers, MARK])
        started = time.monotonic()
        answer = await self._sender.send(request, prepared.destination)
        milliseconds = int((time.monotonic() - started) * 1000)
        classified = outcome.classify(answer, prepared.destination, self._clock.now())
        rules = prepared.destination.answers if answer.error is None else ()
        applied = outcome.apply_rules(rules, answer)
        return SampleResult(
            request=SampleRequest(
                request.method,
                documents.shorten_url(prepared.destination.url),
                _without_values(request.headers, prepared.destination),
                request.body.decode("utf-8", "replace"),
            ),
            route=f"{route.listener.key}/{route.route}" if route is not None else None,
            outcome=classified.kind.name,
            error=classified.error,
            hint=HINTS.get(classified.error, ""),
            rule=applied.number,
            rule_error=applied.error_code,
            status=answer.status,
            milliseconds=milliseconds,
            answer=_without_credentials(
                answer.body.decode("utf-8", "replace"), prepared.destination, self._sender.tokens.current(key)
            ),
        )


def unstored_delivery(body: bytes, now: int) -> model.Delivery:
    """Return a delivery for a JSON body that the store does not know, with a new id."""
    identifiers = model.IdFactory()
    key = identifiers.next_key()
    return model.Delivery(
        key=key,
        id=identifiers.id_of(key),
        arrival=0,
        visit_id=identifiers.id_of(key),
        is_repeat=False,
        route=0,
        created_at=now,
        received_at=now,
        visit_time=now,
        late=False,
        hops=0,
        attempts=0,
        started_at=now,
        expires_at=0,
        body=body,
        content_type=b"application/json",
    )


def _without_values(
    headers: list[tuple[str, str]], destination: documents.DestinationDocument
) -> list[tuple[str, str]]:
    """Return headers without the values that the destination's resource gives."""
    own = {name.lower() for name, _ in destination.headers}
    return [(name, _HIDDEN if name.lower() in own else value) for name, value in headers]


def _without_credentials(text: str, destination: documents.DestinationDocument, token: str) -> str:
    """Return a text without what may be the destination's credential, because some systems repeat the request."""
    path, _, query = destination.url.partition("#")[0].partition("://")[2].partition("?")
    secrets = [token, *destination.signing_secrets, *(variable.secret for variable in destination.url_variables)]
    secrets += [pair.rpartition("=")[2] for pair in query.split("&")]
    secrets += [part for part in path.split("/")[1:] if len(part) > _MAX_ORDINARY_PART]
    secrets += [value.rpartition(" ")[2] for _, value in destination.headers]  # without ``Bearer``
    secrets += [part for _, value in destination.headers for part in _basic_credentials(value)]
    encoded = [urllib.parse.quote(variable.secret, safe="") for variable in destination.url_variables]
    for secret in sorted({*secrets, *encoded, *map(urllib.parse.unquote, secrets)}, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET_CHARACTERS:
            text = text.replace(secret, _HIDDEN)
    return text


def _basic_credentials(header_value: str) -> tuple[str, str]:
    """Return what Basic authentication sends: user and password, one of which may be an API key."""
    scheme, _, encoded = header_value.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded).decode("utf-8", "replace").partition(":")
    except ValueError:
        return "", ""
    return user, password
