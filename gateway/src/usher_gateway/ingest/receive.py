"""The edge: connections, time limits, bodies read under limits. The only file of ingest that knows aiohttp."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import http_parser, http_writer, streams, web, web_protocol

from usher_gateway import measure, model
from usher_gateway.ingest import answer

_log = structlog.get_logger(__name__)

_VERSIONS = (http_writer.HttpVersion11, http_writer.HttpVersion10)
_LINGER_SECONDS = 2.0
NO_TIME = 0.1
"""A body has to be there this much before the deadline: the answer takes its time too."""

HARD_LIMIT_BYTES = 8 * 1024 * 1024
"""More than this, on the wire or inflated, is refused with 413 (design §2.3)."""


class Limits(msgspec.Struct, frozen=True):
    """Limits of the public port, in seconds and counts."""

    answer_seconds: float = 8.0
    header_seconds: float = 5.0
    idle_seconds: float = 75.0
    connections: int = 10_000
    reading_bytes: int = 256 * 1024 * 1024
    """Bodies being read, all connections together."""
    lingering: int = 1_000
    """Connections that are answered, and kept until the sender has read that."""


class Request:
    """One request as the steps see it: no more than they need."""

    __slots__ = ("_connection", "_payload", "deadline", "headers", "host", "keep_alive", "method", "target")

    def __init__(
        self,
        message: http_parser.RawRequestMessage,
        payload: streams.StreamReader,
        connection: "Connection",
        deadline: float,
    ) -> None:
        self._payload = payload
        self._connection = connection
        self.deadline = deadline
        """On the event loop's clock."""
        self.method = message.method
        self.headers = message.headers
        self.keep_alive = not (message.should_close or message.upgrade)
        self.target = message.path
        self.host = message.headers.get("Host", "")
        if not self.target.startswith("/"):
            self._split_absolute_target()

    @property
    def peer(self) -> str:
        """The address at the other end of the connection; ``""`` if it is gone."""
        name = self._connection.peername
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def is_connected(self) -> bool:
        """Whether an answer can still be written, and nothing speaks for a sender that has given up."""
        transport = self._connection.transport
        return transport is not None and not transport.is_closing() and not self._connection.is_half_closed

    def _split_absolute_target(self) -> None:
        """The absolute form names the host itself (RFC 9112 §3.2.2)."""
        scheme, separator, rest = self.target.partition("://")
        if separator and scheme.lower() in {"http", "https"}:
            self.host, slash, path = rest.partition("/")
            self.target = slash + path if slash else "/"

    async def read_body(self) -> bytes:
        """The body as sent.

        Raises:
            RefusedError: TooLarge, BodyTimeout, BadRequest, Disconnected, QueueFull.
        """
        payload = self._payload
        if payload.is_eof():
            body = payload.read_nowait(-1)
            if len(body) > HARD_LIMIT_BYTES:
                raise answer.RefusedError(model.RefusedReason.TooLarge)
            return body
        declared = self.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > HARD_LIMIT_BYTES:
            raise answer.RefusedError(model.RefusedReason.TooLarge)
        self._continue()
        try:
            async with asyncio.timeout_at(self.deadline - NO_TIME):
                return await self._read_slowly()
        except TimeoutError:
            raise answer.RefusedError(model.RefusedReason.BodyTimeout) from None
        except web_protocol.RequestPayloadError:
            raise answer.RefusedError(model.RefusedReason.BadRequest) from None
        except OSError:
            raise answer.RefusedError(model.RefusedReason.Disconnected) from None

    async def _read_slowly(self) -> bytes:
        payload, server, body = self._payload, self._connection.server, bytearray()
        try:
            while chunk := await payload.readany():
                body += chunk
                server.reading_bytes += len(chunk)
                if len(body) > HARD_LIMIT_BYTES:
                    raise answer.RefusedError(model.RefusedReason.TooLarge)
                if server.reading_bytes > server.limits.reading_bytes:
                    raise answer.RefusedError(model.RefusedReason.QueueFull)
            return bytes(body)
        finally:
            server.reading_bytes -= len(body)

    def _continue(self) -> None:
        """Ask for the body if the sender waits to be asked (RFC 9110 §10.1.1)."""
        transport = self._connection.transport
        if self.headers.get("Expect", "").lower() == "100-continue" and transport is not None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


