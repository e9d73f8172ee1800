"""The public port: aiohttp's server, with the limits and clocks that it lacks.

aiohttp parses HTTP, keeps connections, pipelines and closes idle connections. `Connection` extends aiohttp's
connection. It adds a limit on connections, a time limit for the header (counted from the acceptance, so that a TLS
handshake counts) and one for the whole request, a limit on all bytes that wait in memory for an answer, and a drain
at the stop. It also refuses the few requests that aiohttp's parser lets through but RFC 9112 does not allow, because
a proxy in front might read them differently (§11.2, request smuggling).

aiohttp takes a request up one turn of the event loop after its header is parsed, and the next pipelined one in the turn
after an answer. So two turns later a connection without a request has nothing left to answer
(`Connection.end_if_answered`).
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import structlog
from aiohttp import web

from usher_gateway import metrics, model
from usher_gateway.ingest import answers, connection_limit
from usher_gateway.metered_tls import MeteredTls

_log = structlog.get_logger(__name__)

HARD_LIMIT_BYTES = 8 * 1024 * 1024  # Larger bodies, as sent, are refused with 413

# A body has to be complete this long before the deadline, because the answer takes its time too.
ANSWER_RESERVE_SECONDS = 0.1

_LINGER_SECONDS = 2.0
# aiohttp parses at most 1/16 of this number of chunks before the body is read, and each chunk takes 1 to 2 us.
_READ_BUFFER_BYTES = 4 * 1024

_MAX_SMALL_CHUNKS = 512
# A body is refused if it has more than `_MAX_SMALL_CHUNKS` chunks that are smaller than this on average. In chunks of
# one byte, 5 MB/s would take all the time of the event loop.
_CHUNK_BYTES = 256

_UNREAD_ANSWER_BYTES = 64 * 1024  # A sender that leaves more answers unread gets no further ones until it reads

# A connection ends with its answer if more bytes than these came that are not in the body of the request. They are
# header fields or further requests. Otherwise a few hundred connections could make each turn of the event loop parse a
# quarter of a megabyte from each.
_MOST_BYTES_BEYOND_BODY = 64 * 1024

# Bytes left over after an answer that count as white space around header fields, and not as the next request.
_SLACK_BYTES = 64

# A body in chunks may leave one more byte for each 64 of its bytes, because the lengths of chunks are not known.
_CHUNK_SLACK = 64

# Segments within this time are remembered as one, so that a body sent byte by byte does not fill the memory.
_SEGMENT_SECONDS = 0.05

_VERSIONS = {(1, 0), (1, 1)}

# The Host field. Source: RFC 9110 §7.2, RFC 3986 §3.2.2 and §3.2.3.
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


class ServerLimits(msgspec.Struct, frozen=True):
    """Limits of the public port, in seconds, bytes and counts."""

    answer_seconds: float = 7.5
    """Below the promised 8 s, because on a busy machine the answer itself takes its time."""
    header_seconds: float = 5.0
    idle_seconds: float = 75.0
    connections: int = 10_000
    connections_per_source: int = 5_000
    """Half of all, because behind a proxy every connection comes from the proxy's address."""
    reading_bytes: int = 256 * 1024 * 1024
    """Bytes received but not answered yet, on all connections together."""
    handshakes: int = 1_000
    """TLS handshakes that are not complete. Each takes about 100 KB."""
    lingering: int = 1_000
    """Connections that are answered and kept until the sender has read the answer."""


