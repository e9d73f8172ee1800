"""The answers to Purple. There are few and they are fixed, so their bytes are built once.

Source: docs/purple.md (Purple counts everything but 200 with ``wifiWebhookListener: 1`` as a failure); RFC 9110 §6.6.1
(Date), §10.2.3 (Retry-After), §11.6.1 (WWW-Authenticate).
"""

import email.utils
import time
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web

from usher_gateway import documents, model

RETRY_AFTER_SECONDS = 30  # The Retry-After of a 503. Purple ignores it and retries after three hours.

_STATUS = {
    model.RefusedReason.BadRequest: 400,
    model.RefusedReason.NotFound: 404,
    model.RefusedReason.Unauthenticated: 401,
    model.RefusedReason.AuthenticationUnresolved: 503,
    model.RefusedReason.SourceNotAllowed: 403,
    model.RefusedReason.MethodNotAllowed: 405,
    model.RefusedReason.TooLarge: 413,
    model.RefusedReason.BodyTimeout: 408,
    model.RefusedReason.RateLimited: 503,
    model.RefusedReason.TooCostly: 503,
    model.RefusedReason.QueueFull: 503,
    model.RefusedReason.StoreUnavailable: 503,
    model.RefusedReason.LowDisk: 503,
    model.RefusedReason.StorageLimit: 503,
    model.RefusedReason.Deadline: 503,
    model.RefusedReason.NotConfigured: 503,
    model.RefusedReason.Disconnected: 400,
    model.RefusedReason.InternalError: 500,
}

_NO_CONTENT = 204
_EXTRA = {
    200: b"wifiWebhookListener: 1\r\n",
    _NO_CONTENT: b"%s: 1\r\n" % documents.ROUTE_CHECK_HEADER.encode(),
    401: b'WWW-Authenticate: Basic realm="usher"\r\n',
    405: b"Allow: POST, PUT, PATCH, GET, HEAD, OPTIONS\r\n",
    503: b"Retry-After: %d\r\n" % RETRY_AFTER_SECONDS,
}

_CLOSING = {400, 408, 413}  # Answers that close the connection, because nothing more can be read on it


class RefusedError(Exception):
    """Nothing of the arrival is committed; the pipeline turns it into an answer.

    ``is_route_check``: it is a request to `documents.ROUTE_CHECK_PATH`, which is not an arrival.
    """

    def __init__(self, reason: model.RefusedReason, *, is_route_check: bool = False) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.is_route_check = is_route_check


class Answer(web.StreamResponse):
    """A fixed answer without a body, shared by all requests that get it.

    aiohttp's own responses add a `Server` header, and building one for each request costs more than parsing it.
    """

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._keeps_connection = keep_alive
        phrase, close = HTTPStatus(status).phrase.encode(), b"" if keep_alive else b"Connection: close\r\n"
        line = b"HTTP/1.1 %d %s\r\n" % (status, phrase)
        length = b"" if status == _NO_CONTENT else b"Content-Length: 0\r\n"  # RFC 9110 §8.6
        self._head = line + _EXTRA.get(status, b"") + length + close + b"Date: "
        self.closing = Answer(status, keep_alive=False) if keep_alive else self
        """The same answer, which closes the connection."""

    @property
    def keep_alive(self) -> bool:
        """True if the connection can take another request afterwards."""
        return self._keeps_connection

    def as_bytes(self) -> bytes:
        """The whole answer as sent."""
        return self._head + _date() + b"\r\n\r\n"

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send the answer."""
        await cast("Any", request).connection.send(request, self)

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing, because an answer has no body."""


ACCEPTED = Answer(200, keep_alive=True)  # With Purple's header: for what is committed, and for probes
ROUTE_CHECKED = Answer(_NO_CONTENT, keep_alive=True)  # With a header that only gateways send, for the operator
# The answers to refusals: never with Purple's header.
REFUSED = {reason: Answer(status, keep_alive=status not in _CLOSING) for reason, status in _STATUS.items()}


_date_of: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    global _date_of  # noqa: PLW0603 - caches the header, which changes once a second
    now = int(time.time())
    if _date_of[0] != now:
        _date_of = (now, email.utils.formatdate(now, usegmt=True).encode())
    return _date_of[1]
