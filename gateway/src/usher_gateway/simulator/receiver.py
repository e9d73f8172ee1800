"""A destination for tests and demonstrations: it counts, verifies signatures, and misbehaves on request."""

import asyncio
import ipaddress
import ssl
import time
from collections.abc import Callable
from typing import Self

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.simulator import books, receiving
from usher_gateway.timing import Clock

CONTROL_PATH = "/_control"  # POST to this path changes the behaviour; only from this machine
COUNTS_PATH = "/_counts"  # GET of this path returns the counts; only from this machine
MAX_BODY_BYTES = 16 * 1024 * 1024  # The receiver answers a larger body with 413 and does not keep it

_HANG_SECONDS = 3_600.0


class Received(msgspec.Struct, frozen=True):
    """A received request. Header names are in lower case; if there are several values, the last one is kept."""

    path: str
    """With the query, as sent."""
    method: str
    headers: dict[str, str]
    body: bytes
    signature: receiving.Signature | None
    """None if the receiver has no secrets."""
    at: int
    """When it was received (microseconds)."""


class ReceiverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver's settings. A signature may be from any secret in ``secrets``; without secrets nothing is verified."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    secrets: tuple[str, ...] = ()
    tolerance_seconds: float = receiving.TOLERANCE_SECONDS
    usual: receiving.Behaviour = receiving.Behaviour()
    keep: bool = False
    """Keep every complete request in memory, for tests."""
    tls_certificate: str = ""
    tls_key: str = ""


