"""The client for destinations of type HTTP: one request and one answer within one time limit.

``DestinationClient`` sends with ``aiohttp.ClientSession``. It follows no redirect, keeps no cookie, uses no proxy from
the environment and decompresses nothing. It adds three things to aiohttp, because tenants choose the peers:

- The socket factory asks the address guard about the very address that is about to be connected. The check has to be
  there, because aiohttp does not ask its resolver about IP literals.
- ``ReceiveLimiter`` limits what a peer can send for one request, and closes an idle connection over which the peer
  sends something, because aiohttp would take those bytes for the answer to the next request.
- If a kept connection ends before the first byte of an answer, the client sends the request once more over a new
  connection. aiohttp does that only for idempotent methods.

aiohttp's connector does not tell the socket factory and the resolver which request needs them. ``_Attempt`` does, in a
context variable of the task that sends.
"""

import asyncio
import collections
import contextlib
import contextvars
import errno
import functools
import io
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from typing import Any

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection

from usher_gateway import destinations
from usher_gateway.destinations import DestinationAnswer, DestinationRequest, SendError
from usher_gateway.destinations.address_guard import AddressGuard
from usher_gateway.destinations.fair_slots import FairSlots
from usher_gateway.destinations.receive_limiter import ReceiveLimiter
from usher_gateway.destinations.resolver import Resolver
from usher_gateway.destinations.tls import TlsContexts, note_seconds
from usher_gateway.metered_tls import CURVES

# How long an idle connection is kept for the next request. Common servers close theirs after 5 to 75 s.
KEEPALIVE_SECONDS = 15.0

MAX_IDLE = 2048  # Idle connections kept to all destinations together
MAX_IDLE_PER_DESTINATION = 64  # Idle connections kept for one destination

ORDINARY_SECONDS = 0.00025  # CPU time of an answer that is charged to nobody. An ordinary answer takes 0.05 to 0.1 ms.

# Connections that a namespace may open at the same time with TLS settings of its own, because its own authority decides
# how long a handshake takes. A destination or a tenant gets at most half of them.
_OWN_HANDSHAKES = 6

_MAX_CURVES = 4096  # Peers that are remembered because they lack the most common curve

# How long the client waits for the rest of an answer after its head, because the status decides the outcome.
BODY_SECONDS = 1.0

STALE_SECONDS = 1.0  # If a kept connection ends within this time after a request, the peer had closed it meanwhile
_STREAMED_BODY_BYTES = 256 * 1024  # aiohttp writes larger bodies in pieces, so that they do not block the event loop

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)  # `_exchange` limits the time instead

_Peer = tuple[str | None, int | None]  # Host and port


