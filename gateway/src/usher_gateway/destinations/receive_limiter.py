"""Limits what a peer can send for one request over a connection that aiohttp's client made."""

import asyncio
import re
import select
import time
from collections.abc import Callable, Iterator

from aiohttp.connector import Connection

from usher_gateway import destinations
from usher_gateway.metered_tls import MeteredTls

# Bytes that a peer may send for one request: interim (1xx) answers, head, chunk headers and body together.
MAX_RECEIVED_BYTES = destinations.MAX_JUDGED_BYTES + 16 * 1024

# Heads that a peer may send for one request: the answer's and interim ones. aiohttp takes 50 us for each.
_MAX_HEADS = 32

# Bytes of interim heads for one request. aiohttp keeps all their fields until the answer, in fifteen times the memory.
_MAX_INTERIM_BYTES = 4 * 1024

_HEAD_START = re.compile(rb"(?:HTTP|RTSP|ICE)/")  # Where aiohttp's parser may see the head of an answer

_INTERIM_HEAD = re.compile(rb"HTTP/1\.[01] 1")
_STATUS_BYTES = len(b"HTTP/1.1 1")

# CPU time in which the event loop reads from a socket, without the time that `ReceiveLimiter` measures.
_SEGMENT_SECONDS = 0.00002

_HEAD_END = b"\r\n\r\n"


class ReceiveLimiter(asyncio.Protocol):
    """Passes bytes from a transport to aiohttp's protocol, up to a limit for each request.

    It ends a piece after each head, so that a malformed body after a good head does not hide that head: aiohttp's
    parser reports nothing of a piece in which it finds an error. It does not divide the body, because pieces cost time.
    """

    def __init__(self, connection: Connection, destination: str, on_end: Callable[["ReceiveLimiter"], None]) -> None:
        """``destination``: ``namespace/name``. ``on_end`` is called when the connection has ended."""
        self.destination = destination
        self.received_bytes = 0  # Bytes received for the current or last request
        self._heads = 0  # Heads received for the current or last request, with lines of its body that look like them
        self.cpu_seconds = 0.0  # CPU time that the answer to the current or last request has taken
        self._status = b""  # The first bytes of the head that is being received
        self._has_final_head = False
        self._interim_bytes = 0
        transport, protocol = connection.transport, connection.protocol
        assert transport is not None
        assert protocol is not None
        self._transport = transport
        self._protocol = protocol
        self._on_end = on_end
        self._is_in_use = False
        self._tls = transport.get_extra_info("ssl_object")
        self._unread = select.poll()
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    @property
    def is_clean(self) -> bool:
        """True if the connection is open and aiohttp has received only complete answers."""
        return not (self._transport.is_closing() or self._protocol.should_close)

    @property
    def is_over_limit(self) -> bool:
        """True if the peer has sent more than it may for the current or last request."""
        return self.received_bytes > MAX_RECEIVED_BYTES

    @property
    def has_sent_all(self) -> bool:
        """True if the transport's buffer is empty."""
        return self._transport.get_write_buffer_size() == 0

    @property
    def is_quiet(self) -> bool:
        """True unless the socket holds bytes, or the connection's end, that the event loop has not read yet."""
        return not self._unread.poll(0)

    def begin(self, note_tls: Callable[[float], None]) -> None:
        """Expect the answer to a request. ``note_tls`` gets the CPU time that reading over TLS took."""
        self._is_in_use = True
        if isinstance(self._tls, MeteredTls):
            self._tls.note = note_tls
            self._tls.begin_request()
        self.received_bytes = self._heads = 0
        self.cpu_seconds = 0.0
        self._status, self._has_final_head, self._interim_bytes = b"", False, 0

    def end(self) -> None:
        """Expect nothing more until the next request."""
        self._is_in_use = False

    def abort(self) -> None:
        """Close the connection at once. Idempotent."""
        self._transport.abort()
        self._on_end(self)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if not self._is_in_use:
            self.abort()  # no request is running, so these bytes must not become the answer to the next one
            return
        started = time.thread_time()
        self._pass_on(data)
        self.cpu_seconds += time.thread_time() - started + _SEGMENT_SECONDS

    def _pass_on(self, data: bytes) -> None:
        allowed = MAX_RECEIVED_BYTES - self.received_bytes
        self.received_bytes += len(data)
        for start in _HEAD_START.finditer(data, 0, max(0, allowed)):
            self._heads += 1
            if self._heads > _MAX_HEADS:
                allowed = start.start()
                break
        for piece in self._split_after_heads(data[: max(0, allowed)]):
            if self._transport.is_closing():  # aiohttp found an error
                return
            if self._interim_bytes > _MAX_INTERIM_BYTES:
                allowed = 0
                break
            self._protocol.data_received(piece)
        if len(data) > allowed:
            # Abort in the next loop turn, so that the waiting task can read the answer's start first.
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.abort)

    def _split_after_heads(self, data: bytes) -> Iterator[bytes]:
        """Cut ``data`` after each interim head and after the final one."""
        start = 0
        while not self._has_final_head and start < len(data):
            at = data.find(_HEAD_END, start)
            end = at + len(_HEAD_END) if at >= 0 else len(data)
            self._status = (self._status + data[start : min(end, start + _STATUS_BYTES)])[:_STATUS_BYTES]
            is_interim = _INTERIM_HEAD.match(self._status) is not None
            self._interim_bytes += is_interim * (end - start)
            if at >= 0:
                self._has_final_head = not is_interim
                self._status = b""
            yield data[start:end]
            start = end
        if start < len(data):
            yield data[start:]

    def eof_received(self) -> bool | None:
        """Part of asyncio.Protocol."""
        self._protocol.eof_received()
        return None

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._on_end(self)
        self._protocol.connection_lost(exc)