Handler = Callable[[Request], Awaitable[answer.Answer]]
Refused = Callable[[model.RefusedReason], None]


class Connection(web_protocol.RequestHandler):
    """aiohttp's connection (parsing, pipelining, flow control) with a leaner way through it, and Usher's clocks.

    start() replaces aiohttp's, which makes a task, a request, a writer and a response object for every request: half
    again of what serving it costs (docs/performance.md). ``began_at`` is the acceptance of the connection for
    the first request, and the first byte for later ones; 0 while the connection is idle.
    """

    __slots__ = (
        "_payload",
        "began_at",
        "busy",
        "idle_since",
        "is_half_closed",
        "is_lingering",
        "next_began_at",
        "seen_bytes",
        "server",
    )

    def __init__(self, server: "PublicServer", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server.manager,
            loop=loop,
            keepalive_timeout=0,  # the server's watch() closes what is idle
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
        )
        self.server = server
        self.began_at = loop.time()  # the acceptance: with TLS the handshake follows, and counts
        self.next_began_at = self.idle_since = 0.0
        self.busy = self.seen_bytes = self.is_half_closed = self.is_lingering = False
        self._payload: streams.StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Beyond the limit of connections say 503 and hang up."""
        super().connection_made(transport)
        if len(self.server.connections) >= self.server.limits.connections:
            self.hang_up(model.RefusedReason.QueueFull)
        else:
            self.server.connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection, and wake who reads from it."""
        self.server.connections.discard(self)
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(ConnectionResetError("connection lost"))
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note when a request's first byte came."""
        if not data:  # aiohttp lets the parser go on by this
            super().data_received(data)
            return
        self.seen_bytes = True
        if not self.busy:
            if not self.began_at:
                self.began_at = self._loop.time()
        elif not self.next_began_at and self._payload is not None and self._payload.is_eof():
            self.next_began_at = self._loop.time()
        super().data_received(data)
        if self._messages and type(self._messages[-1][0]) is web_protocol._ErrInfo:  # noqa: SLF001 - see _serve()
            self._end_broken_body()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's always lets the connection end
        """The sender sends no more: what it sent is answered, then the connection is closed."""
        self.is_half_closed = True
        payload = self._messages[-1][1] if self._messages else self._payload
        if self._messages or self.busy:
            if payload is not None and not payload.is_eof():
                payload.set_exception(ConnectionResetError("connection closed by the sender"))
            return self.ssl_context is None  # TLS has no half-closed connections
        if self.seen_bytes and not self.is_lingering:
            self.hang_up(model.RefusedReason.BadRequest)
        self.force_close()
        return False

    def _end_broken_body(self) -> None:
        """What cannot be parsed inside of a body is that request's fault, not another request."""
        payload = self._messages[-2][1] if len(self._messages) > 1 else self._payload if self.busy else None
        if payload is not None and not payload.is_eof():
            self._messages.pop()
            payload.set_exception(web_protocol.RequestPayloadError("the body cannot be parsed"))

    async def start(self) -> None:
        """Serve the requests of the connection, one after the other."""
        try:
            while not self._force_close and not self._close:
                if not self._messages:
                    if self.is_half_closed:
                        break
                    await self._wait_for_message()
                message, payload = self._messages.popleft()
                self._refill()
                if not await self._serve(message, payload):
                    break
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the connection's top: one bad request must end no other
            _log.error("connection_failed", error=type(error).__name__, exc_info=error)
        finally:
            self._task_handler = None
            if not self.is_lingering:
                self.force_close()

    async def _wait_for_message(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _refill(self) -> None:
        """Let the parser go on with what is pipelined."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _serve(
        self, message: http_parser.RawRequestMessage | web_protocol._ErrInfo, payload: streams.StreamReader
    ) -> bool:
        """Answer one request; True if the connection can take another."""
        # _ErrInfo is how aiohttp queues what it cannot parse.
        if isinstance(message, web_protocol._ErrInfo) or message.version not in _VERSIONS:  # noqa: SLF001
            self.hang_up(model.RefusedReason.BadRequest)
            return False
        self.busy, self._payload, began_at = True, payload, self.began_at
        request = Request(message, payload, self, began_at + self.server.limits.answer_seconds)
        if self.server.is_draining:
            request.keep_alive = False
        result = await self.server.handler(request)
        self._request_done()
        transport = self.transport
        if transport is None:
            return False
        is_read = payload.is_eof()
        keep_alive = is_read and result.keep_alive and request.keep_alive
        transport.write(result.bytes(keep_alive=keep_alive))
        self.server.durations.observe(self._loop.time() - began_at)
        if not is_read:
            self._linger()
        if self._paused:
            await self._wait_written()
        return keep_alive

    async def _wait_written(self) -> None:
        """A sender that does not read its answers gets no more of them."""
        try:
            async with asyncio.timeout(self.server.limits.answer_seconds):
                await self._drain_helper()
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()

    def _request_done(self) -> None:
        """The present request is answered: the next one's clock runs if its bytes are here already."""
        self.busy = False
        self.seen_bytes = bool(self._messages) or bool(self.next_began_at)
        if not self._messages or self.next_began_at:
            self.began_at = self.next_began_at
        if not self.began_at:
            self.idle_since = self._loop.time()
        self.next_began_at = 0.0

    def hang_up(self, reason: model.RefusedReason) -> None:
        """Answer a refusal outside of any listener, count it, and close."""
        self.server.refused(reason)
        if self.transport is not None:
            self.transport.write(answer.refused(reason).bytes(keep_alive=False))
            self._linger()

    def _linger(self) -> None:
        """Close, but not before the sender had time to read the answer.

        Closing with bytes unread resets the connection, and the reset may overtake the answer. Until then aiohttp drops
        what comes, because ``_close`` is set. Source: RFC 9112 §9.6.
        """
        server, transport = self.server, self.transport
        if transport is None or self.is_half_closed or server.lingering >= server.limits.lingering:
            self.force_close()
            return
        self.is_lingering = True
        server.lingering += 1
        if transport.can_write_eof():
            transport.write_eof()
        self.close()
        self._resume_transport_reading()
        self._loop.call_later(_LINGER_SECONDS, self._end_lingering)

    def _end_lingering(self) -> None:
        self.server.lingering -= 1
        self.force_close()


class PublicServer:
    """The public port: makes connections, watches their clocks, hands requests to a handler."""

    def __init__(self, handler: Handler, refused: Refused, limits: Limits) -> None:
        self.limits = limits
        self.handler = handler
        self.refused = refused
        self.connections: set[Connection] = set()
        self.reading_bytes = 0
        self.is_draining = False
        """While True, each connection ends with its next answer."""
        self.lingering = 0
        self.durations = measure.Histogram(measure.SECONDS)
        """From a request's beginning to its answer, in seconds."""
        self.manager = web.Server(_unused, access_log=None)

    def __call__(self) -> Connection:
        """A protocol for a new connection: what loop.create_server() asks for."""
        return Connection(self, asyncio.get_running_loop())

    async def watch(self) -> None:
        """Close connections that are idle, or whose request's header does not end in time. Runs until cancelled."""
        loop, limits = asyncio.get_running_loop(), self.limits
        while True:
            await asyncio.sleep(min(0.5, limits.header_seconds / 4))
            now = loop.time()
            for connection in [connection for connection in self.connections if not connection.busy]:
                if connection.is_lingering:
                    continue
                if connection.began_at:
                    if connection.began_at < now - limits.header_seconds:
                        self._end_slow_header(connection)
                elif connection.idle_since < now - limits.idle_seconds:
                    connection.force_close()

    async def drain(self, seconds: float) -> None:
        """Close idle connections now, and the others once they are answered, at the latest after ``seconds``."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        self.is_draining = True
        while self.connections and loop.time() < end:
            for connection in list(self.connections):
                if not connection.busy:
                    connection.force_close()
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.force_close()

    def _end_slow_header(self, connection: Connection) -> None:
        if connection.seen_bytes:
            connection.hang_up(model.RefusedReason.BodyTimeout)
        else:
            connection.force_close()


async def _unused(request: web.BaseRequest) -> web.StreamResponse:
    raise NotImplementedError("Connection.start() serves requests itself")