class DestinationClient:
    """Sends requests over kept connections. Belongs to the event loop in which it is made."""

    def __init__(
        self,
        *,
        guard: AddressGuard,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        max_idle: int = MAX_IDLE,
    ) -> None:
        self._guard = guard
        self._resolver = resolver or Resolver()
        self._contexts = TlsContexts(tls)
        self._curves: dict[_Peer, str] = {}  # The curves of peers that lack the first one
        self._connector = _GuardedConnector(guard=guard, resolver=self._resolver, max_idle=max_idle)
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_start.append(_check_turn)
        self._session = self._new_session()
        self._session_with_turns = self._new_session(trace)  # apart, because a trace costs 16 us for each request

    def _new_session(self, *traces: aiohttp.TraceConfig) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            request_class=_PlainRequest,
            trace_configs=list(traces),
        )

    def literal_refusal(self, url: str) -> str | None:
        """Return why no request can be sent to the address in a URL; None for a host name."""
        return literal_refusal(self._guard, url)

    @property
    def idle_connections(self) -> int:
        """Connections that are open and wait for a request."""
        return len(self._connector.idle)

    async def send(self, request: DestinationRequest, timeout_seconds: float) -> DestinationAnswer:
        """Send one request. Returns within ``timeout_seconds``, and raises only ``CancelledError``."""
        url = _parse_url(request.url, is_encoded=True) if request.is_url_secret else parse_url(request.url)
        if url is None:
            return DestinationAnswer(error=SendError.BadRequest)
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        if url.scheme == "http":
            return await self._send_with_retry(request, _Attempt(url, request), deadline)
        return await self._send_over_tls(url, request, deadline)

    async def _send_over_tls(self, url: yarl.URL, request: DestinationRequest, deadline: float) -> DestinationAnswer:
        peer, answer = (url.raw_host, url.port), DestinationAnswer()
        first = self._curves.get(peer, CURVES[0])
        for curve in (first, *[curve for curve in CURVES if curve != first]):
            attempt = _Attempt(url, request, curve)
            note_seconds.set(attempt.note_tls)
            answer = await self._send_with_retry(request, attempt, deadline)
            if answer.error is not SendError.TLSError:
                self._note_curve(peer, curve)
            if not attempt.may_lack_curve:
                break
        return answer

    def _note_curve(self, peer: _Peer, curve: str) -> None:
        if curve != CURVES[0]:
            self._curves[peer] = curve
            if len(self._curves) > _MAX_CURVES:
                del self._curves[next(iter(self._curves))]
        elif peer in self._curves:
            del self._curves[peer]

    async def _send_with_retry(
        self, request: DestinationRequest, attempt: "_Attempt", deadline: float
    ) -> DestinationAnswer:
        clock = asyncio.get_running_loop().time
        started = clock()
        answer = await self._send_once(request, attempt, deadline)
        if answer.error is None:
            return answer
        is_stale = answer.error is SendError.Reset and attempt.is_silent_on_kept_connection
        if (is_stale and clock() < started + STALE_SECONDS) or attempt.freed_descriptors:
            await asyncio.sleep(0)  # closed transports release their descriptors in the loop's next turn
            again = _Attempt(attempt.url, request, attempt.curve, needs_new_connection=True)
            note_seconds.set(again.note_tls)
            second = await self._send_once(request, again, deadline)
            return answer if is_stale and second.is_withdrawn else second  # a stale connection's request was written
        return answer

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        await self._session.close()
        await self._session_with_turns.close()
        await self._connector.close()
        await self._resolver.close()

    async def _send_once(self, request: DestinationRequest, attempt: "_Attempt", deadline: float) -> DestinationAnswer:
        _current_attempt.set(attempt)
        try:
            return await self._exchange(request, attempt, deadline)
        finally:
            if request.charge is not None and attempt.cpu_seconds > ORDINARY_SECONDS:
                request.charge(attempt.cpu_seconds - ORDINARY_SECONDS)

    async def _exchange(self, request: DestinationRequest, attempt: "_Attempt", deadline: float) -> DestinationAnswer:
        body = request.body
        try:
            is_tls = attempt.url.scheme == "https"
            context = await self._contexts.get(request.tls, attempt.curve) if is_tls else True
        except (ssl.SSLError, ValueError, OSError):  # the operator and `usher check` say why
            return DestinationAnswer(error=SendError.TLSError)
        try:
            async with asyncio.timeout_at(deadline):
                session = self._session_with_turns if attempt.needs_turn else self._session
                response = await session.request(
                    request.method,
                    attempt.url,
                    headers=request.headers,
                    data=(body or None) if len(body) <= _STREAMED_BODY_BYTES else io.BytesIO(body),
                    allow_redirects=False,
                    timeout=_NO_TIMEOUT,
                    ssl=context,
                    server_hostname=(request.tls.server_name or None) if request.tls is not None else None,
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            attempt.abort_connection()
            if attempt.is_withdrawn:
                return DestinationAnswer(is_withdrawn=True)
            return DestinationAnswer(error=attempt.error_code(error))
        except asyncio.CancelledError:
            attempt.abort_connection()
            raise
        try:
            body, is_complete = await _read_start(response.content, deadline, whole=request.reads_answer)
        finally:
            if response.connection is not None:  # the answer has not ended, or the request is not sent whole
                attempt.abort_connection()
                response.close()
        if response.status < 200:  # 101: the peer wants to change the protocol
            return DestinationAnswer(error=SendError.BadAnswer)
        return DestinationAnswer(response.status, response.headers, body, is_complete=is_complete)


def _parse_url(url: str, *, is_encoded: bool = False) -> yarl.URL | None:
    """Parse a destination's URL. Returns None if no request can be sent to it.

    ``is_encoded``: keep what is percent-encoded, as a URL's variables are.
    """
    try:
        parsed = yarl.URL(url, encoded=is_encoded)
        host, port = parsed.raw_host, parsed.port
    except ValueError:
        return None
    if parsed.scheme not in ("http", "https") or not host or not port or parsed.raw_user or parsed.raw_password:
        return None
    return parsed


parse_url = functools.lru_cache(maxsize=4096)(_parse_url)  # The same from a cache, for URLs without secrets


def literal_refusal(guard: AddressGuard, url: str) -> str | None:
    """Return why the guard refuses the address in a URL. None: it allows the address, or the host is a name."""
    parsed = parse_url(url)
    host, port = (parsed.raw_host, parsed.port) if parsed is not None else (None, None)
    if not host or not port:
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return guard.refusal(host, port, host)


async def _read_start(content: aiohttp.StreamReader, deadline: float, *, whole: bool) -> tuple[bytes, bool]:
    """Read the start of a body; return it, and whether it is the whole body.

    If a body is late, cut off or malformed, returns what came. ``whole``: the outcome depends on it.
    """
    read = b""
    most = destinations.MAX_JUDGED_BYTES if whole else destinations.MAX_ANSWER_BYTES
    ends_at = deadline if whole else min(deadline, asyncio.get_running_loop().time() + BODY_SECONDS)
    try:
        if content.is_eof():
            read = await content.read(most)
            return read, content.at_eof()
        async with asyncio.timeout_at(ends_at):
            while missing := most - len(read):
                piece = await content.read(missing)
                if not piece:
                    break
                read += piece
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, TimeoutError):
        return read, False
    return read, content.at_eof()


