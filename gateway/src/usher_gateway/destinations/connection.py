"""One HTTP/1.1 connection to a destination, for one request at a time: small, fast, and trusting the peer in nothing.

aiohttp's own client costs three to four times the processor time of this (docs/performance.md), half of what a
visit may cost. The parsing, where the danger is, is aiohttp's (llhttp).
"""

import asyncio
import select
import typing
from collections.abc import Mapping

from aiohttp import base_protocol, http_exceptions, http_parser, streams

from usher_gateway.destinations import exchange

MAX_RECEIVED_BYTES = 64 * 1024
"""Bytes received for one request, whatever they are: interim (1xx) answers, head, chunk headers, trailers."""

BODY_SECONDS = 1.0
"""How long the rest of an answer is waited for after its head: the status has decided already."""

_LATE_SECONDS = 0.1
"""A time limit that is noticed so much too late was slept through, by the process or its machine."""

_BUFFER_BYTES = 64 * 1024
"""The parser's own bound; never reached, since the connection ends after ``exchange.MAX_ANSWER_BYTES``."""

_PIECE_BYTES = 4096
_HEAD_END = b"\r\n\r\n"


class Connection(base_protocol.BaseProtocol):
    """A connection that is idle, or waits for one answer. Every way it ends sets the waiting future, once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.reusable = False
        """Whether the last exchange ended such that another request may follow."""
        self.silent = True
        """Whether nothing of an answer has come since the last request was written."""
        self.idle_since = 0.0
        self._waiter: asyncio.Future[exchange.Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._message: http_parser.RawResponseMessage | None = None
        self._content: streams.StreamReader | None = None
        self._received = 0
        self._deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self.transport = typing.cast("asyncio.Transport", transport)
        self._parser = http_parser.HttpResponseParser(
            self, self._loop, _BUFFER_BYTES, read_until_eof=True, auto_decompress=False
        )
        self._unread = select.poll()
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.reusable = True

    @property
    def is_quiet(self) -> bool:
        """Whether the peer has sent nothing, and not closed, since its last answer; the loop may not know it yet."""
        return not self._unread.poll(0)

    def ask(self, data: bytes, deadline: float) -> asyncio.Future[exchange.Answer]:
        """Write a request and wait for its answer until ``deadline`` (the loop's time). Only when reusable."""
        assert self.transport is not None
        assert self._waiter is None
        self.reusable = False
        self.silent = True
        self._received = 0
        self._deadline = deadline
        self._waiter = waiter = self._loop.create_future()
        self._timer = self._loop.call_at(deadline, self._time_is_up)
        self.transport.write(data)
        return waiter

    def abort(self) -> None:
        """End the connection at once; whoever waits learns Reset."""
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()
        self._finish_without_head(exchange.SendError.Reset)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self._waiter is None:
            self.abort()  # nobody asked: whatever this is, it must not become the answer to the next request
            return
        self.silent = False
        try:
            self._take(data)
        except (http_exceptions.HttpProcessingError, ValueError):
            self._end(exchange.SendError.BadAnswer)

    def pause_reading(self) -> None:
        """Asked for by a full buffer of the parser: the exchange ends long before (``MAX_ANSWER_BYTES``)."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Nothing was paused. Must not feed the parser again from within it, as the base class does."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Part of asyncio.Protocol."""
        super().connection_lost(exc)
        self.reusable = False
        self.transport = None
        self._end(exchange.SendError.Reset)
        self._parser = None

    def _take(self, data: bytes) -> None:
        """Feed what came in small pieces: what one piece can make the parser build is small too."""
        for start in range(0, len(data), _PIECE_BYTES):
            if self._waiter is None:
                self.abort()  # the answer was whole, and more came than was asked for
                return
            self._take_piece(data[start : start + _PIECE_BYTES])

    def _take_piece(self, data: bytes) -> None:
        """Feed the first head apart from what follows it, so that a bad body cannot make a good head unread."""
        end = data.find(_HEAD_END) + len(_HEAD_END) if self._message is None else 0
        if len(_HEAD_END) <= end < len(data):
            self._feed(data[:end])
            data = data[end:]
            if self._waiter is None:
                self.abort()
                return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None
        messages, upgraded, _ = self._parser.feed_data(data)
        for message, content in messages:
            if self._message is not None:
                self._answer(keep=False)  # more than was asked for
                return
            if message.code >= 200:
                self._message, self._content = message, content
            elif message.code == 101 or message.code < 100:
                upgraded = True
        if upgraded:
            self._end(exchange.SendError.BadAnswer)
        elif self._message is None:
            self._count(data)
        else:
            self._take_body(data)

    def _count(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MAX_RECEIVED_BYTES:
            self._end(exchange.SendError.BadAnswer)

    def _take_body(self, data: bytes) -> None:
        assert self._content is not None
        assert self._message is not None
        if self._content.is_eof():
            self._answer(keep=not self._message.should_close)
        elif self._content.total_bytes > exchange.MAX_ANSWER_BYTES:
            self._answer(keep=False)
        else:
            self._hurry()
            self._count(data)

    def _hurry(self) -> None:
        """Wait for the rest of an answer for ``BODY_SECONDS`` at most."""
        if self._deadline > self._loop.time() + BODY_SECONDS:
            self._deadline = self._loop.time() + BODY_SECONDS
            assert self._timer is not None
            self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._time_is_up)

    def _time_is_up(self) -> None:
        """The end, unless it was slept through: then what came meanwhile is read first, lest it is sent once more."""
        if self._loop.time() > self._deadline + _LATE_SECONDS:
            self._timer = self._loop.call_later(_LATE_SECONDS, self._end, exchange.SendError.Timeout)
        else:
            self._end(exchange.SendError.Timeout)

    def _end(self, error: exchange.SendError) -> None:
        """The exchange is over, and so is the connection: with the answer if its head has come, else with ``error``."""
        if self._message is not None:
            self._answer(keep=False)
            return
        self._finish_without_head(error)
        if self.transport is not None:
            self.transport.abort()

    def _answer(self, *, keep: bool) -> None:
        message, content = self._message, self._content
        assert message is not None
        assert content is not None
        readable = content.total_bytes > 0 and content.exception() is None
        body = content.read_nowait(exchange.MAX_ANSWER_BYTES) if readable else b""
        headers: Mapping[str, str] = message.headers
        self._message = self._content = None
        transport = self.transport
        if transport is not None:
            self.reusable = keep and content.is_eof() and not transport.get_write_buffer_size()
            if not self.reusable:
                transport.abort()
        self._finish(exchange.Answer(message.code, headers, body))

    def _finish_without_head(self, error: exchange.SendError) -> None:
        self._message = self._content = None
        self._finish(exchange.Answer(error=error))

    def _finish(self, answer: exchange.Answer) -> None:
        waiter, self._waiter = self._waiter, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)
