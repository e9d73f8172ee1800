"""HTTP over a socket with exactly the bytes that a test gives."""

import asyncio
import ssl as tls
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import msgspec

LIMIT_SECONDS = 20.0


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    """Lower-case names."""
    names: tuple[bytes, ...]
    """Names as sent, in order."""
    raw: bytes

    @property
    def acknowledges(self) -> bool:
        """Return whether Purple accepts this answer: 200 with the header."""
        return self.status == 200 and self.headers.get("wifiwebhooklistener") == "1"

    @property
    def has_header(self) -> bool:
        return "wifiwebhooklistener" in self.headers

    @property
    def without_date(self) -> bytes:
        return b"\r\n".join(line for line in self.raw.split(b"\r\n") if not line.startswith(b"Date:"))


class ClosedError(Exception):
    """The peer closed before an answer was complete."""


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_slowly(self, data: bytes, size: int = 1) -> None:
        """Send data in pieces that arrive separately."""
        for start in range(0, len(data), size):
            self.writer.write(data[start : start + size])
            await self.writer.drain()
            await asyncio.sleep(0)

    def send_eof(self) -> None:
        self.writer.write_eof()

    async def answer(self, limit: float = LIMIT_SECONDS) -> Answer:
        async with asyncio.timeout(limit):
            return await read_answer(self.reader)

    async def is_closed(self, limit: float = LIMIT_SECONDS) -> bool:
        """Return whether the peer closes within the limit without sending another byte."""
        try:
            async with asyncio.timeout(limit):
                return await self.reader.read(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def abort(self) -> None:
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise ClosedError(f"closed after {len(error.partial)} bytes") from None
    except ConnectionError:
        raise ClosedError("reset") from None
    lines = head[:-4].split(b"\r\n")
    pairs = [line.split(b": ", 1) for line in lines[1:]]
    headers = {name.decode().lower(): value.decode() for name, value in pairs}
    try:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        raise ClosedError("closed within the body") from None
    return Answer(int(lines[0].split(b" ")[1]), headers, tuple(name for name, _ in pairs), head + body)


@asynccontextmanager
async def connect(
    port: int, context: tls.SSLContext | None = None, server_name: str = "localhost"
) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=server_name if context else None
    )
    wire = Wire(reader, writer)
    try:
        yield wire
    finally:
        await wire.close()


async def exchange(port: int, data: bytes, limit: float = LIMIT_SECONDS) -> Answer:
    """Send one request over a new connection."""
    async with connect(port) as wire:
        await wire.send(data)
        return await wire.answer(limit)


def request(
    target: str,
    body: bytes = b"",
    method: str = "POST",
    host: str = "hooks.test",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    given = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body))} | dict(headers or {})
    if method in {"GET", "HEAD", "OPTIONS"} and not body:
        del given["Content-Length"]
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def chunked(target: str, pieces: list[bytes], host: str = "hooks.test", extra: str = "") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n{extra}\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
