"""What goes back to Purple: few, fixed answers, written as bytes made in advance.

Source: purple.md (200 and ``wifiWebhookListener: 1``, anything else is a failure); RFC 9110 §6.6.1 (Date), §10.2.3
(Retry-After), §11.6.1 (WWW-Authenticate).
"""

import email.utils
import time
from http import HTTPStatus

from usher_gateway import model

RETRY_AFTER_SECONDS = 30
"""What a 503 asks the sender to wait; Purple takes its three hours whatever it says."""

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
    model.RefusedReason.QueueFull: 503,
    model.RefusedReason.StoreUnavailable: 503,
    model.RefusedReason.LowDisk: 503,
    model.RefusedReason.Deadline: 503,
    model.RefusedReason.NotConfigured: 503,
    model.RefusedReason.Disconnected: 400,
    model.RefusedReason.InternalError: 500,
}

_EXTRA = {
    401: b'WWW-Authenticate: Basic realm="usher"\r\n',
    405: b"Allow: POST, PUT, PATCH, GET, HEAD, OPTIONS\r\n",
    503: b"Retry-After: %d\r\n" % RETRY_AFTER_SECONDS,
}

_CLOSING = {400, 408, 413}
"""Answers after which nothing more can be read on the connection."""


class RefusedError(Exception):
    """Nothing of an arrival is committed; becomes an answer at the edge."""

    def __init__(self, reason: model.RefusedReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Answer:
    """One complete answer."""

    __slots__ = ("_closing", "_head", "keep_alive", "status")

    def __init__(self, status: int, extra: bytes = b"") -> None:
        phrase = HTTPStatus(status).phrase.encode()
        line = b"HTTP/1.1 %d %s\r\n%sContent-Length: 0\r\n" % (status, phrase, extra)
        self._head = line + b"Date: "
        self._closing = line + b"Connection: close\r\nDate: "
        self.status = status
        self.keep_alive = status not in _CLOSING
        """Whether the connection may take another request afterwards."""

    def bytes(self, *, keep_alive: bool) -> bytes:
        """The whole answer as it goes over the wire."""
        return (self._head if keep_alive else self._closing) + _date() + b"\r\n\r\n"


def _make(status: int) -> Answer:
    return Answer(status, b"wifiWebhookListener: 1\r\n" if status == 200 else _EXTRA.get(status, b""))


_ACCEPTED = _make(200)
_REFUSED = {reason: _make(status) for reason, status in _STATUS.items()}


def accepted() -> Answer:
    """200 with Purple's header: what is committed, and probes."""
    return _ACCEPTED


def refused(reason: model.RefusedReason) -> Answer:
    """The answer to a refusal: never with Purple's header."""
    return _REFUSED[reason]


_date_of: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    global _date_of  # noqa: PLW0603 - a cache of one: the date changes once a second
    now = int(time.time())
    if _date_of[0] != now:
        _date_of = (now, email.utils.formatdate(now, usegmt=True).encode())
    return _date_of[1]