class _PlainRequest(aiohttp.ClientRequest):
    """A request without ``Accept``, ``Accept-Encoding`` and aiohttp's ``User-Agent``.

    The argument ``skip_auto_headers`` does the same, but costs 14 us of CPU time for each request.
    """

    @property
    def connection_key(self) -> ConnectionKey:
        """Keep the connections of destinations apart.

        Else a peer could answer in advance the next request, which may be another tenant's to the same host.
        """
        return super().connection_key._replace(proxy_headers_hash=hash(_current_attempt.get().destination))

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        """Add no header."""

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        """Write head and body, unless the attempt was withdrawn since it got its connection."""
        if _current_attempt.get().may_send():
            await super().write_bytes(writer, conn, content_length)
        else:
            conn.close()  # the task that waits for the answer gets an error


class _Attempt:
    """One try to send a request: the input of the connector, and what happened during the try."""

    def __init__(
        self, url: yarl.URL, request: DestinationRequest, curve: str = CURVES[0], *, needs_new_connection: bool = False
    ) -> None:
        self.url, self.curve = url, curve
        self.destination = request.destination
        self.namespace = request.destination.partition("/")[0]
        self.tenant = request.tenant
        self.needs_turn = request.tls is not None  # True until it has a turn to open a connection
        self.needs_new_connection = needs_new_connection
        self.is_withdrawn = False  # True if the request was not written, and may not be sent any more
        self._is_written = False  # aiohttp may write it twice: see the module's docstring
        self._ask_may_send = request.may_send
        self.is_bodiless = not request.body
        self.freed_descriptors = False
        """True if the process had no file descriptor left, so that idle connections were closed."""
        self.was_address_refused = False  # True if the guard refused an address of the URL's host
        self.made_socket = False  # True once a connection to an address began
        self.may_lack_curve = False  # True if the peer ended the TLS handshake, perhaps because it lacks the curve
        self._tls_seconds = 0.0
        self._limiter: ReceiveLimiter | None = None
        self._is_connection_kept = False

    def may_send(self) -> bool:
        """Return whether the request may be written now."""
        is_allowed = self._ask_may_send is None or self._ask_may_send()
        self.is_withdrawn = not is_allowed and not self._is_written
        self._is_written |= is_allowed
        return is_allowed

    def note_connection(self, limiter: ReceiveLimiter, *, is_kept: bool) -> None:
        """Record the request's connection. ``is_kept``: an earlier request has used it."""
        self._limiter = limiter
        self._is_connection_kept = is_kept

    @property
    def is_silent_on_kept_connection(self) -> bool:
        """True if the request went over a kept connection and the peer sent no byte."""
        return self._is_connection_kept and self._limiter is not None and self._limiter.received_bytes == 0

    def note_tls(self, seconds: float) -> None:
        """Note the CPU time that the TLS handshake, or reading over TLS, took."""
        self._tls_seconds += seconds

    @property
    def cpu_seconds(self) -> float:
        """CPU time that the TLS handshake and reading the answer have taken."""
        return self._tls_seconds + (self._limiter.cpu_seconds if self._limiter is not None else 0.0)

    def abort_connection(self) -> None:
        """Close the connection, if there is one, without waiting for unsent bytes."""
        if self._limiter is not None:
            self._limiter.abort()

    def error_code(self, error: Exception) -> SendError:
        """Map what aiohttp raised to a code."""
        if self._limiter is not None and self._limiter.is_over_limit:
            return SendError.BadAnswer
        match error:
            case TimeoutError():
                return self._timeout_code()
            case aiohttp.ClientConnectorCertificateError():
                return _CERTIFICATE_CODES.get(getattr(error.certificate_error, "verify_code", 0), SendError.TLSError)
            case aiohttp.ClientConnectorSSLError():
                self.may_lack_curve = getattr(error.os_error, "reason", None) is not None  # else this side ended it
                return SendError.TLSError
            case aiohttp.ClientConnectorDNSError():
                return SendError.NameNotResolved
            case aiohttp.ClientConnectorError():
                return self._connect_code(error.os_error)
            case aiohttp.ClientResponseError():
                return SendError.BadAnswer
            case aiohttp.InvalidURL() | ValueError():
                return SendError.BadRequest
        return SendError.Reset

    def _timeout_code(self) -> SendError:
        if self.needs_turn:
            return SendError.Timeout
        if not self.made_socket and self._limiter is None:
            return SendError.NameNotResolved
        # aiohttp does not tell whether a connection or its TLS handshake took too long.
        is_connecting = self._limiter is None and self.url.scheme == "http"
        return SendError.ConnectError if is_connecting else SendError.Timeout

    def _connect_code(self, error: OSError) -> SendError:
        if self.was_address_refused and not self.made_socket:
            return SendError.AddressForbidden
        ended_in_handshake = isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError))
        self.may_lack_curve = ended_in_handshake and self.url.scheme == "https"
        return SendError.TLSError if self.may_lack_curve else SendError.ConnectError


