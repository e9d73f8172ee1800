"""The sender for destinations of type HTTP: one request, one answer, within one time limit, whatever the peer does.

Follows no redirect, keeps no cookie, knows no proxy, decompresses nothing, reads 1 KiB of an answer. Every address is
put before the guard right before the connection is made to it.
"""

import asyncio
import collections
import contextlib
import socket
import ssl

import msgspec
import yarl

from usher_gateway.destinations import address_guard, connection, exchange, resolver

IDLE_SECONDS = 15.0
"""How long a connection is kept for the next request; common servers close theirs after 5 to 75 s."""

MAX_IDLE_PER_DESTINATION = 64
"""Idle connections kept to one destination."""

MAX_IDLE = 2048
"""Idle connections of all destinations together."""

STALE_SECONDS = 1.0
"""A kept connection that ends this soon after a request, without a byte, was closed by the peer meanwhile: the request
is sent once more on a new connection."""

_SWEEP_SECONDS = 5.0
_MOST_ADDRESSES = 4
"""Addresses of one name that are tried; the time limit is shared among them."""


class Endpoint(msgspec.Struct, frozen=True):
    """What a URL says, taken apart once."""

    host: str
    port: int
    tls: bool
    target: str
    authority: str
    """The ``host`` header."""


class _Pool(msgspec.Struct):
    """The idle connections to one URL, the warmest last."""

    url: str
    endpoint: Endpoint
    idle: collections.deque[connection.Connection]


def parse_endpoint(url: str) -> Endpoint | None:
    """Take a destination's URL apart; None where no request can be sent to it."""
    try:
        parsed = yarl.URL(url)
        host, port = parsed.raw_host, parsed.port
    except ValueError:
        return None
    if parsed.scheme not in ("http", "https") or not host or not port or parsed.raw_user or parsed.raw_password:
        return None
    authority = f"[{host}]" if ":" in host else host
    if not parsed.is_default_port():
        authority = f"{authority}:{port}"
    return Endpoint(host, port, parsed.scheme == "https", parsed.raw_path_qs, authority)


