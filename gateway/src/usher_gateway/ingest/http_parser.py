"""Bytes to requests: what httptools (llhttp) takes, and of that only what HTTP/1.1 allows a sender of visits.

Source: RFC 9112; what a proxy in front might read differently is refused (§11.2, request smuggling).
"""

from collections import deque

import httptools

from usher_gateway import model
from usher_gateway.ingest import http_request

_VERSIONS = frozenset({"1.1", "1.0"})

_HEAD_BYTES = 32 * 1024
"""Longest header, trailer or chunk extension (RFC 9112 leaves it open)."""

_LINE_BYTES = 8 * 1024
"""Longest request line, and longest header field."""

_FIELDS = 128
"""Most header fields, trailers included."""


class _NotHTTPError(Exception):
    """What httptools takes, but Usher does not."""


class Parser:
    """Bytes of one connection to its requests, in their order; the ``on_…`` are httptools' callbacks."""

    __slots__ = (
        "_before_end",
        "_fields",
        "_head_bytes",
        "_httptools",
        "_now",
        "_rest_of_upgrade",
        "_sender",
        "_target",
        "current",
        "is_begun",
        "is_broken",
        "is_head",
        "requests",
    )

    def __init__(self, sender: http_request.Sender, accepted_at: float) -> None:
        self._sender = sender
        self._httptools = httptools.HttpRequestParser(self)
        self.requests: deque[http_request.Request] = deque()
        """Those whose header is complete, until they are served."""
        self.current = http_request.Request(sender)
        """The request whose header or body comes in; the last one, where none does."""
        self.current.began_at = accepted_at
        self.is_begun = False
        """Whether the beginning of a header is here, and not its end."""
        self.is_head = True
        """Whether the current request's header is not complete yet, or no request has begun."""
        self.is_broken = False
        """Whether nothing more can be understood on this connection."""
        self._now = 0.0
        self._rest_of_upgrade = 0
        self._before_end = 0
        """Bytes since something ended: a header, a chunk, a request."""
        self._target = b""
        self._fields = self._head_bytes = 0

    def feed(self, data: bytes, now: float) -> None:
        """Parse what came at this time."""
        self._now = now
        if self._rest_of_upgrade:
            self._feed_upgrade(data)
            return
        self._before_end += len(data)
        try:
            self._httptools.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._begin_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._break()
        else:
            if self._before_end > _HEAD_BYTES:
                self._break()

    def end_body(self, reason: model.RefusedReason) -> None:
        """The body that comes in, if one does, will not be complete."""
        if not self.is_head:
            self.current.end_early(reason)

    def shed(self) -> None:
        """Keep nothing of what waits, and take no more: the sender will bring it again."""
        self.end_body(model.RefusedReason.QueueFull)
        self.is_broken = True
        self.requests.clear()
        self.requests.append(CROWDED)

    def _break(self) -> None:
        """What cannot be parsed inside of a body is that request's fault, else it is a request of its own."""
        self.is_broken = True
        if self.is_head:
            self.is_head = False
            self.requests.append(BROKEN)
        else:
            self.current.end_early(model.RefusedReason.BadRequest)

    def _begin_upgrade(self, rest: bytes) -> None:
        """No upgrade is taken up: what httptools leaves to it is the body after all, and the connection's last."""
        current = self.current
        if current.headers.bytes_of(b"transfer-encoding"):
            self.requests.pop()
            self._break()
        elif current.declared_bytes > 0:
            current.is_complete = self.is_head = False
            self._rest_of_upgrade = current.declared_bytes
            self._feed_upgrade(rest)

    def _feed_upgrade(self, data: bytes) -> None:
        piece = data[: self._rest_of_upgrade]
        self._rest_of_upgrade -= len(piece)
        self.current.add(piece)
        if not self._rest_of_upgrade:
            self.current.complete()
            self.is_broken = True  # whatever follows is not for us

    # called by httptools

    def on_message_begin(self) -> None:
        """A request line begins."""
        before, self.current = self.current, http_request.Request(self._sender)
        self.current.began_at = self._now if before.is_complete else before.began_at  # that of the acceptance
        self.is_begun = self.is_head = True
        self._target, self._fields, self._head_bytes = b"", 0, 0

    def on_url(self, part: bytes) -> None:
        """A piece of the target."""
        self._target += part
        if len(self._target) > _LINE_BYTES:
            raise _NotHTTPError

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer field: those are dropped (RFC 9110 §6.5.1)."""
        self._fields += 1
        size = len(name) + len(value)
        self._head_bytes += size
        if self._fields > _FIELDS or size > _LINE_BYTES or self._head_bytes > _HEAD_BYTES or 0 in value:
            raise _NotHTTPError
        if self.is_head:
            self.current.headers.add(name, value)

    def on_headers_complete(self) -> None:
        """The header is complete: a request to serve, whose body may follow."""
        current, parser = self.current, self._httptools
        version = parser.get_http_version()
        if version not in _VERSIONS or not self._target.isascii():
            raise _NotHTTPError
        headers = current.headers
        if headers.repeats(b"host") or headers.repeats(b"transfer-encoding"):
            raise _NotHTTPError
        coding = headers.bytes_of(b"transfer-encoding")
        if coding and (version == "1.0" or coding.strip(b" \t").lower() != b"chunked"):
            raise _NotHTTPError  # RFC 9112 §6.1
        current.is_old = version == "1.0"
        current.method = parser.get_method().decode()
        current.keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        current.name_place(self._target.decode())
        if not current.host and version == "1.1":
            raise _NotHTTPError  # RFC 9112 §3.2
        length = headers.bytes_of(b"content-length")
        current.declared_bytes = int(length) if length else -1
        self.is_begun = self.is_head = False
        self._before_end = 0
        self.requests.append(current)

    def on_body(self, piece: bytes) -> None:
        """A piece of the body, chunks taken apart."""
        self._before_end = 0
        self.current.add(piece)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._before_end = 0
        self.is_head = True
        self.current.complete()


class _Nobody:
    """The sender of what is no request."""

    peer = ""
    is_connected = False

    def ask_for_body(self) -> None:
        """Nothing is asked for."""


BROKEN = http_request.Request(_Nobody())
"""Stands among the requests for what could not be parsed."""

CROWDED = http_request.Request(_Nobody())
"""Stands among the requests for what there was no room to keep."""