class Request(web.BaseRequest):
    """A request with its deadline. Times are on the event loop's clock."""

    connection: "Connection"
    began_at: float
    """When its first byte came; for a connection's first request, when that was accepted."""
    deadline: float
    """When it has to be answered."""
    failure: model.RefusedReason
    """Why the body will not be complete, once `abandon_body` was called."""

    def begin(self, connection: "Connection", began_at: float) -> None:
        """Set what the connection knows about the request."""
        self.connection = connection
        self.began_at = began_at
        self.deadline = began_at + connection.server.limits.answer_seconds
        self.failure = model.RefusedReason.Disconnected

    @property
    def host_and_target(self) -> tuple[str, str]:
        """Host and target; the absolute form of the target names the host itself (RFC 9112 §3.2.2)."""
        target = self.raw_path
        if not target.startswith("/"):
            scheme, separator, host_and_path = target.partition("://")
            if separator and scheme.lower() in {"http", "https"}:
                host, slash, path = host_and_path.partition("/")
                return host, slash + path if slash else "/"
        return self.headers.get("Host", ""), target

    @property
    def is_connected(self) -> bool:
        """True if the answer can still be written and the sender has not closed its side."""
        connection = self.connection
        transport = connection.transport
        return transport is not None and not connection.is_half_closed and not transport.is_closing()

    @property
    def is_malformed(self) -> bool:
        """True if the request breaks a rule that aiohttp's parser does not check. Source: RFC 9112 §2.3, §3.2, §6.1.

        A proxy in front may read such a request differently.
        """
        coding = self.headers.get("Transfer-Encoding")
        return (
            self.version not in _VERSIONS
            or not self.raw_path.isascii()
            or not _HOST.fullmatch(self.headers.get("Host", ""))
            or (coding is not None and (self.version == (1, 0) or coding.lower() != "chunked"))
        )

    @property
    def wire_bytes(self) -> int:
        """Length as sent, if fields have the usual white space and the body is not in chunks."""
        fields = sum([len(name) + len(value) + 4 for name, value in self.raw_headers])
        return len(self.method) + len(self.raw_path) + len("  HTTP/1.1\r\n\r\n") + fields + self.content.total_bytes

    async def read_body(self) -> bytes:
        """The body as sent. It can be read once.

        Raises:
            RefusedError: TooLarge, TooCostly, BodyTimeout, Disconnected, QueueFull.
        """
        content = self.content
        if content.is_eof() and content.exception() is None and content.total_bytes <= HARD_LIMIT_BYTES:
            return content.read_nowait() if content.total_bytes else b""
        if int(self.headers.get("Content-Length", "0")) > HARD_LIMIT_BYTES:
            raise answers.RefusedError(model.RefusedReason.TooLarge)
        if self.version == (1, 1) and self.headers.get("Expect", "").lower() == "100-continue":
            self.connection.ask_for_body()
        self.connection.begin_body()
        try:
            async with asyncio.timeout_at(self.deadline - ANSWER_RESERVE_SECONDS):
                return await self._read_pieces()
        except TimeoutError:
            raise answers.RefusedError(model.RefusedReason.BodyTimeout) from None
        except (OSError, RuntimeError, web.RequestPayloadError) as error:
            # The stream keeps the error, whose traceback keeps the frame with the body and the stream. The garbage
            # collector runs too rarely for this cycle: a sender that hangs up could fill the memory with bodies.
            error.__traceback__ = None
            raise answers.RefusedError(self.failure) from None
        finally:
            self.connection.end_body()

    async def _read_pieces(self) -> bytes:
        body, chunks = bytearray(), 0
        while (received := await self.content.readchunk()) != (b"", False):
            piece, ends_chunk = received
            body += piece
            chunks += ends_chunk
            if len(body) > HARD_LIMIT_BYTES:
                raise answers.RefusedError(model.RefusedReason.TooLarge)
            if chunks > _MAX_SMALL_CHUNKS + len(body) // _CHUNK_BYTES:
                raise answers.RefusedError(model.RefusedReason.TooCostly)
        return bytes(body)

    async def wait_and_give_way(self, seconds: float) -> None:
        """Wait, or until the connection is lost. Meanwhile it is among the first to give way to new ones.

        Nothing more is read, so that no request behind this one fills the memory.
        """
        connection = self.connection
        connection.server.limit.wait(connection, is_known=False)
        connection.ended = connection.server.loop.create_future()
        was_reading = connection.stop_reading()
        if seconds:
            await asyncio.wait([connection.ended], timeout=seconds)
        if was_reading:
            connection.read_again()
        connection.server.limit.work(connection)

    def abandon_body(self, reason: model.RefusedReason) -> None:
        """Make `read_body` fail, because the rest of the body will not come or is not wanted."""
        self.failure = reason
        self.content.set_exception(ConnectionResetError())


Handler = Callable[[Request], Awaitable[answers.Answer]]  # Serves one request
CountRefused = Callable[[model.RefusedReason], None]  # Counts a refusal that no handler sees


