"""The edge: connections, their time limits, and the requests that come over them, one after the other."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import msgspec
import structlog

from usher_gateway import metrics, model
from usher_gateway.ingest import answer, http_parser, http_request

_log = structlog.get_logger(__name__)

_LINGER_SECONDS = 2.0

_SLICE_BYTES = 16 * 1024
"""So much is parsed at once: what is pipelined in it is all there can be beyond the queue."""

_UNREAD_BYTES = 64 * 1024
"""Answers that a sender has not read yet; then it gets no more until it does."""

_QUEUED = 8
"""Requests that wait on a connection for the one before them; then nothing more is read."""

_ENDS = {http_parser.BROKEN: model.RefusedReason.BadRequest, http_parser.CROWDED: model.RefusedReason.QueueFull}
"""What stands among the requests as the last one, and how it is answered."""


class Limits(msgspec.Struct, frozen=True):
    """Limits of the public port, in seconds and counts."""

    answer_seconds: float = 7.5
    """Less than the 8 s that are promised (design §2): on a busy machine the answer itself takes its time."""
    header_seconds: float = 5.0
    idle_seconds: float = 75.0
    connections: int = 10_000
    reading_bytes: int = 256 * 1024 * 1024
    """Bodies being read, and what waits behind an answer, all connections together."""
    lingering: int = 1_000
    """Connections that are answered, and kept until the sender has read that."""


Handling = Coroutine[Any, Any, answer.Answer]
"""The steps of one arrival, begun or not."""


Handler = Callable[[http_request.Request], Handling]
"""Begins the steps of one arrival. Where a request needs_no_time, they wait for plain futures and nothing else."""

Refused = Callable[[model.RefusedReason], None]
"""Is told of arrivals that never became a request."""


class Connection(asyncio.Protocol):
    """One connection: parsing, pipelining, flow control, and Usher's clocks.

    The steps of an arrival are driven from here and not by a task, wherever they wait for nothing but the commit: a
    task and its wake-ups cost more than parsing the request (docs/performance.md).
    """

    def __init__(self, server: "PublicServer", loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.transport: asyncio.Transport | None = None
        self.busy = self.is_half_closed = self.is_lingering = False
        self.idle_since = 0.0
        """When the last answer was given; 0 before the first."""
        self.paused_since = 0.0
        """Since when the sender does not read its answers; 0 while it does."""
        self.closing_since = 0.0
        """Since when the connection closes, which waits for the sender to take what is written; 0 while it does not."""
        self._loop = loop
        # the acceptance: with TLS the handshake follows, and counts
        self._parser = http_parser.Parser(self, loop.time())
        self._unparsed = b""
        self._unparsed_since = 0.0
        self._counted_unparsed = 0
        """What the server counts of it among the bodies being read."""
        self._is_closing = self._reads_slowly = False
        self._task: asyncio.Task[None] | None = None
        self._serving: tuple[http_request.Request, Handling] | None = None

    # what the request asks

    @property
    def peer(self) -> str:
        """The address at the other end of the connection; ``""`` if it is gone."""
        name = self.transport.get_extra_info("peername") if self.transport is not None else None
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def is_connected(self) -> bool:
        """Whether an answer can still be written, and nothing speaks for a sender that has given up."""
        transport = self.transport
        return transport is not None and not self.is_half_closed and not transport.is_closing()

    def ask_for_body(self) -> None:
        """Say 100 Continue (RFC 9110 §10.1.1)."""
        if self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # what the watch asks

    @property
    def header_began_at(self) -> float:
        """Since when a header, of the first request or a begun one, is awaited; 0 if none is."""
        parser = self._parser
        return parser.current.began_at if parser.is_begun or not self.idle_since else 0.0

    @property
    def has_begun_header(self) -> bool:
        """Whether the beginning of a header is here, and not its end."""
        return self._parser.is_begun

    # what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Beyond the limit of connections say 503 and hang up."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_UNREAD_BYTES)  # TLS would take eight times as much
        if len(self.server.connections) >= self.server.limits.connections:
            self.hang_up(model.RefusedReason.QueueFull)
        else:
            self.server.connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - the protocol's
        """Forget the connection, and wake who reads from it."""
        self.transport = None
        self._is_closing = True
        self.server.connections.discard(self)
        self._parser.end_body(model.RefusedReason.Disconnected)
        self._drop_queue()

    def pause_writing(self) -> None:
        """The sender does not read its answers: it gets no more of them until it does."""
        self.paused_since = self._loop.time()

    def resume_writing(self) -> None:
        """Go on with what waits."""
        self.paused_since = 0.0
        self._serve_on()

    def data_received(self, data: bytes) -> None:
        """Parse, and serve."""
        if self._is_closing or self._parser.is_broken:
            return
        if self._unparsed:
            self._unparsed += data
        else:
            self._parse(data, self._loop.time())
        self._serve_on()

    def eof_received(self) -> bool:
        """The sender sends no more: what it sent is answered, then the connection is closed."""
        self.is_half_closed = True
        if self.busy or self._parser.requests:
            self._parser.end_body(model.RefusedReason.Disconnected)
            # TLS has no half-closed connections
            return self.transport is not None and self.transport.get_extra_info("sslcontext") is None
        self._end_half_closed()
        return False

    # parsing

    def _parse(self, data: bytes, now: float) -> None:
        """Parse what came at this time until nothing is left, or enough requests wait."""
        if len(data) <= _SLICE_BYTES:
            self._parser.feed(data, now)
        else:
            start = 0
            while start < len(data) and not self._parser.is_broken and len(self._parser.requests) < _QUEUED:
                self._parser.feed(data[start : start + _SLICE_BYTES], now)
                start += _SLICE_BYTES
            self._unparsed = data[start:] if not self._parser.is_broken else b""
            self._unparsed_since = now
        if self._unparsed or len(self._parser.requests) >= _QUEUED:
            self._read_slowly()
        current = self._parser.current
        if not current.is_complete and current.size:
            self._count_reading(current)

    def _count_reading(self, one: http_request.Request) -> None:
        server = self.server
        server.reading_bytes += one.size - one.counted_bytes
        one.counted_bytes = one.size
        if server.reading_bytes > server.limits.reading_bytes:
            one.end_early(model.RefusedReason.QueueFull)

    def _count_waiting(self) -> None:
        """Count what waits behind an answer like bodies being read; where there is no room for it, let it go.

        It takes a sender that pipelines. Otherwise there is nothing but the request that is served.
        """
        server, requests = self.server, self._parser.requests
        for one in requests:
            server.reading_bytes += one.size - one.counted_bytes
            one.counted_bytes = one.size
        server.reading_bytes += len(self._unparsed) - self._counted_unparsed
        self._counted_unparsed = len(self._unparsed)
        if server.reading_bytes > server.limits.reading_bytes and not self._is_closing:
            self._drop_queue()
            self._parser.shed()

    def _end_counting(self, one: http_request.Request) -> None:
        self.server.reading_bytes -= one.counted_bytes
        one.counted_bytes = 0

    def _read_slowly(self) -> None:
        if not self._reads_slowly and self.transport is not None:
            self._reads_slowly = True
            self.transport.pause_reading()

    def _refill(self) -> None:
        """Let the parser go on with what is pipelined."""
        if not self._reads_slowly or self._parser.requests or self._is_closing:
            return
        data, self._unparsed = self._unparsed, b""
        if data:
            self._parse(data, self._unparsed_since)
        if not self._unparsed and self.transport is not None:
            self._reads_slowly = False
            self.transport.resume_reading()

    # serving

    def _serve_on(self) -> None:
        """Serve the requests of the connection, one after the other, until one has to wait."""
        requests = self._parser.requests
        while not self._is_closing:
            if not requests:
                self._refill()  # also while one is served: it may be its body that waits
            if self.busy or self.paused_since or not requests:
                break
            one = requests.popleft()
            if one in _ENDS:
                self.hang_up(_ENDS[one])
                break
            self._serve(one)
        if requests or self._counted_unparsed or self._unparsed:
            self._count_waiting()
        if self.is_half_closed and not self.busy and not requests:
            self._end_half_closed()

    def _serve(self, one: http_request.Request) -> None:
        self.busy = True
        one.deadline = one.began_at + self.server.limits.answer_seconds
        handling = self.server.handler(one)
        if one.needs_no_time:
            self._serving = (one, handling)
            self._drive()
        else:
            self._task = self._loop.create_task(self._serve_slowly(one, handling))

    def _drive(self, _: object = None) -> None:
        """Go on with the steps of the present arrival until they wait for a future, or have an answer."""
        assert self._serving is not None
        one, handling = self._serving
        try:
            future = handling.send(None)
        except StopIteration as ended:
            self._serving = None
            self._answer(one, ended.value)
        except BaseException as error:
            self._serving = None
            self._fail(one, error)
            if not isinstance(error, Exception):
                raise
        else:
            future._asyncio_future_blocking = False  # noqa: SLF001 - what a task tells a future that it waits for
            future.add_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        self._drive()
        self._serve_on()

    async def _serve_slowly(self, one: http_request.Request, handling: Handling) -> None:
        try:
            result = await handling
        except Exception as error:  # noqa: BLE001 - the connection's top: one bad request must end no other
            self._fail(one, error)
        else:
            self._answer(one, result)
            self._serve_on()

    def _fail(self, one: http_request.Request, error: BaseException) -> None:
        _log.error("connection_failed", error=type(error).__name__, exc_info=error)
        self._request_done(one)
        self.force_close()

    def _answer(self, one: http_request.Request, result: answer.Answer) -> None:
        transport, server = self.transport, self.server
        self._request_done(one)
        if transport is None:
            return
        keep_alive = one.is_complete and one.keep_alive and result.keep_alive and not server.is_draining
        transport.write(result.bytes(keep_alive=keep_alive))
        server.durations.observe(self._loop.time() - one.began_at)
        if not one.is_complete:
            self._linger()
        elif not keep_alive:
            self.force_close()

    def _request_done(self, one: http_request.Request) -> None:
        self.busy = False
        self.idle_since = self._loop.time()
        one.drop_body()
        if one.counted_bytes:
            self._end_counting(one)

    # ending

    def hang_up(self, reason: model.RefusedReason) -> None:
        """Answer a refusal outside of any listener, count it, and close."""
        self.server.refused(reason)
        if self.transport is not None:
            self.transport.write(answer.refused(reason).bytes(keep_alive=False))
            self._linger()

    def _end_half_closed(self) -> None:
        """Everything is answered, and no more will come; half a header is a request that was no good."""
        if self._parser.is_begun and not self._is_closing:
            self.hang_up(model.RefusedReason.BadRequest)
        self.force_close()

    def force_close(self) -> None:
        """Close now; what is written is still sent."""
        self._is_closing = True
        if self.transport is not None:
            self.closing_since = self.closing_since or self._loop.time()
            self.transport.close()

    def abort(self) -> None:
        """Close now; what the sender has not taken is lost."""
        if self.transport is not None:
            self.transport.abort()

    def _linger(self) -> None:
        """Close, but not before the sender had time to read the answer.

        Closing with bytes unread resets the connection, and the reset may overtake the answer. Until then what comes is
        dropped. Source: RFC 9112 §9.6.
        """
        server, transport = self.server, self.transport
        if transport is None or self.is_half_closed or server.lingering >= server.limits.lingering:
            self.force_close()
            return
        self.is_lingering = self._is_closing = True
        server.lingering += 1
        self._drop_queue()
        if transport.can_write_eof():
            transport.write_eof()
        if self._reads_slowly:
            transport.resume_reading()
        self._loop.call_later(_LINGER_SECONDS, self._end_lingering)

    def _end_lingering(self) -> None:
        self.server.lingering -= 1
        self.force_close()

    def _drop_queue(self) -> None:
        """What waits will not be served."""
        for one in self._parser.requests:
            self._end_counting(one)
        self._parser.requests.clear()
        self._unparsed = b""
        self.server.reading_bytes -= self._counted_unparsed
        self._counted_unparsed = 0


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
        self.durations = metrics.Histogram(metrics.SECONDS)
        """From a request's beginning to its answer, in seconds."""

    def __call__(self) -> Connection:
        """A protocol for a new connection: what loop.create_server() asks for."""
        return Connection(self, asyncio.get_running_loop())

    async def watch(self) -> None:
        """Close connections that are idle, that take nothing, or whose header does not end. Runs until cancelled."""
        loop, limits = asyncio.get_running_loop(), self.limits
        while True:
            await asyncio.sleep(min(0.5, limits.header_seconds / 4))
            now = loop.time()
            for connection in list(self.connections):
                stuck_since = connection.paused_since or connection.closing_since
                if stuck_since and stuck_since < now - limits.answer_seconds:
                    connection.abort()
                elif not connection.busy and not connection.is_lingering:
                    self._watch_idle(connection, now)

    def _watch_idle(self, connection: Connection, now: float) -> None:
        if connection.paused_since or connection.closing_since:
            return
        began_at = connection.header_began_at
        if began_at:
            if began_at < now - self.limits.header_seconds:
                self._end_slow_header(connection)
        elif connection.idle_since < now - self.limits.idle_seconds:
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
        if connection.has_begun_header:
            connection.hang_up(model.RefusedReason.BodyTimeout)
        else:
            connection.force_close()