class Receiver:
    """Answers at any path. ``on_request`` is called with each complete request before the answer."""

    def __init__(
        self,
        settings: ReceiverSettings | None = None,
        clock: Clock | None = None,
        on_request: Callable[[Received], None] | None = None,
    ) -> None:
        """Read the secrets.

        Raises:
            ConfigurationError: a secret cannot be used.
        """
        self._settings = settings or ReceiverSettings()
        try:
            self._keys = [receiving.secret_key(secret) for secret in self._settings.secrets]
        except ValueError as error:
            hint = "give it as whsec_ and base64, as the sender shows it, or as plain text"
            raise model.ConfigurationError(str(error), hint) from error
        self._clock = clock or Clock()
        self._on_request = on_request
        self._rules = receiving.Rules(self._settings.usual)
        self._tally = receiving.ReceiverTally()
        self._kept: list[Received] = []
        self._runner: web.ServerRunner | None = None
        self._closing = asyncio.Event()
        self.port = 0

    async def start(self) -> None:
        """Start to listen.

        Raises:
            ConfigurationError: the port cannot be opened, or the certificate cannot be read.
        """
        context = _tls(self._settings)
        self._closing.clear()
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self.port or self._settings.port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            reason = f"cannot listen at {self._settings.host} port {self.port or self._settings.port}"
            raise model.ConfigurationError(reason, "choose a free port and an address of this machine") from error
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port and every connection. Counts stay, and a later start() uses the same port."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The receiver's URL, without a path."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{'https' if self._settings.tls_certificate else 'http'}://{host}:{self.port}"

    def counts(self, path: str) -> receiving.PathCounts:
        """Return a path's counts (without query)."""
        return self._tally.counts.get(path) or receiving.PathCounts()

    def all_counts(self) -> dict[str, receiving.PathCounts]:
        """Return every path's counts, in the order of their first request."""
        return dict(self._tally.counts)

    def taken_ids(self, path: str) -> dict[str, int]:
        """Return how often each ``webhook-id`` was answered with 2xx at a path."""
        return self._tally.taken_ids(path)

    def kept(self, path: str) -> list[Received]:
        """Return the kept requests to a path (without query)."""
        return [request for request in self._kept if request.path.partition("?")[0] == path]

    def set_behaviour(
        self,
        path: str,
        behaviour: receiving.Behaviour,
        *,
        after_seconds: float = 0.0,
        for_seconds: float | None = None,
    ) -> None:
        """Set a path's behaviour (or ``*``), optionally after a delay and for a limited time."""
        begins = time.monotonic() + after_seconds
        ends = float("inf") if for_seconds is None else begins + for_seconds
        self._rules.add(path, receiving.Rule(behaviour=behaviour, begins=begins, ends=ends))

    def command(self, command: receiving.Command) -> receiving.Behaviour:
        """Apply a command from the control endpoint; fields that it omits keep their value.

        Raises:
            ConfigurationError: no answer can have this behaviour.
        """
        try:
            behaviour = receiving.of_command(command, self._rules.at(command.path, time.monotonic()))
        except ValueError as error:
            raise model.ConfigurationError(str(error), "see docs/receive.md for what a receiver can do") from error
        after, duration = command.after_seconds, command.for_seconds
        self.set_behaviour(command.path, behaviour, after_seconds=after, for_seconds=duration)
        return behaviour

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        body = await _read(request)
        if body is None:
            return web.Response(status=413)
        if path in {CONTROL_PATH, COUNTS_PATH}:
            return self._inspect(request, path, body)
        behaviour = self._rules.at(path, time.monotonic())
        identifier = self._note(request, path, body)
        if behaviour.delay_seconds and await self._closes_within(behaviour.delay_seconds):
            return _cut(request)
        if behaviour.takes:
            self._tally.take(path, identifier)
        if behaviour.kind == "Hang":
            await self._closes_within(_HANG_SECONDS)
            return _cut(request)
        return web.Response(status=behaviour.status, headers=_headers(behaviour))

    def _note(self, request: web.BaseRequest, path: str, body: bytes) -> str:
        headers = {name.lower(): value for name, value in request.headers.items()}
        identifier = headers.get("webhook-id", "")
        now = self._clock.now()
        of_path = self._tally.receive(path, identifier, len(body), now)
        signature = None
        if self._keys:
            seconds = now / model.MICROSECONDS
            signature = receiving.verify(self._keys, headers, body, seconds, self._settings.tolerance_seconds)
            receiving.note_signature(of_path, signature)
        if self._settings.keep or self._on_request is not None:
            received = Received(request.raw_path, request.method, headers, body, signature, now)
            if self._settings.keep:
                self._kept.append(received)
            if self._on_request is not None:
                self._on_request(received)
        return identifier

    async def _closes_within(self, seconds: float) -> bool:
        """Wait for the seconds, or until the receiver stops; return whether it stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    def _inspect(self, request: web.BaseRequest, path: str, body: bytes) -> web.Response:
        if not _is_local(request.remote):
            return web.json_response({"detail": "only from this machine"}, status=403)
        if path == COUNTS_PATH and request.method == "GET":
            return web.Response(body=msgspec.json.encode(self.all_counts()), content_type="application/json")
        if path == CONTROL_PATH and request.method == "POST":
            return self._control(body)
        return web.json_response({"detail": f"POST {CONTROL_PATH} or GET {COUNTS_PATH}"}, status=405)

    def _control(self, body: bytes) -> web.Response:
        try:
            behaviour = self.command(msgspec.json.decode(body, type=receiving.Command))
        except msgspec.MsgspecError as error:
            return web.json_response({"detail": str(error)}, status=400)
        except model.ConfigurationError as error:
            return web.json_response({"detail": f"{error}; {error.hint}"}, status=400)
        return web.Response(body=msgspec.json.encode(behaviour), content_type="application/json")


async def _read(request: web.BaseRequest) -> bytes | None:
    """Return the body as sent, or None if it is too large. It is read to its end, so that the answer arrives."""
    parts = bytearray()
    size = 0
    async for part in request.content.iter_any():
        size += len(part)
        if size <= MAX_BODY_BYTES:
            parts += part
    return bytes(parts) if size <= MAX_BODY_BYTES else None


def _headers(behaviour: receiving.Behaviour) -> dict[str, str]:
    headers = {}
    if behaviour.retry_after:
        headers["Retry-After"] = behaviour.retry_after
    if behaviour.location:
        headers["Location"] = behaviour.location
    if behaviour.success_header and behaviour.status < 300:
        headers[books.SUCCESS_HEADER] = books.SUCCESS_VALUE
    return headers


def _cut(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection without an answer. aiohttp never writes the returned response."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _is_local(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


def _tls(settings: ReceiverSettings) -> ssl.SSLContext | None:
    if not settings.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key or None)
    except (OSError, ssl.SSLError) as error:
        hint = "give readable PEM files that belong together with --tls-cert and --tls-key"
        raise model.ConfigurationError("the certificate or its key cannot be read", hint) from error
    return context