class Connection(web.RequestHandler):
    """One connection: aiohttp's, with Usher's clocks and byte counts."""

    def __init__(self, server: "PublicServer", manager: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            manager,
            loop=loop,
            access_log=cast("Any", None),
            auto_decompress=False,
            keepalive_timeout=server.limits.idle_seconds,
            lingering_time=0,  # send() lingers, also after answers to what is not HTTP
            read_bufsize=_READ_BUFFER_BYTES,
        )
        self.server = server
        self.socket: asyncio.Transport | None = None
        """The transport; unlike aiohttp's `transport` it stays until the connection is lost."""
        self.tls: MeteredTls | None = None
        self.request: Request | None = None  # The request that is being answered
        self.opening: asyncio.Task[None] | None = None
        """Opens the connection, and shakes hands over TLS; None afterwards."""
        self.answered = 0  # Requests answered so far
        self.answered_at_last_check = 0
        self.began_at = 0.0  # Where the last request's clock started (loop time)
        self.header_since = loop.time()
        """Since when a header is awaited or incomplete; 0 while the connection is idle or answers a request."""
        self.has_partial_header = False
        self.listener: model.ListenerName | None = None
        """The listener that a request named last. A connection with a listener gives way last."""
        self.has_unfinished_body = False
        self.is_half_closed = self.is_discarding = self.is_overloaded = self.is_lingering = False
        self.paused_since = 0.0  # Since when the sender does not read its answers; 0 while it does
        self.closing_since = 0.0  # Since when the connection waits for the sender to take the rest; 0 while it is open
        self.unanswered_bytes = 0  # Bytes in memory of the requests that are not answered
        self.partial_bytes = 0
        """How many of them began the header of the next request, so that none of them can be behind it."""
        self.segments: deque[tuple[float, int]] = deque()
        """(time, length) of the segments that hold the unanswered bytes; those that came close together are merged."""
        self.ended: asyncio.Future[None] | None = None

    # called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection, or answer 503 and close it beyond the limit."""
        super().connection_made(transport)
        self.socket = cast("asyncio.Transport", transport)
        self.tls = transport.get_extra_info("ssl_object")
        self.socket.set_write_buffer_limits(_UNREAD_ANSWER_BYTES)  # the default for TLS is 512 KiB
        if self not in self.server.connections:  # one over TLS counts since its acceptance
            peer = transport.get_extra_info("peername")  # None if it has left
            if not self.server.admit(self, str(peer[0]) if peer else ""):
                self.hang_up(model.RefusedReason.QueueFull)

    def force_close(self) -> None:
        """Close at once, also during the TLS handshake."""
        if self.opening is not None:
            self.opening.cancel()
        super().force_close()

    def data_received(self, data: bytes) -> None:
        """Count the bytes and hand them to aiohttp's parser."""
        if not data:  # aiohttp calls itself to continue with bytes that it kept back
            super().data_received(data)
            return
        if self.is_discarding:
            return
        server, size = self.server, len(data)
        if server.reading_bytes + size > server.limits.reading_bytes:
            self._overload()
            return
        now = server.loop.time()
        if self.request is None:
            if not self.header_since and not data.strip(b"\r\n"):
                super().data_received(data)  # empty lines between requests: the parser keeps nothing of them
                return
            self.header_since = self.header_since or now
            self.has_partial_header = True
        segments = self.segments
        if segments and now < segments[-1][0] + _SEGMENT_SECONDS:
            segments[-1] = (segments[-1][0], segments[-1][1] + size)
        else:
            segments.append((now, size))
        self.unanswered_bytes += size
        server.reading_bytes += size
        if self.has_unfinished_body:
            server.grow_body(self, size)
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio: True keeps the transport open
        """Answer what the sender has sent, then close. TLS has no half-closed connections."""
        self.is_half_closed = True
        self._end()
        if self.is_lingering or self.socket is None or self.socket.get_extra_info("sslcontext") is not None:
            return False
        self._end_if_answered_soon()
        return True

    def pause_writing(self) -> None:
        """Note that the sender does not read its answers."""
        super().pause_writing()
        self.paused_since = self.server.loop.time()

    def resume_writing(self) -> None:
        """Note that the sender reads again."""
        super().resume_writing()
        self.paused_since = 0.0

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection; aiohttp ends the body that is being read."""
        server = self.server
        server.forget(self)
        server.reading_bytes -= self.unanswered_bytes
        server.lingering -= self.is_lingering
        self.unanswered_bytes = 0
        self.is_lingering = False
        self.is_discarding = True
        self._end()
        super().connection_lost(exc)

    # called by aiohttp

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not valid HTTP, and requests whose handler failed, with Usher's own answers."""
        del request, message
        reason = model.RefusedReason.BadRequest if status < 500 else model.RefusedReason.InternalError
        if status >= 500:
            _log.error("request_failed", exc_info=exc)
        self.server.count_refused(reason)
        return answers.REFUSED[reason].closing

    # called by the request and the server

    def begin(self, request: Request) -> None:
        """Start a request's clock: it counts from its first byte."""
        self.began_at = self.header_since or self.began_at
        self.header_since = 0.0
        self.has_partial_header = False
        self.request = request
        if self.tls is not None:
            self.tls.begin_request()
        self.server.limit.work(self)
        request.begin(self, self.began_at)

    def begin_body(self) -> None:
        """Count the body as unfinished. Another one, or this one, may have to give way."""
        self.has_unfinished_body = True
        self.server.begin_body(self)

    def end_body(self) -> None:
        """Note that the body is complete, or will not be."""
        self.has_unfinished_body = False
        self.server.bodies.remove(self)

    def abandon_body(self) -> None:
        """End the unfinished body with 408, because there are too many."""
        self.is_discarding = True
        if self.request is not None:
            self.request.abandon_body(model.RefusedReason.BodyTimeout)

    def stop_reading(self) -> bool:
        """Read nothing more from the socket until `read_again`. Returns False if aiohttp reads nothing already.

        aiohttp stops while requests wait behind the current one. It would keep all further bytes.
        """
        if self.socket is None or self.socket.is_closing() or not self.socket.is_reading():
            return False
        self.socket.pause_reading()
        return True

    def read_again(self) -> None:
        """Read from the socket again."""
        if self.socket is not None and not self.socket.is_closing():
            self.socket.resume_reading()

    def ask_for_body(self) -> None:
        """Write 100 Continue (RFC 9110 §10.1.1)."""
        if self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def send(self, request: Request, answer: answers.Answer) -> None:
        """Write an answer, and linger if it closes the connection while the sender may still be sending."""
        transport = self.transport
        if transport is not None:
            transport.write(answer.as_bytes())
            self.server.durations.observe(self.server.loop.time() - request.began_at)
        if request.content.total_bytes and not request.content.at_eof() and request.content.exception() is None:
            request.content.read_nowait()  # else an idle connection would hold the body
        is_complete = request.content.is_eof() and request.method != "UNKNOWN" and not self.is_overloaded
        self._end_request(request)
        if self.is_half_closed or self.is_overloaded:
            self._end_if_answered_soon()
        if not answer.keep_alive and not is_complete:
            await self._linger()
        elif self.writing_paused:
            await request.writer.drain()

    def hang_up(self, reason: model.RefusedReason) -> None:
        """Answer a refusal outside of any request, count it, and close."""
        self.server.count_refused(reason)
        if self.transport is not None:
            self.transport.write(answers.REFUSED[reason].closing.as_bytes())
            if self._start_lingering():
                self.server.loop.call_later(_LINGER_SECONDS, self.force_close)
            else:
                self.force_close()

    def give_way(self) -> None:
        """Close, because a new connection needs the room."""
        if self.has_partial_header:
            self.hang_up(model.RefusedReason.QueueFull)
        else:
            self.force_close()

    def check(self, now: float) -> None:
        """Close the connection if one of its clocks has run out. Called twice a second."""
        limits, transport = self.server.limits, self.socket
        is_waiting = self.request is None and not self.is_lingering and self.answered == self.answered_at_last_check
        self.answered_at_last_check = self.answered
        if transport is not None and transport.is_closing() and not self.closing_since:
            self.closing_since = now
        stuck_since = self.paused_since or self.closing_since
        if stuck_since:
            if stuck_since < now - limits.answer_seconds and transport is not None:
                transport.abort()
        elif is_waiting and 0 < self.header_since < now - limits.header_seconds:
            if self.has_partial_header:
                self.hang_up(model.RefusedReason.BodyTimeout)
            else:
                self.force_close()

    def end_if_answered(self, answered: int) -> None:
        """End a half-closed or overloaded connection that has nothing left to answer.

        ``answered``: requests answered two turns ago. If another one was answered since, that one calls again.
        """
        request = self.request
        if answered != self.answered:
            return
        if request is not None:
            if not request.content.is_eof():
                overload = model.RefusedReason.QueueFull
                request.abandon_body(overload if self.is_overloaded else model.RefusedReason.Disconnected)
        elif self.is_lingering or self.transport is None or self.transport.is_closing():
            return
        elif self.is_overloaded:
            self.hang_up(model.RefusedReason.QueueFull)
        else:
            self.force_close()

    # bytes

    def _overload(self) -> None:
        """Take no more bytes. The current request is answered, unless its body is incomplete; the next one gets 503."""
        self.is_overloaded = self.is_discarding = True
        self._end_if_answered_soon()

    def _end_if_answered_soon(self) -> None:
        self.server.loop.call_soon(self.server.loop.call_soon, self.end_if_answered, self.answered)

    def _end_request(self, request: Request) -> None:
        """Release the request's bytes. The bytes left are the last ones that came: they begin the next request."""
        slack = _SLACK_BYTES
        if "Transfer-Encoding" in request.headers:
            slack += request.content.total_bytes // _CHUNK_SLACK
        bytes_left = self.unanswered_bytes - max(request.wire_bytes, self.partial_bytes)
        self.partial_bytes = 0
        if bytes_left < slack:
            bytes_left = 0
            self.segments.clear()
        segments, total = self.segments, sum([size for _, size in self.segments])
        while segments and total - segments[0][1] >= bytes_left:
            total -= segments.popleft()[1]
        self.header_since = segments[0][0] if segments else 0.0
        self.server.reading_bytes -= self.unanswered_bytes - bytes_left
        self.unanswered_bytes = bytes_left
        self.request = None
        self.server.limit.wait(self, is_known=self.listener is not None)
        self.answered += 1
        if bytes_left:
            self.server.loop.call_soon(self.server.loop.call_soon, self._note_partial, self.answered, bytes_left)

    def _note_partial(self, answered: int, bytes_left: int) -> None:
        """Note that the bytes left two turns ago hold no whole request, so that a wrong count of them does not last."""
        if self.request is None and self.answered == answered:
            self.partial_bytes = bytes_left

    # closing

    def _start_lingering(self) -> bool:
        """Discard what still comes. Returns False if the connection has to be closed at once.

        Closing with bytes unread resets the connection, and the reset may overtake the answer. Source: RFC 9112 §9.6.
        """
        server, transport = self.server, self.transport
        self.is_discarding = True
        if transport is None or self.is_half_closed or server.lingering >= server.limits.lingering:
            return False
        server.lingering += 1
        self.is_lingering = True
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()
        return True

    async def _linger(self) -> None:
        """Wait until the sender closes, or two seconds."""
        if self._start_lingering():
            self.ended = self.server.loop.create_future()
            await asyncio.wait([self.ended], timeout=_LINGER_SECONDS)

    def _end(self) -> None:
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


