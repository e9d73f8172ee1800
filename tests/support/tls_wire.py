"""A TLS client whose records and segments a test controls, which a library's client does not allow."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import cast

LIMIT_SECONDS = 60.0
_READ_BYTES = 65_536


class Client:
    """One connection. ``reader`` and ``writer`` carry the encrypted bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self.reader, self.writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        """Return the first bytes of a handshake."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send([self._outgoing.read()])
                self._incoming.write(await self.reader.read(_READ_BYTES))
            else:
                await self.send([self._outgoing.read()])
                return

    def records(self, pieces: Iterable[bytes]) -> bytes:
        """Encrypt each piece as one record (several beyond 16 KiB); return the bytes to send."""
        for piece in pieces:
            left = memoryview(piece)
            while left:
                left = left[self._tls.write(left) :]
        return self._outgoing.read()

    async def send(self, segments: Iterable[bytes], pause_seconds: float = 0) -> None:
        """Send segments without encrypting them."""
        for segment in segments:
            self.writer.write(segment)
            await self.writer.drain()
            await asyncio.sleep(pause_seconds)

    async def read_all(self, limit_seconds: float = LIMIT_SECONDS) -> bytes:
        """Return everything that the peer sends until it closes, with or without a TLS shutdown."""
        received = b""
        async with asyncio.timeout(limit_seconds):
            while True:
                try:
                    part = self._tls.read(_READ_BYTES)
                except ssl.SSLWantReadError:
                    raw = await self.reader.read(_READ_BYTES)
                    if not raw:
                        return received
                    self._incoming.write(raw)
                else:
                    if not part:
                        return received
                    received += part

    def read_no_more(self) -> None:
        """Stop reading, so that the kernel's buffers fill, and then the peer's."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def abort(self) -> None:
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connect(port: int, context: ssl.SSLContext, *, receive_bytes: int = 0) -> AsyncIterator[Client]:
    """Open a connection without a handshake; ``receive_bytes`` is the size of the kernel's receive buffer."""
    loop = asyncio.get_running_loop()
    raw = socket.socket()
    raw.setblocking(False)
    if receive_bytes:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await loop.sock_connect(raw, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=raw)
    client = Client(reader, writer, context)
    try:
        yield client
    finally:
        client.abort()