def encode(endpoint: Endpoint, request: exchange.Request) -> bytes | None:
    """The request's bytes, or None where a header would not stay within its line."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in request.headers])
    head = (
        f"{request.method} {endpoint.target} HTTP/1.1\r\nhost: {endpoint.authority}\r\n"
        f"{fields}content-length: {len(request.body)}\r\n\r\n"
    )
    lines = len(request.headers) + 4
    if head.count("\n") != lines or head.count("\r") != lines or "\0" in head:
        return None
    try:
        return head.encode() + request.body
    except UnicodeEncodeError:
        return None


def client_tls() -> ssl.SSLContext:
    """The system's authorities, the host name verified, TLS 1.2 or later."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class HTTPSender:
    """Sends requests over kept connections. Belongs to the event loop in which it is made."""

    def __init__(
        self,
        guard: address_guard.AddressGuard,
        names: resolver.Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        max_idle: int = MAX_IDLE,
    ) -> None:
        self._guard = guard
        self._names = names or resolver.Resolver()
        self._tls = tls or client_tls()
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, _Pool] = {}
        self._idle, self._max_idle = 0, max_idle
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    @property
    def idle_connections(self) -> int:
        """Connections kept for later requests."""
        return self._idle

    async def send(self, request: exchange.Request, timeout_seconds: float) -> exchange.Answer:
        """Send one request; the answer, or the code of why there is none, within ``timeout_seconds``.

        Never raises but for cancellation, which ends the connection.
        """
        started = self._loop.time()
        pool = self._pool(request.url)
        data = encode(pool.endpoint, request) if pool else None
        if pool is None or data is None:
            return exchange.Answer(error=exchange.SendError.BadRequest)
        deadline = started + timeout_seconds
        kept = self._take(pool)
        if kept is not None:
            answer = await self._exchange(pool, kept, data, deadline)
            stale = answer.error is exchange.SendError.Reset and kept.silent
            if not stale or self._loop.time() > started + STALE_SECONDS:
                return answer
        opened = await self._open(pool.endpoint, deadline)
        if isinstance(opened, exchange.SendError):
            return exchange.Answer(error=opened)
        return await self._exchange(pool, opened, data, deadline)

    async def close(self) -> None:
        """End what is idle; what is in flight belongs to its callers. Idempotent."""
        self._sweeper.cancel()
        self._end_idle()
        await self._names.close()

    def _end_idle(self) -> None:
        for pool in self._pools.values():
            for kept in pool.idle:
                kept.abort()
        self._pools.clear()
        self._idle = 0

    def _pool(self, url: str) -> _Pool | None:
        pool = self._pools.get(url)
        if pool is None:
            endpoint = parse_endpoint(url)
            if endpoint is None:
                return None
            pool = self._pools[url] = _Pool(url, endpoint, collections.deque())
        return pool

    def _take(self, pool: _Pool) -> connection.Connection | None:
        while pool.idle:
            kept = pool.idle.pop()
            self._idle -= 1
            if kept.reusable and kept.is_quiet:
                return kept
            kept.abort()
        return None

    async def _exchange(
        self, pool: _Pool, used: connection.Connection, data: bytes, deadline: float
    ) -> exchange.Answer:
        if not used.reusable:
            return exchange.Answer(error=exchange.SendError.Reset)  # it ended as soon as it was made
        try:
            answer = await used.ask(data, deadline)
        except asyncio.CancelledError:
            used.abort()
            raise
        if used.reusable:
            self._keep(pool, used)
        return answer

    def _keep(self, pool: _Pool, used: connection.Connection) -> None:
        if self._idle >= self._max_idle or len(pool.idle) >= MAX_IDLE_PER_DESTINATION or self._sweeper.cancelled():
            used.abort()
            return
        used.idle_since = self._loop.time()
        self._pools.setdefault(pool.url, pool).idle.append(used)  # the sweep may have forgotten it meanwhile
        self._idle += 1

    async def _open(self, endpoint: Endpoint, deadline: float) -> connection.Connection | exchange.SendError:
        try:
            async with asyncio.timeout_at(deadline):
                found = await self._names.resolve(endpoint.host, endpoint.port)
        except TimeoutError:
            return exchange.SendError.NameNotResolved
        failure = exchange.SendError.AddressForbidden if found else exchange.SendError.NameNotResolved
        found = found[:_MOST_ADDRESSES]
        for tried, (family, address) in enumerate(found):
            if self._guard.refusal(endpoint.host, endpoint.port, address[0]) is not None:
                continue
            now = self._loop.time()
            opened = await self._connect(endpoint, family, address, now + (deadline - now) / (len(found) - tried))
            if isinstance(opened, connection.Connection):
                return opened
            failure = opened
        return failure

    async def _connect(
        self, endpoint: Endpoint, family: socket.AddressFamily, address: tuple[str | int, ...], until: float
    ) -> connection.Connection | exchange.SendError:
        """Connect to this address and no other: nothing is resolved from here on."""
        try:
            plain = await self._make_socket(family)
        except OSError:
            return exchange.SendError.ConnectError
        connected = False
        try:
            plain.setblocking(False)
            async with asyncio.timeout_at(until):
                await self._loop.sock_connect(plain, address)
            connected = True
        except OSError:
            return exchange.SendError.ConnectError
        finally:
            if not connected:
                plain.close()
        return await self._start(endpoint, plain, until)

    async def _make_socket(self, family: socket.AddressFamily) -> socket.socket:
        """A socket; where there is no descriptor left, those of idle connections are needed more here."""
        with contextlib.suppress(OSError):
            return socket.socket(family, socket.SOCK_STREAM)
        self._end_idle()
        await asyncio.sleep(0)  # transports let go of their sockets in the loop's next turn
        return socket.socket(family, socket.SOCK_STREAM)

    async def _start(
        self, endpoint: Endpoint, plain: socket.socket, until: float
    ) -> connection.Connection | exchange.SendError:
        """Put the protocol, and TLS where the URL wants it, on a connected socket, which is closed if that fails."""
        try:
            async with asyncio.timeout_at(until):
                _, opened = await self._loop.create_connection(
                    lambda: connection.Connection(self._loop),
                    sock=plain,
                    ssl=self._tls if endpoint.tls else None,
                    server_hostname=endpoint.host if endpoint.tls else None,
                )
        except TimeoutError:
            return exchange.SendError.Timeout
        except (OSError, ssl.SSLError):
            return exchange.SendError.TLSError if endpoint.tls else exchange.SendError.ConnectError
        return opened

    def _sweep(self) -> None:
        """End connections that were idle for too long, forget URLs that have none."""
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        oldest = self._loop.time() - IDLE_SECONDS
        for url in list(self._pools):
            pool = self._pools[url]
            self._idle -= _drop(pool.idle, oldest)
            if not pool.idle:
                del self._pools[url]


def _drop(idle: collections.deque[connection.Connection], oldest: float) -> int:
    """End connections that are idle since before ``oldest`` or that the peer ended; how many went."""
    before = len(idle)
    for _ in range(before):
        kept = idle.popleft()
        if kept.reusable and kept.idle_since >= oldest:
            idle.append(kept)
        else:
            kept.abort()
    return before - len(idle)