class PublicServer:
    """The public port: makes connections and watches their clocks. Each request goes to the handler."""

    def __init__(self, *, handler: Handler, count_refused: CountRefused, limits: ServerLimits) -> None:
        self.limits = limits
        self.count_refused = count_refused
        self.connections: set[Connection] = set()
        self.limit: connection_limit.ConnectionLimit[Connection] = connection_limit.ConnectionLimit(
            connections=limits.connections, per_source=limits.connections_per_source
        )
        self.bodies: connection_limit.UnfinishedLimit[Connection] = connection_limit.UnfinishedLimit(
            members=limits.connections // 2, total_bytes=limits.reading_bytes // 2
        )
        """The connections whose body is incomplete."""
        self.handshakes: connection_limit.UnfinishedLimit[Connection] = connection_limit.UnfinishedLimit(
            members=limits.handshakes, total_bytes=0
        )
        """The connections whose TLS handshake is incomplete."""
        self.displaced = 0  # Connections that gave way to new ones
        self.displaced_handshakes = 0  # TLS handshakes that gave way to new ones
        self.displaced_bodies: dict[str, int] = {}  # Listener -> unfinished bodies that gave way to others
        self.reading_bytes = 0
        self.lingering = 0
        self.is_draining = False  # While True, each connection ends with its next answer
        self.durations = metrics.Histogram(metrics.SECONDS)  # From a request's first byte to its answer, in seconds
        self.loop = asyncio.get_running_loop()
        self._handler = handler
        self._manager = web.Server(cast("Any", self._serve), request_factory=self._make_request)

    def __call__(self) -> Connection:
        """A protocol for a new connection: the factory that loop.create_server() needs."""
        return Connection(self, self._manager, self.loop)

    def admit(self, connection: Connection, address: str) -> bool:
        """Register a new connection; if the port is full, close a waiting one. Returns False if all are busy."""
        source = connection_limit.source_of(address)
        if self.limit.is_full(source):
            displaced = self.limit.longest_waiting(source)
            if displaced is None:
                return False
            self.displaced += 1
            self.forget(displaced)
            displaced.give_way()
        self.limit.add(connection, source)
        self.connections.add(connection)
        return True

    def admit_handshake(self, connection: Connection, address: str) -> bool:
        """Register a new TLS connection; if there are too many handshakes, the oldest one gives way."""
        if not self.admit(connection, address):
            return False
        self.handshakes.add(connection, (self.limit.source(connection),))
        displaced = self.handshakes.in_excess(connection)
        if displaced is not None:
            self.displaced_handshakes += 1
            self.forget(displaced)
            displaced.force_close()
        return True

    def begin_body(self, connection: Connection) -> None:
        """Register an unfinished body, and let others give way to it."""
        name, source = connection.listener, self.limit.source(connection)
        owners = (name.key, f"{name.namespace}/{name.tenant}/", source) if name is not None else ("", source)
        self.bodies.add(connection, owners, connection.unanswered_bytes)
        self._displace_bodies(connection)

    def grow_body(self, connection: Connection, size: int) -> None:
        """Note that an unfinished body has grown."""
        self.bodies.grow(connection, size)
        self._displace_bodies(connection)

    def _displace_bodies(self, connection: Connection) -> None:
        while (displaced := self.bodies.in_excess(connection)) is not None:
            self.bodies.remove(displaced)
            displaced.abandon_body()
            listener = displaced.listener.key if displaced.listener is not None else ""
            self.displaced_bodies[listener] = self.displaced_bodies.get(listener, 0) + 1
            _log.warning("unfinished_bodies_displaced", listener=listener, total=self.displaced_bodies[listener])

    def forget(self, connection: Connection) -> None:
        """Forget a connection that ends. Idempotent."""
        self.handshakes.remove(connection)
        self.limit.remove(connection)
        self.connections.discard(connection)

    def _make_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Request:
        request = Request(message, payload, protocol, writer, task, self.loop)
        protocol.begin(request)
        return request

    async def _serve(self, request: Request) -> answers.Answer:
        connection = request.connection
        if connection.is_overloaded:
            answer = self._refuse(model.RefusedReason.QueueFull)
        elif request.is_malformed:
            answer = self._refuse(model.RefusedReason.BadRequest)
        else:
            answer = await self._handler(request)
        is_kept = (
            request.keep_alive
            and request.content.is_eof()
            and "Upgrade" not in request.headers
            and request.method != "CONNECT"
            and not self.is_draining
            and connection.unanswered_bytes - request.content.total_bytes < _MOST_BYTES_BEYOND_BODY
        )
        return answer if is_kept else answer.closing

    def _refuse(self, reason: model.RefusedReason) -> answers.Answer:
        self.count_refused(reason)
        return answers.REFUSED[reason].closing

    async def watch(self) -> None:
        """Check the clocks of all connections every half second. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(min(0.5, self.limits.header_seconds / 4))
            now = self.loop.time()
            for connection in list(self.connections):
                connection.check(now)

    async def drain(self, seconds: float) -> None:
        """Close idle connections now and the others once they are answered, at the latest after ``seconds``."""
        end = self.loop.time() + seconds
        self.is_draining = True
        while self.connections and self.loop.time() < end:
            for connection in list(self.connections):
                if connection.request is None:
                    connection.force_close()
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.force_close()
