"""One request as the steps see it, and its body as it comes in."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Protocol

from usher_gateway import model
from usher_gateway.ingest import answer

NO_TIME = 0.1
"""A body has to be there this much before the deadline: the answer takes its time too."""

HARD_LIMIT_BYTES = 8 * 1024 * 1024
"""More than this, on the wire or inflated, is refused with 413 (design §2.3)."""

INLINE_BYTES = 64 * 1024
"""A body so small is worked on where it stands: no neighbour notices."""


class Headers(Mapping[str, str]):
    """Header fields, names in any case; bytes that are no UTF-8 become surrogates."""

    __slots__ = ("_fields", "_more")

    def __init__(self) -> None:
        self._fields: dict[bytes, bytes] = {}
        self._more: dict[bytes, list[bytes]] | None = None
        """Further field lines of a name."""

    def add(self, name: bytes, value: bytes) -> None:
        """Add a field line."""
        name = name.lower()
        if name not in self._fields:
            self._fields[name] = value
            return
        if self._more is None:
            self._more = {}
        self._more.setdefault(name, []).append(value)

    def repeats(self, name: bytes) -> bool:
        """Whether a name (lower case) has more than one field line."""
        return self._more is not None and name in self._more

    def bytes_of(self, name: bytes) -> bytes:
        """The value of a name's (lower case) first field line as sent; empty if there is none."""
        return self._fields.get(name, b"")

    def first(self, name: bytes) -> str:
        """The value of a name's (lower case) first field line; ``""`` if there is none."""
        value = self._fields.get(name)
        return value.decode("utf-8", "surrogateescape") if value else ""

    def getall(self, name: str) -> list[str]:
        """The values of all field lines of a name."""
        key = name.lower().encode()
        if key not in self._fields:
            return []
        values = [self._fields[key], *(self._more or {}).get(key, ())]
        return [value.decode("utf-8", "surrogateescape") for value in values]

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower().encode()].decode("utf-8", "surrogateescape")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower().encode() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter([name.decode("latin-1") for name in self._fields])

    def __len__(self) -> int:
        return len(self._fields)


class Sender(Protocol):
    """The connection that a request came over."""

    @property
    def peer(self) -> str:
        """The address at the other end; ``""`` if it is gone."""

    @property
    def is_connected(self) -> bool:
        """Whether an answer can still be written, and nothing speaks for a sender that has given up."""

    def ask_for_body(self) -> None:
        """Say 100 Continue."""


class Request:
    """One request: no more than the steps need."""

    __slots__ = (
        "_body",
        "_broken",
        "_sender",
        "_waiter",
        "began_at",
        "counted_bytes",
        "deadline",
        "declared_bytes",
        "headers",
        "host",
        "is_complete",
        "is_old",
        "keep_alive",
        "method",
        "size",
        "target",
    )

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._body: bytes | bytearray = b""
        self._broken: model.RefusedReason | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.headers = Headers()
        self.target = self.host = self.method = ""
        self.began_at = self.deadline = 0.0
        """When its first byte came (of a connection's first request: when that was accepted), and until when it has to
        be answered; on the event loop's clock."""
        self.keep_alive = True
        self.is_old = False
        """Whether it is of HTTP/1.0."""
        self.is_complete = False
        """Whether the whole body is here."""
        self.size = 0
        """Bytes of the body that are here."""
        self.declared_bytes = -1
        """The body's length as declared; -1 where it comes in chunks."""
        self.counted_bytes = 0
        """What the server counts of it among the bodies being read."""

    @property
    def peer(self) -> str:
        """The address at the other end of the connection; ``""`` if it is gone."""
        return self._sender.peer

    @property
    def is_connected(self) -> bool:
        """Whether an answer can still be written, and nothing speaks for a sender that has given up."""
        return self._sender.is_connected

    @property
    def needs_no_time(self) -> bool:
        """Whether nothing but the commit has to be waited for: a small body, complete and as it is."""
        return self.is_complete and self.size <= INLINE_BYTES and not self.headers.bytes_of(b"content-encoding")

    def name_place(self, target: str) -> None:
        """Set target and host; the absolute form names the host itself (RFC 9112 §3.2.2)."""
        self.host = self.headers.first(b"host")
        self.target = target
        if target.startswith("/"):
            return
        scheme, separator, rest = target.partition("://")
        if separator and scheme.lower() in {"http", "https"}:
            self.host, slash, path = rest.partition("/")
            self.target = slash + path if slash else "/"

    def add(self, piece: bytes) -> None:
        """Take in a piece of the body: pieces become one, since there may be millions of them."""
        self.size += len(piece)
        if self._broken is not None:
            return
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytearray):
            self._body += piece
        else:
            self._body = bytearray(self._body) + piece
        if self.size > HARD_LIMIT_BYTES:
            self.end_early(model.RefusedReason.TooLarge)

    def complete(self) -> None:
        """The body is here."""
        self.is_complete = True
        self._wake()

    def end_early(self, reason: model.RefusedReason) -> None:
        """The rest of the body will not come, or is not wanted."""
        if not self.is_complete and self._broken is None:
            self._broken = reason
            self.drop_body()
            self._wake()

    def drop_body(self) -> None:
        """Nobody will read it: an idle connection holds its last request, but not its body."""
        self._body = b""

    async def read_body(self) -> bytes:
        """The body as sent; it can be read once.

        Raises:
            RefusedError: TooLarge, BodyTimeout, BadRequest, Disconnected, QueueFull.
        """
        if self._broken is None and self.declared_bytes > HARD_LIMIT_BYTES:
            raise answer.RefusedError(model.RefusedReason.TooLarge)
        if not self.is_complete and self._broken is None:
            await self._wait()
        if self._broken is not None:
            raise answer.RefusedError(self._broken)
        body, self._body = self._body, b""
        return bytes(body)

    async def _wait(self) -> None:
        if not self.is_old and self.headers.first(b"expect").lower() == "100-continue":
            self._sender.ask_for_body()  # RFC 9110 §10.1.1, where HTTP/1.0 is to be left alone
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout_at(self.deadline - NO_TIME):
                await self._waiter
        except TimeoutError:
            raise answer.RefusedError(model.RefusedReason.BodyTimeout) from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