# What OpenSSL found wrong with a certificate. Source: `X509_V_ERR_…` in OpenSSL's `x509_vfy.h`.
_CERTIFICATE_CODES = {
    **dict.fromkeys((2, 18, 19, 20, 21), SendError.TLSAuthorityUnknown),
    **dict.fromkeys((62, 64), SendError.TLSNameMismatch),
    **dict.fromkeys((9, 10), SendError.TLSDateInvalid),
}


_current_attempt: contextvars.ContextVar[_Attempt] = contextvars.ContextVar("the attempt that the current task makes")


class _TurnNeededError(Exception):
    """There is no kept connection, and the attempt has no turn to open one."""


async def _check_turn(*_: object) -> None:
    """Part of a trace: aiohttp calls it before it opens a connection."""
    if _current_attempt.get().needs_turn:
        raise _TurnNeededError


class _AttemptResolver(AbstractResolver):
    """Resolves names for the current attempt's namespace."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Part of AbstractResolver."""
        return await self._resolver.resolve(host, port, family, namespace=_current_attempt.get().namespace)

    async def close(self) -> None:
        """Do nothing: ``DestinationClient`` closes its resolver."""


class _GuardedConnector(aiohttp.TCPConnector):
    """A connector that connects only to allowed addresses, and reuses only connections without unexpected bytes."""

    def __init__(self, *, guard: AddressGuard, resolver: Resolver, max_idle: int) -> None:
        super().__init__(
            resolver=_AttemptResolver(resolver),
            use_dns_cache=False,
            socket_factory=self._make_socket,
            limit=0,  # the dispatcher limits the attempts in flight
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        self._guard = guard
        self._max_idle = max_idle
        self._turns: dict[str, FairSlots] = collections.defaultdict(lambda: FairSlots(_OWN_HANDSHAKES))
        """Namespace -> turns for the attempts that connect with their own TLS settings."""
        self.idle: dict[ReceiveLimiter, None] = {}  # The connections that wait for a request
        self._idle_per_destination: dict[str, int] = {}

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - inherited
    ) -> Connection:
        """Return a connection for the current attempt: a kept one that is clean, or a new one."""
        attempt = _current_attempt.get()
        with contextlib.suppress(_TurnNeededError):
            return await self._connect(attempt, req, traces, timeout)
        owners = (attempt.destination, attempt.tenant)
        async with self._turns[attempt.namespace].hold(*owners, queue=owners):
            attempt.needs_turn = False
            return await self._connect(attempt, req, traces, timeout)

    async def _connect(
        self,
        attempt: _Attempt,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as `connect` has it
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            transport = connection.transport
            if transport is None:
                connection.close()
                raise aiohttp.ClientConnectionError("the peer closed the new connection")
            limiter = transport.get_protocol()
            is_kept = isinstance(limiter, ReceiveLimiter)
            if not isinstance(limiter, ReceiveLimiter):
                limiter = ReceiveLimiter(connection, attempt.destination, self._forget_idle)
                transport.set_protocol(limiter)
            self._forget_idle(limiter)
            # A new TLS connection is not quiet, because the peer sends its session tickets after the handshake.
            is_usable = not is_kept or (limiter.is_quiet and not attempt.needs_new_connection)
            if is_usable and limiter.is_clean:
                if attempt.is_bodiless and not attempt.may_send():  # write_bytes() is not called for an empty body
                    limiter.abort()
                    connection.close()
                    raise aiohttp.ClientConnectionError("the request may not be sent any more")
                limiter.begin(attempt.note_tls)
                connection.add_callback(functools.partial(self._finish, limiter))
                attempt.note_connection(limiter, is_kept=is_kept)
                return connection
            limiter.abort()
            connection.close()
            if not is_kept:
                raise aiohttp.ClientConnectionError("the peer spoke before it was asked")

    def _make_socket(self, address_info: aiohttp.AddrInfoType) -> socket.socket:
        """Make the socket for one address, if the guard allows it. aiohttp calls this right before it connects."""
        attempt = _current_attempt.get()
        family, kind, protocol, _, address = address_info
        host, port = str(address[0]), int(address[1])
        if self._guard.refusal(attempt.url.raw_host or "", port, host) is not None:
            attempt.was_address_refused = True
            raise OSError(errno.EACCES, "the address is forbidden")
        attempt.made_socket = True
        try:
            return socket.socket(family, kind, protocol)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                attempt.freed_descriptors = True
                self._abort_idle()
            raise

    def _finish(self, limiter: ReceiveLimiter) -> None:
        """Keep or abort a connection that aiohttp gives back.

        aiohttp closes a connection gracefully, which never ends if the peer does not read the rest of the request.
        """
        limiter.end()
        idle_here = self._idle_per_destination.get(limiter.destination, 0)
        has_room = len(self.idle) < self._max_idle and idle_here < MAX_IDLE_PER_DESTINATION
        if has_room and limiter.is_clean and limiter.has_sent_all:
            self.idle[limiter] = None
            self._idle_per_destination[limiter.destination] = idle_here + 1
        else:
            limiter.abort()

    def _forget_idle(self, limiter: ReceiveLimiter) -> None:
        if limiter in self.idle:
            del self.idle[limiter]
            idle_count = self._idle_per_destination[limiter.destination] - 1
            if idle_count:
                self._idle_per_destination[limiter.destination] = idle_count
            else:
                del self._idle_per_destination[limiter.destination]

    def _abort_idle(self) -> None:
        for limiter in list(self.idle):
            limiter.abort()
